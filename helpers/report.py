"""The report of a run, written from its results only: a page or two, and the details behind it."""

from __future__ import annotations

import base64
import dataclasses
import html
import re
from collections import Counter
from pathlib import Path

from . import claims, curves, figure_style, pipeline, plots, profiles, studies
from .files import read_json, write_json, write_text
from .inference import STAGES
from .results import CONTROLS, LEAD, PRIMARY, Results
from .runtime import Run

MOST_ROWS = 12  # of the forest plot on the page

_STYLE = """body{font:16px/1.55 system-ui,"Noto Sans JP","Hiragino Sans",sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.6rem;line-height:1.25}h2{font-size:1.15rem;margin-top:1.8rem}img{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:.86rem;margin:.8rem 0}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{overflow-wrap:normal}td:first-child{min-width:7em}td:not(:nth-child(4)){word-break:normal;overflow-wrap:break-word}
.v{background:#eef4fa;border-left:4px solid #0072b2;padding:.7rem 1rem}
summary{cursor:pointer;font-weight:600;margin-top:2rem}
@page{margin:12mm}
@media print{body{margin:0;max-width:none;padding:0;font-size:9pt;line-height:1.36}h1{font-size:13pt;margin:0 0 .4em}h2{font-size:10.5pt;margin:.6em 0 .2em;break-after:avoid}
p{margin:.4em 0}summary{margin-top:.6em}table{font-size:7.5pt;margin:.4em 0;clear:both}td,th{padding:.1em .35em}.v{padding:.4em .8em}img{display:block;max-height:48mm;max-width:75%;margin:auto}img[alt^="Paired"],img[alt^="Accuracy at the stages"]{float:left;max-height:98mm;max-width:54%;margin:0 4mm 1mm 0}details img[alt^="Paired"]{float:none;max-height:150mm;max-width:75%;margin:auto}h2{clear:both}tr,img{break-inside:avoid}}"""


def headline(run: Run, results: Results) -> dict[str, str]:
    """The numbers that the run ends with, label → text with n and a 95 % interval."""
    found = {f"Translation, chrF++ of {r['label'].replace(' − ', ' minus ')}": _difference(r) for r in results.translation_gain[:2]}
    for row in results.stages:
        if row["stage"] in PRIMARY and row["set"] == _whole(results) and row["arm"] in ("base", "plain", LEAD) and row["own"]:
            asked = ", asked for Reasoning" if row["decoding"] == "asked" else ""
            found[f"{row['stage']} ({STAGES[row['stage']]}), {row['arm']}{asked}"] = _rate(row)
    for row in verdicts(results):
        found[f"Does Reasoning help? {row['stage']}, {row['set']} questions, {row['a']} against {row['b']}"] = (
            f"{_outcome(row)}: {_difference(row)}, p={row['p_holm']:.3g} (Holm)"
        )
    return found


def _whole(results: Results) -> str:
    return "all" if any(r["set"] == "all" for r in results.stages) else "authored"


def _rate(row: dict) -> str:
    return f"{row['value']:.1f} % [{row['low']:.1f}, {row['high']:.1f}] n={row['n']}"


def _difference(row: dict) -> str:
    return f"{row['value']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] n={row['n']}"


def _points(row: dict, unit: str = " points") -> str:
    return f"{row['value']:+.1f}{unit} [{row['low']:+.1f}, {row['high']:+.1f}]"


def _outcome(row: dict) -> str:
    """The outcome; of a difference whose interval leaves out zero and whose corrected p-value does not, with the reason."""
    apart = row["low"] > 0 or row["high"] < 0
    return row["outcome"] + (" (not significant after correction)" if apart and row["outcome"] not in ("improves", "harms") else "")


def verdicts(results: Results) -> list[dict]:
    """The third with Reasoning against plain at the primary stages S2 and S4, a row a set of questions."""
    return [r for r in _apart(results, results.paired) if r["b"] == "plain" and r["a"] == LEAD and r["stage"] in PRIMARY]


