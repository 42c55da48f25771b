"""The report of a run, written from its results only: a page and a half, and the details behind it."""

from __future__ import annotations

import base64
import dataclasses
import html
import re
from collections import Counter
from pathlib import Path

from . import claims, curves, figure_style, pipeline, plots
from .files import read_json, write_json, write_text
from .inference import STAGES
from .results import PRIMARY, Results
from .runtime import Run

LEAD = "reasoned-33"

_STYLE = """body{font:16px/1.55 system-ui,"Noto Sans JP","Hiragino Sans",sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.6rem;line-height:1.25}h2{font-size:1.15rem;margin-top:1.8rem}img{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:.86rem;margin:.8rem 0}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{overflow-wrap:normal}td:first-child{min-width:7em}td:not(:nth-child(4)){word-break:normal;overflow-wrap:break-word}
.v{background:#eef4fa;border-left:4px solid #0072b2;padding:.7rem 1rem}
summary{cursor:pointer;font-weight:600;margin-top:2rem}
@page{margin:13mm}
@media print{body{margin:0;max-width:none;padding:0;font-size:9.5pt;line-height:1.4}h1{font-size:14pt;margin:0 0 .4em}h2{font-size:11pt;margin:.8em 0 .2em;break-after:avoid}
p{margin:.5em 0}table{font-size:8pt;margin:.4em 0}td,th{padding:.15em .5em}.v{padding:.4em .8em}img{display:block;max-height:48mm;max-width:75%;margin:auto}img[alt^="Paired"]{max-height:90mm}tr,img{break-inside:avoid}}"""


def headline(run: Run, results: Results) -> dict[str, str]:
    """The numbers that the run ends with, label → text with n and a 95 % interval."""
    found = {f"Translation, chrF++ of {r['label'].replace(' − ', ' minus ')}": _difference(r) for r in results.translation_gain[:2]}
    for row in results.stages:
        if row["stage"] in PRIMARY and row["set"] == _whole(results) and row["arm"] in ("base", "plain", LEAD) and row["own"]:
            asked = ", asked for Reasoning" if row["decoding"] == "asked" else ""
            found[f"{row['stage']} ({STAGES[row['stage']]}), {row['arm']}{asked}"] = _rate(row)
    for row in verdicts(results):
        found[f"Does Reasoning help? {row['stage']}, {row['set']} questions, {row['a']} against {row['b']}"] = (
            f"{row['outcome']}: {_difference(row)}, p={row['p_holm']:.3g} (Holm)"
        )
    return found


def _whole(results: Results) -> str:
    return "all" if any(r["set"] == "all" for r in results.stages) else "authored"


def _rate(row: dict) -> str:
    return f"{row['value']:.1f} % [{row['low']:.1f}, {row['high']:.1f}] n={row['n']}"


def _difference(row: dict) -> str:
    return f"{row['value']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] n={row['n']}"


def verdicts(results: Results) -> list[dict]:
    """The third with Reasoning against plain at the primary stages S2 and S4, a row a set of questions."""
    return [r for r in results.paired if r["b"] == "plain" and r["a"] == LEAD and r["stage"] in PRIMARY and (r["set"] != "all" or _whole(results) != "all")]


def answer(results: Results) -> str:
    """The verdict in one sentence."""
    words = {"improves": "improves the answers", "harms": "harms the answers"}
    kinds = {"authored": "on the questions written for this project", "control": "on the positive control (generated arithmetic and date problems)"}
    parts = []
    for which in ("authored", "control"):
        rows = {r["stage"]: r for r in verdicts(results) if r["set"] == which}
        if not rows:
            continue
        said = words.get(rows["S4"]["outcome"], "makes no detectable difference")
        numbers = [
            f"{r['value']:+.1f}{' points' * (stage == 'S4')} [{r['low']:+.1f}, {r['high']:+.1f}] {way} ({stage}; "
            + (r["outcome"] if r["outcome"] in words else f"p = {r['p_holm']:.2g} after correction, {r['mde']:.1f} points would have been found four times in five") + ")"
            for stage, way in (("S4", "in one call"), ("S2", "from the gold English")) if (r := rows.get(stage))
        ]
        parts.append(f"{kinds[which]} it {said}: {', '.join(numbers)}")
    if not parts:
        return "Only one arm was trained, so there is no verdict."
    return "Reasoning on a third of the training questions, against none: " + "; ".join(parts) + "."


def figures(run: Run, results: Results) -> dict[str, tuple[Path, Path]]:
    """Draw and save every figure of the report (PNG and SVG in `report/figures`), name → paths."""
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
        drawn["forest"] = plots.forest(pd.DataFrame(against_plain))
    if len({r["percent"] for r in results.dose}) > 2:
        drawn["dose"] = plots.dose(pd.DataFrame(results.dose))
    return {name: figure_style.save(figure, run.path("report", "figures"), name) for name, figure in drawn.items()}


def _log(run: Run, results: Results):
    """The training logs of the systems that the results are about: one that is still being trained would be compared by half a log."""
    log, evaluated = pipeline.log_frame(run), {(r["arm"], r["seed"]) for r in results.by_seed}
    return log[[job in evaluated for job in zip(log["arm"], log["seed"], strict=True)]]