def answer(results: Results) -> str:
    """The verdict in one sentence."""
    kinds = {"authored": "on the {n} questions written for this project", "control": "on the {n} problems of the positive control (generated arithmetic and dates)"}
    parts = []
    for which in ("authored", "control"):
        rows = {r["stage"]: r for r in verdicts(results) if r["set"] == which}
        if rows:
            said = [f"{_points(rows[s])} {way} ({s}): {_said(rows[s])}" for s, way in (("S4", "in one call"), ("S2", "from the gold English"))]
            parts.append(f"{kinds[which].format(n=rows['S4']['n'])}, {', and '.join(said)}")
    if not parts:
        return "Only one arm was trained, so there is no verdict."
    return "Reasoning on a third of the training questions, against none: " + "; ".join(parts) + "."


def _said(row: dict) -> str:
    """The outcome in the words of a sentence: what could have been found where nothing was, and why an interval beside zero is nothing."""
    if row["outcome"] in ("improves", "harms"):
        return row["outcome"]
    if row["low"] > 0 or row["high"] < 0:
        return f"not significant after correction (p = {row['p_holm']:.3f}), so by the preset rule no detectable difference"
    if row["mde"] == float("inf"):
        return "no detectable difference (in questions too few to detect any)"
    return f"no detectable difference (in a single comparison at 5 %, {row['mde']:.1f} points would have been found four times in five)"


def figures(run: Run, results: Results) -> dict[str, tuple[Path, Path, str]]:
    """Draw and save every figure of the report (in `report/figures`), name → its PNG, its SVG and its alternative text."""
    import pandas as pd

    log = _log(run, results)
    stages, groups = pd.DataFrame(results.stages), pd.DataFrame(results.groups)
    groups = groups[(groups["stage"] == "S4") & (groups["by"] == "category") & groups["arm"].isin(["base", "plain", LEAD])]
    drawn = {
        "loss_curves": curves.loss_curves(log),
        "translation": plots.translation(pd.DataFrame(results.translation)),
        "stages": plots.stages(stages[stages["own"] & (stages["set"] == "authored")]),
        "categories": plots.by_category(groups.rename(columns={"group": "category"})),
        "broken_steps": plots.broken_steps(pd.DataFrame(results.broken)),
    }
    if LEAD in set(log["arm"]):
        drawn["seed_observation"] = curves.seed_observation(log)
    against_plain = primary(results)
    if against_plain:
        shown = _most_seeds(against_plain)
        drawn["forest"] = plots.forest(pd.DataFrame(shown))
        if len(shown) < len(against_plain):
            drawn["forest_all"] = plots.forest(pd.DataFrame(against_plain))
    if len({r["percent"] for r in results.dose}) > 2:
        drawn["dose"] = plots.dose(pd.DataFrame(results.dose))
    folder = run.path("report", "figures")
    return {name: (*figure_style.save(figure, folder, name), figure_style.alt_text(figure)) for name, figure in drawn.items()}


def _log(run: Run, results: Results):
    """The training logs of the systems that the results are about: one that is still being trained would be compared by half a log."""
    log, evaluated = pipeline.log_frame(run), {(r["arm"], r["seed"]) for r in results.by_seed}
    return log[[job in evaluated for job in zip(log["arm"], log["seed"], strict=True)]]


def primary(results: Results) -> list[dict]:
    """Every arm against plain at S2 and S4, on the authored and the control questions apart: the rows of the forest plots."""
    rows = [r for r in _apart(results, results.paired) if r["b"] == "plain" and r["stage"] in PRIMARY]
    order = {s: i for i, s in enumerate(("authored", "control"))}
    return [r | {"label": r["label"].replace(" − plain", "")} for r in sorted(rows, key=lambda r: (order[r["set"]], r["stage"]))]


def _apart(results: Results, rows: list[dict]) -> list[dict]:
    """Rows of the authored and the control questions, not of both together, where there are both."""
    return [r for r in rows if r["set"] != "all" or _whole(results) != "all"]


def _most_seeds(rows: list[dict]) -> list[dict]:
    """The rows over the most seeds where there are too many for the page; else all."""
    return [r for r in rows if len(rows) <= MOST_ROWS or r["seeds"] == max(r["seeds"] for r in rows)]


def command(run: Run) -> str:
    """The command that makes this report on a machine like the one it was made on; empty where the run was begun with other settings than a command gives."""
    name, profile = run.study.name, run.profile.name
    if profile not in profiles.PROFILES or run.profile != profiles.choose(profile).replace(**dict(run.study.recipe)):
        return ""
    made = f"study {name}" if (studies.FOLDER / f"{name}.toml").exists() else f"study {name}.toml"
    made = "run" if name == "quick" and run.folder.name != name else made
    on_gpu = not _trained_with(run)["device"].startswith("CPU")
    auto = profiles.choose(run.study.profile, on_gpu).name
    return f"python3 -m helpers {made}" + (f" --profile {profile}" if profile != auto else "")


def _trained_with(run: Run) -> dict:
    arm, seed = run.study.jobs[0]
    return read_json(pipeline.arm_folder(run.with_seed(seed), arm) / "done.json")


def write(run: Run, results: Results, paths: dict[str, tuple[Path, Path, str]]) -> Path:
    """Write the report and what belongs to it into `report/`, and return that folder.

    `report.md` is the page or two, `details.md` every table and figure behind it, `report.html` both in one self-contained file;
    beside them `headline.json`, `results.json` and the training log.
    """
    folder = run.path("report")
    numbers = headline(run, results)
    page, more = list(_blocks(run, results, paths)), list(_details(run, results, paths))
    for name, blocks in (("report.md", [*page, _SEE]), ("details.md", [("h1", "Behind the report: every table and figure"), *more])):
        write_text(folder / name, "\n\n".join(filter(None, (_markdown(b, paths) for b in blocks))) + "\n")
    first, rest = ("\n".join(_html(b, paths) for b in blocks) for blocks in (page, more))
    title = html.escape(page[0][1])
    write_text(
        folder / "report.html",
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><body>\n{first}\n"
        f"<details><summary>Every table and figure behind this page</summary>\n{rest}\n</details></body></html>\n",
    )
    pipeline.export_log(run)
    write_json(folder / "results.json", dataclasses.asdict(results))
    write_json(folder / "headline.json", numbers)
    return folder


_SEE = ("link", "Every table and figure behind this page", "details.md")


def _blocks(run: Run, results: Results, paths: dict):
    data = {r["set"]: r["n"] for r in results.stages}
    trained = sorted({(r["arm"], r["seed"]) for r in results.by_seed if r["arm"] != "base"})
    yield "h1", "Does adding Reasoning to a third of a small data set make a small model answer better?"
    yield "verdict", answer(results)
    yield "p", _set_up(run, results, data, trained)
    if command(run):
        yield "command", command(run)
    yield "table", ("What the project began with", "On this model", "Measured"), [tuple(c.values()) for c in claims.claims(results, _log(run, results))]
    if "forest" in paths:
        yield "h2", "Against no Reasoning, question by question"
        yield "figure", "forest", "Paired differences between each arm and plain"
        yield "p", (
            "Colour: the difference holds after Holm's correction over arms and stages. An interval is of one difference alone, so a grey one may lie beside zero."
            + (f" Shown are arms with {max(r['seeds'] for r in primary(results))} seeds; the others are in the details." if "forest_all" in paths else "")
        )
    for sentence in filter(None, (_not_length(results), _alone(results))):
        yield "p", sentence
    yield "h2", "Where the multistep task breaks"
    yield "figure", "stages", "Accuracy at the stages S2 to S5 for each arm"
    yield "p", broken_step(results)
    yield "table", *_overview(results)
    if "seed_observation" in paths:
        yield "h2", "Loss curves"
        yield "figure", "seed_observation", "Training loss and answer-only loss of plain and reasoned arms"
    yield "h2", "Examples (one call, held-out questions)"
    yield "table", *_examples(results, short=True)
    yield "h2", "Limits"
    yield "p", _limits(run, results, trained)
    if results.older:
        yield "p", (
            f"Made by an earlier version of the code that trains and decodes, from the same data, model and settings: "
            f"{', '.join(results.older) if len(results.older) < 5 else f'{len(results.older)} of {len(trained) + 1} systems'}."
        )
    yield "p", "Sentence pairs: Tatoeba (tatoeba.org), CC BY 2.0 FR. Questions: this project, CC BY 4.0."