def primary(results: Results) -> list[dict]:
    """Every arm against plain at S2 and S4, on the authored and the control questions apart: the rows of the forest plot."""
    rows = [r for r in results.paired if r["b"] == "plain" and r["stage"] in PRIMARY and (r["set"] != "all" or _whole(results) != "all")]
    order = {s: i for i, s in enumerate(("authored", "control"))}
    return [r | {"label": r["label"].replace(" − plain", "")} for r in sorted(rows, key=lambda r: (order[r["set"]], r["stage"]))]


def write(run: Run, results: Results, paths: dict[str, tuple[Path, Path]]) -> Path:
    """Write the report and what belongs to it into `report/`, and return that folder.

    `report.md` is the page and a half, `details.md` every table and figure behind it, `report.html` both in one self-contained file;
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
    yield "table", ("What the project began with", "On this model", "Measured"), [tuple(c.values()) for c in claims.claims(results, _log(run, results))]
    if "forest" in paths:
        yield "h2", "Against no Reasoning, question by question"
        yield "figure", "forest", "Paired differences between each arm and plain"
        yield "p", (
            "Colour: the difference holds after Holm's correction for all arms and stages compared on these questions; an interval is of one difference alone, "
            "so a grey one may lie beside zero."
        )
    yield "h2", "Where the multistep task breaks"
    yield "p", broken_step(results)
    yield "figure", "stages", "Accuracy at the stages S2 to S5 for each arm"
    yield "table", *_overview(results)
    if "seed_observation" in paths:
        yield "h2", "Loss curves"
        yield "figure", "seed_observation", "Training loss and answer-only loss of plain and reasoned arms"
    yield "h2", "Examples (one call, held-out questions)"
    yield "table", *_examples(results, 2)
    yield "h2", "Limits"
    each = Counter(arm for arm, _ in trained).values()
    seeds = max(each, default=0)
    uneven = "" if len(set(each)) == 1 else "An arm has between {} and {} of them, and a comparison takes those that both arms have: of an arm with one seed the interval covers the test items alone. ".format(min(each, default=0), seeds)
    yield (
        "p",
        ("One seed: the intervals cover the choice of test items, not that of the seed. " if seeds == 1 else
         f"{seeds} seeds: the intervals cover test items and seeds, the latter from few. {uneven}The third that carries Reasoning is the same in all. ")
        + "Exact match counts a right answer in other words as wrong unless it is a listed alias; the lenient score stands in the details. The base model "
        f"gets {run.recipe.few_shot} few-shot examples; the tuned arms get none."
        + (" The positive control's training and test problems come from one generator, with other words and numbers." if "control" in data else ""),
    )  # fmt: skip
    if results.older:
        yield "p", (
            f"Made by an earlier version of the code that trains and decodes, from the same data, model and settings: "
            f"{', '.join(results.older) if len(results.older) < 5 else f'{len(results.older)} of {len(trained) + 1} systems'}."
        )
    yield "p", "Sentence pairs: Tatoeba (tatoeba.org), CC BY 2.0 FR. Questions: this project, CC BY 4.0."


def _set_up(run: Run, results: Results, data: dict[str, int], trained: list[tuple[str, int]]) -> str:
    arm, seed = run.study.jobs[0]
    here = read_json(pipeline.arm_folder(run.with_seed(seed), arm) / "done.json")
    missing = len(run.study.jobs) - len(trained)
    return (
        f"Study {run.study.name}: {run.profile.name} ({run.profile.model.license}), NF4 with LoRA rank {run.recipe.rank}, on {here['device']} in "
        f"{here['precision']}; {len(trained)} training{'s' * (len(trained) != 1)} ({', '.join(dict.fromkeys(a for a, _ in run.study.jobs if a in dict(trained)))}; "
        f"seeds {', '.join(str(s) for s in sorted({s for _, s in trained}))})"
        + (f"; {missing} of the study's are still to come" if missing else "")
        + f". Trained on {run.recipe.train_pairs} Tatoeba pairs and {_training_size(run)} questions; tested on {results.translation[0]['n']} unseen pairs, "
        f"{data['authored']} unseen authored questions" + (f" and {data['control']} unseen problems of the positive control" if "control" in data else "")
        + ". An arm that learnt from Reasoning is asked for it (its Reasoning line is begun for it); plain answers in the format that it learnt."
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
        "A wrong one-call answer (S4) is laid to its first broken step: S2 (from the gold English) wrong means knowledge/reasoning, S2 right and S3 "
        f"(two calls, own translation) wrong means translation, S3 right and S4 wrong means chaining. Authored questions, {'; '.join(said)}."
        + (f" A reader who followed the chain from its beginning, without the rule's word, named the same step in {found['agree']:.0f} % of {found['n']} wrong "
           f"answers (Cohen's kappa {found['kappa']:.2f}): {_named(found['confusion'])}. The rule asks whether perfect English would have been answered rightly, "
           "the reader what goes wrong first; where they part, more than one step is broken." if (found := results.agreement) else "")
    )  # fmt: skip


def _named(confusion: list[dict]) -> str:
    counts: dict[str, int] = {}
    for row in confusion:
        counts[row["reader"]] = counts.get(row["reader"], 0) + row["n"]
    return ", ".join(f"{step} in {n}" for step, n in sorted(counts.items(), key=lambda item: -item[1]))


def _overview(results: Results) -> tuple[tuple[str, ...], list[tuple]]:
    """A row a system in the decoding of its own: exact match at S2 and S4, and how one-call answers are formed."""
    own = {(r["arm"], r["stage"], r["set"]): r for r in results.stages if r["own"]}
    sets = [s for s in ("authored", "control") if any(key[2] == s for key in own)]
    whole = _whole(results)
    rows = []
    for arm in dict.fromkeys(key[0] for key in own):
        values = [_rate(own[arm, stage, s]) for s in sets for stage in PRIMARY]
        formed = own[arm, "S4", whole]
        rows.append((arm, *values, f"{formed['well_formed']:.1f} %", f"{formed['truncated']:.1f} %"))
    return ("Exact match", *(f"{stage}, {s}" for s in sets for stage in PRIMARY), "S4 well-formed", "S4 cut off"), rows


def _examples(results: Results, most: int | None = None) -> tuple[tuple[str, ...], list[tuple]]:
    kept = list(dict.fromkeys(e["id"] for e in results.examples))[:most]
    return ("Question", "Gold", "System", "English / Reasoning / Answer", ""), [
        # The base model may go on with zeros to the end of its budget.
        (e["question"], e["gold"], e["system"], " / ".join(_short(e[part], 300 if part == "reasoning" else 120) for part in ("english", "reasoning", "answer") if e[part]),
         "right" if e["right"] else "wrong")
        for e in results.examples
        if e["id"] in kept
    ]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _details(run: Run, results: Results, paths: dict):
    seeds = max((r["seeds"] for r in results.paired), default=1)
    if "forest" in paths:
        yield "h2", "Every arm against plain, at the primary stages"
        yield (
            "table",
            ("Arm, stage, questions", "Difference, points", "By seed", "Only it right", "Only plain right", "p (Holm)", "Outcome", "Detectable from"),
            [
                (r["label"], _difference(r), " ".join(f"{d:+.1f}" for d in r["by_seed"]), r["only_a"], r["only_b"], f"{r['p_holm']:.3g}",
                 r["outcome"] + (" (one seed: its choice is not covered)" if r["seeds"] == 1 < seeds else ""),
                 f"{r['mde']:.1f} points")
                for r in primary(results)
            ],
        )  # fmt: skip
    if "dose" in paths:
        shared = max(r["seeds"] for r in results.dose)
        yield "p", f"Over the {'seed' if shared == 1 else f'{shared} seeds'} that every dose has:"
        yield "figure", "dose", "Accuracy against the share of training questions with Reasoning"
    yield "h2", "Every stage"
    yield "figure", "broken_steps", "S4 outcomes by first broken step for each arm"
    yield (
        "table",
        ("Arm", "Decoding", "Stage", "Questions", "Exact match", "Lenient", "Well-formed", "Cut off", "With Reasoning"),
        [
            (r["arm"], r["decoding"], r["stage"], r["set"], _rate(r), *(f"{r[k]:.1f} %" for k in ("lenient", "well_formed", "truncated", "reasoned")))
            for r in results.stages
            if r["set"] != "all" or _whole(results) != "all"
        ],
    )
    if results.agreement:
        rows = [(r["rule"], r["reader"], r["n"]) for r in results.agreement["confusion"]]
        yield "table", ("First broken step by the rule", "By a reader", "Wrong one-call answers"), rows
    yield "figure", "categories", "S4 accuracy by category and arm"
    yield "h2", "Translation of unseen Tatoeba pairs"
    yield "figure", "translation", "chrF++ of base and tuned models"
    yield (
        "table",
        ("Against the base's best prompt", "chrF++ points", "p"),
        [(r["label"], _difference(r), f"{r['p']:.3g}") for r in results.translation_gain],
    )
    yield "p", "chrF++ " + results.signatures["chrF++"] + " · BLEU " + results.signatures["BLEU"]
    yield "h2", "Loss curves"
    yield "figure", "loss_curves", "Training loss and dev losses of each arm"
    yield "h2", "Examples (one call, held-out questions)"
    yield "table", *_examples(results)


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
    if kind == "figure":
        return f"![{block[2]}](figures/{paths[block[1]][0].name})" if block[1] in paths else ""
    if kind == "link":
        return f"[{text}]({block[2]})"
    if kind == "table":
        rows = [block[1], ["---"] * len(block[1]), *block[2]]
        return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)
    return text


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
    if kind == "figure":
        if block[1] not in paths:
            return ""
        data = base64.b64encode(paths[block[1]][0].read_bytes()).decode()
        return f'<p><img alt="{html.escape(block[2])}" src="data:image/png;base64,{data}"></p>'
    head = "".join(f"<th>{html.escape(c)}</th>" for c in block[1])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in block[2])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