def _limits(run: Run, results: Results, trained: list[tuple[str, int]]) -> str:
    each = Counter(arm for arm, _ in trained).values()
    least, seeds = min(each, default=0), max(each, default=0)
    said = ["One seed: the accuracy intervals cover the choice of test items, not that of the seed."]
    if seeds > 1:
        said = [f"{seeds} seeds: the accuracy intervals cover test items and seeds, the latter from few."]
        if least < seeds:
            said.append(f"An arm has between {least} and {seeds} of them; with one seed, test items alone are covered.")
        said.append("The third that carries Reasoning is the same in all.")
    said.append("Intervals of chrF++ cover sentences only, that of the loss claim steps only.")
    if other := [r for r in primary(results) if r["outcome"] != r["outcome_arms"]]:
        names = ", ".join(f"{r['label']} would be “{r['outcome_arms']}” (p = {r['p_arms']:.2g})" for r in other)
        said.append(f"Outcomes are corrected over arms and both stages; over arms alone {names}.")
    elif results.paired:
        said.append("Outcomes are corrected over arms and both stages; over arms alone all would be the same.")
    if arms := _rises(run):
        said.append(f"The learning rate of {', '.join(arms)} rises again where the steps shared with the other arms end (trained by earlier code): these differ from plain in that too.")
    said.append("Exact match counts a right answer in other words as wrong unless it is a listed alias (lenient scores: details).")
    said.append(f"The base model gets {run.recipe.few_shot} few-shot examples, tuned arms none.")
    if any(r["set"] == "control" for r in results.stages):
        said.append("The positive control's training and test problems come from one generator, with other words and numbers.")
    return " ".join(said)


def _rises(run: Run) -> list[str]:
    """Arms whose learning rate rises again after its peak: a schedule that is not one."""
    found = {}
    for (arm, _), rows in pipeline.training_logs(run).items():
        rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
        after = rates[rates.index(max(rates)) :] if rates else []
        if any(b > a for a, b in zip(after, after[1:], strict=False)):
            found[arm] = None
    return list(found)


def _not_length(results: Results) -> str:
    """Is it what the rationales say, or their length? The lead arm against the controls of length, on the questions where Reasoning should help most."""
    rows = {which: [r for r in results.controls if r["set"] == which] for which in ("control", "authored")}
    which = "control" if rows["control"] else "authored"
    if {r["b"] for r in rows[which]} != set(CONTROLS):
        return ""
    what = {"shuffled-33": "rationales of other records", "plain-token-matched": "as many target tokens"}
    found = {(r["b"], r["stage"]): r for r in rows[which]}
    said = ", ".join(f"over {b} ({what[b]}) {_points(found[b, 'S4'])} in S4, {_points(found[b, 'S2'], '')} in S2" for b in CONTROLS)
    better = sum(r["outcome"] == "improves" for r in rows[which])
    # All of them: a gain over one control alone could be that control's loss.
    head = "What is said in the rationales helps, not their length" if better == len(rows[which]) else "That what is said in the rationales helps, not their length, is not shown"
    said = f"{head}: {LEAD} on the {'positive control' if which == 'control' else 'authored questions'} {said} (n={rows[which][0]['n']}; {better} of {len(rows[which])} improve after correction)."
    if which == "control" and rows["authored"]:
        found_any = sum(r["outcome"] in ("improves", "harms") for r in rows["authored"])
        said += f" On the authored questions {found_any or 'none'} of the {len(rows['authored'])} differences {'is' if found_any < 2 else 'are'} detectable."
    return said


def _alone(results: Results) -> str:
    """Does the arm differ from plain when it is not asked for Reasoning? The lead arm, authored questions."""
    own = {r["stage"]: r for r in verdicts(results) if r["set"] == "authored"}
    rows = [r for r in results.left_alone if r["set"] == "authored" and r["a"] == LEAD]
    alone, asked = ({r["stage"]: r for r in rows if (r["b"] == LEAD) == itself} for itself in (False, True))
    if not own or not alone:
        return ""
    outcomes = " and ".join(dict.fromkeys(_outcome(alone[s]) for s in ("S4", "S2")))
    said = f"Left alone, not asked for Reasoning, {LEAD} against plain on the authored questions: {_points(alone['S4'])} in S4, {_points(alone['S2'], '')} in S2 ({outcomes}"
    harmed = [s for s in PRIMARY if own[s]["outcome"] == "harms" and alone[s]["outcome"] != "harms"]
    effect = [f"{_points(asked[s])} in {s} ({_outcome(asked[s])})" for s in harmed]
    tail = f" Asked against left alone, the same adapters: {', '.join(effect)}" if harmed else ""
    tail += ", so the harm is an effect of asking." if harmed and all(asked[s]["outcome"] == "harms" for s in harmed) else "." if harmed else ""
    return f"{said}; n={alone['S4']['n']}).{tail}"


def _set_up(run: Run, results: Results, data: dict[str, int], trained: list[tuple[str, int]]) -> str:
    here = _trained_with(run)
    missing = len(run.study.jobs) - len(trained)
    return (
        f"Study {run.study.name}: {run.profile.name} ({run.profile.model.license}), NF4 with LoRA rank {run.recipe.rank}, on {here['device']} in "
        f"{here['precision']}; {len(trained)} training{'s' * (len(trained) != 1)} ({', '.join(dict.fromkeys(a for a, _ in run.study.jobs if a in dict(trained)))}; "
        f"seeds {', '.join(str(s) for s in sorted({s for _, s in trained}))})"
        + (f"; {missing} of the study's are still to come" if missing else "")
        + f". Trained on {run.recipe.train_pairs} Tatoeba pairs and {_training_size(run)} questions; tested on unseen ones: {results.translation[0]['n']} pairs, "
        f"{data['authored']} authored questions" + (f", {data['control']} problems of the positive control" if "control" in data else "")
        + ". An arm that learnt from Reasoning is asked for it: its Reasoning line is begun for it."
    )  # fmt: skip


def broken_step(results: Results) -> str:
    """Which step the wrong one-call answers to authored questions break at, in a sentence an arm."""
    said = []
    for arm in dict.fromkeys(r["arm"] for r in results.broken):
        if arm in ("plain", LEAD):
            counts = {r["step"]: r["n"] for r in results.broken if r["arm"] == arm}
            wrong = sum(counts.values()) - counts["right"]
            shares = ", ".join(f"{100 * n / max(1, wrong):.0f} % at {step}" for step, n in counts.items() if step != "right")
            said.append(f"{arm}: {shares} (n={wrong})")
    return (
        "A wrong one-call answer (S4) is laid to its first broken step: S2 (gold English) wrong: knowledge/reasoning; S2 right, S3 (own translation, "
        f"two calls) wrong: translation; S3 right: chaining. Authored questions, {'; '.join(said)}."
        + (f" A reader, blind to the rule, named the same step in {found['agree']:.0f} % of {found['n']} wrong answers [{found['low']:.0f}, {found['high']:.0f}] "
           f"({', '.join('{n} of {arm} seed {seed}'.format(**s) for s in found['systems'])}; Cohen's kappa {found['kappa']:.2f}) and blamed {_named(found['confusion'])}: "
           "the rule asks whether perfect English would have been answered rightly, the reader what goes wrong first." if (found := results.agreement) else "")
    )  # fmt: skip


def _named(confusion: list[dict]) -> str:
    counts: dict[str, int] = {}
    for row in confusion:
        counts[row["reader"]] = counts.get(row["reader"], 0) + row["n"]
    return ", ".join(f"{step} in {n}" for step, n in sorted(counts.items(), key=lambda item: -item[1]))


def _overview(results: Results) -> tuple[tuple[str, ...], list[tuple]]:
    """A row a system in the decoding of its own: exact match at S2 and S4, and how one-call answers to the authored questions are formed."""
    own = {(r["arm"], r["stage"], r["set"]): r for r in results.stages if r["own"]}
    sets = [s for s in ("authored", "control") if any(key[2] == s for key in own)]
    rows, sizes = [], {}
    for arm in dict.fromkeys(key[0] for key in own):
        values = [own[arm, stage, s] for s in sets for stage in PRIMARY]
        sizes |= {f"{r['stage']}, {r['set']}": r["n"] for r in values}
        formed = own[arm, "S4", "authored"]
        rows.append((arm, *map(_percent, values), f"{formed['well_formed']:.1f} %", f"{formed['truncated']:.1f} % ({formed['looped']:.1f} %)"))
    return ("Exact match, %", *(f"{name} (n={n})" for name, n in sizes.items()), "S4 well-formed, authored", "S4 cut off (in a loop), authored"), rows


def _percent(row: dict) -> str:
    return f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def _examples(results: Results, short: bool = False) -> tuple[tuple[str, ...], list[tuple]]:
    """One-call outputs, a row a system; `short`: of one question that the last system got right and one that it did not."""
    last = {e["id"]: e["right"] for e in results.examples}
    kept = {next((i for i, ok in last.items() if ok == wanted), "") for wanted in (True, False)} if short else last
    # The base model may go on with zeros to the end of its budget.
    most = {"english": 120, "reasoning": 160 if short else 300, "answer": 40 if short else 120}
    return ("Question", "Gold", "System", "English / Reasoning / Answer", ""), [
        (e["question"], e["gold"], e["system"], " / ".join(_short(e[part], 30 if short and e["system"] == "base" else size) for part, size in most.items() if e[part]),
         "right" if e["right"] else "wrong")
        for e in results.examples
        if e["id"] in kept
    ]  # fmt: skip


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _details(run: Run, results: Results, paths: dict):
    if "forest" in paths:
        yield "h2", "Every arm against plain, at the primary stages"
        yield "figure", "forest_all", "Paired differences between every arm and plain"
        yield from _paired_table(primary(results), "arms and both stages")
    if results.controls:
        yield "h2", "Is it what the rationales say, or their length?"
        yield from _paired_table(_apart(results, results.controls), "both controls and both stages")
    if results.left_alone:
        yield "h2", "Left alone: the arms with Reasoning when they are not asked for it"
        yield from _paired_table(_apart(results, results.left_alone), "arms and both stages against one opponent")
    if "dose" in paths:
        shared = max(r["seeds"] for r in results.dose)
        yield "p", f"Over the {'seed' if shared == 1 else f'{shared} seeds'} that every dose has:"
        yield "figure", "dose", "Accuracy against the share of training questions with Reasoning"
    yield "h2", "Every stage"
    yield "figure", "broken_steps", "S4 outcomes by first broken step for each arm"
    yield (
        "table",
        ("Arm", "Decoding", "Stage", "Questions", "Exact match", "Lenient", "Well-formed", "Cut off", "In a loop", "With Reasoning"),
        [
            (r["arm"], r["decoding"], r["stage"], r["set"], _rate(r), *(f"{r[k]:.1f} %" for k in ("lenient", "well_formed", "truncated", "looped", "reasoned")))
            for r in _apart(results, results.stages)
        ],
    )
    if results.agreement:
        rows = [(r["rule"], r["reader"], r["n"]) for r in results.agreement["confusion"]]
        yield "table", ("First broken step by the rule", "By a reader", "Wrong one-call answers"), rows
        if results.agreement["systems"]:
            yield "p", "Judged were " + ", ".join("{n} answers of {arm} seed {seed}".format(**s) for s in results.agreement["systems"]) + "."
    yield "figure", "categories", "S4 accuracy by category and arm"
    yield "p", "By difficulty, authored questions, exact match in %:"
    yield "table", *_by_difficulty(results)
    yield "h2", "Translation of unseen Tatoeba pairs"
    yield "figure", "translation", "chrF++ of base and tuned models"
    yield (
        "table",
        ("System", "chrF++", "BLEU", "Cut off", "Seeds"),
        [(r["system"], f"{_percent(r)} n={r['n']}", f"{r['bleu']:.1f}", f"{r['truncated']:.1f} %", r["seeds"]) for r in results.translation],
    )
    for name, rows in (("Against the base's best prompt", results.translation_gain), ("Against plain", results.translation_paired)):
        if rows:
            extra = ("p (Holm)",) if "p_holm" in rows[0] else ()
            yield "table", (name, "chrF++ points", "p", *extra, "Seeds"), [
                (r["label"], _difference(r), f"{r['p']:.3g}", *(f"{r['p_holm']:.3g}" for _ in extra), r["seeds"]) for r in rows
            ]
    yield "h2", "Translation of the authored questions (S1)"
    yield "table", ("System", "chrF++", "BLEU", "Seeds"), [(r["system"], f"{_percent(r)} n={r['n']}", f"{r['bleu']:.1f}", r["seeds"]) for r in results.question_translation]
    yield "p", "chrF++ " + results.signatures["chrF++"] + " · BLEU " + results.signatures["BLEU"] + ". Means over the seeds; intervals and p are of the paired bootstrap over sentences."
    yield "h2", "Loss curves"
    yield "figure", "loss_curves", "Training loss and dev losses of each arm"
    yield "h2", "Examples (one call, held-out questions)"
    yield "table", *_examples(results)
    if results.broken_examples:
        yield "h2", f"Examples of each broken step ({results.broken_examples[0]['arm']})"
        yield "table", ("First broken step", "Question", "Gold", "Own translation (S1) / Reasoning (S4)", "Answers"), [
            (r["step"], f"{r['question']} / {r['en']}", r["gold"], " / ".join(_short(r[k], most) for k, most in (("english", 120), ("reasoning", 300)) if r[k]),
             " ".join(f"{s}: {_short(r[s], 120)}." for s in ("S2", "S3", "S4")) + f" (seed {r['seed']})")
            for r in results.broken_examples
        ]  # fmt: skip


def _paired_table(rows: list[dict], correction: str):
    seeds = max((r["seeds"] for r in rows), default=1)
    yield (
        "table",
        ("Difference", "Points", "By seed", "Right only with one", "p", "p (Holm)", "p over arms", "Outcome", "MDE"),
        [
            (r["label"], _difference(r), " ".join(f"{d:+.1f}" for d in r["by_seed"]), f"{r['only_a']} : {r['only_b']}", *(f"{r[p]:.2g}" for p in ("p", "p_holm", "p_arms")),
             _outcome(r) + (", one seed" if r["seeds"] == 1 < seeds else ""), "none" if r["mde"] == float("inf") else f"{r['mde']:.1f}")
            for r in rows
        ],
    )  # fmt: skip
    yield "p", (
        f"p (Holm) is corrected over {correction} of a set of questions, and the outcome goes by it; p over arms is corrected within a stage. MDE, points: what a single "
        "comparison at 5 % finds with 80 % power. The choice of a single seed is not covered."
    )


def _by_difficulty(results: Results) -> tuple[tuple[str, ...], list[tuple]]:
    found = {(r["arm"], r["stage"], r["group"]): r for r in results.groups if r["by"] == "difficulty"}
    columns = {(s, g): r["n"] for (_, s, g), r in found.items()}
    columns = {key: columns[key] for key in sorted(columns, key=lambda key: key[0])}
    return ("Arm", *(f"{s}, {g} (n={n})" for (s, g), n in columns.items())), [
        (arm, *(_percent(found[arm, *key]) for key in columns)) for arm in dict.fromkeys(arm for arm, _, _ in found)
    ]


def _training_size(run: Run) -> int:
    return read_json(run.path("reasoning", "augmentation.json"))["questions"]


def _markdown(block: tuple, paths: dict) -> str:
    kind, text = block[0], html.escape(str(block[1]), quote=False)
    if kind == "h1":
        return f"# {text}"
    if kind == "h2":
        return f"## {text}"
    if kind == "verdict":
        return f"> **{text}**"
    if kind == "command":
        return f"Made with `{text}`."
    if kind == "figure":
        # Brackets would end the text of the image.
        return f"![{_cell(_alt(block, paths).translate(str.maketrans('[]', '()')))}](figures/{paths[block[1]][0].name})" if block[1] in paths else ""
    if kind == "link":
        return f"[{text}]({block[2]})"
    if kind == "table":
        rows = [block[1], ["---"] * len(block[1]), *block[2]]
        return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)
    return text


def _alt(block: tuple, paths: dict) -> str:
    """What a figure shows, then its numbers: the caption of its block and the alternative text it was drawn with."""
    return f"{block[2]}. {paths[block[1]][2]}"


def _cell(value: object) -> str:
    """Text for a cell of a Markdown table; Markdown passes HTML through, so it is escaped here too."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    # "](" would make a link, or fetch an image from elsewhere, out of what a model wrote.
    return re.sub(r"([\\|`*_])", r"\\\1", text).replace("](", "]\\(")


def _html(block: tuple, paths: dict) -> str:
    kind = block[0]
    if kind in ("h1", "h2", "p"):
        return f"<{kind}>{html.escape(block[1])}</{kind}>"
    if kind == "verdict":
        return f'<p class="v"><strong>{html.escape(block[1])}</strong></p>'
    if kind == "command":
        return f"<p>Made with: {html.escape(block[1])}</p>"
    if kind == "figure":
        if block[1] not in paths:
            return ""
        data = base64.b64encode(paths[block[1]][0].read_bytes()).decode()
        return f'<p><img alt="{html.escape(_alt(block, paths))}" src="data:image/png;base64,{data}"></p>'
    head = "".join(f"<th>{html.escape(c)}</th>" for c in block[1])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in block[2])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
