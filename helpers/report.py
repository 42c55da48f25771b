"""The report of a run, written from its results only: `report.md`, a self-contained `report.html`, `headline.json`, figures."""

from __future__ import annotations

import base64
import dataclasses
import html
import re
from pathlib import Path

from . import figure_style, pipeline, plots
from .evaluation import Results
from .files import read_json, write_json, write_text
from .inference import STAGES
from .runtime import Run

_STYLE = """body{font:16px/1.55 system-ui,"Noto Sans JP","Hiragino Sans",sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.6rem;line-height:1.25}h2{font-size:1.15rem;margin-top:1.8rem}img{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:.86rem;margin:.8rem 0}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left;vertical-align:top}
.v{background:#eef4fa;border-left:4px solid #0072b2;padding:.7rem 1rem}
@media print{body{margin:0;max-width:none}h2{break-after:avoid}img,table{break-inside:avoid}}"""


def headline(run: Run, results: Results) -> dict[str, str]:
    """The numbers that the run ends with, label → text with n and a 95 % interval."""
    gain = results.translation_gain[-1]
    found = {
        f"Translation, chrF++ of {run.profile.arms[-1]} minus the base's best prompt": _difference(gain),
    }
    for row in results.stages:
        if row["stage"] in ("S2", "S4"):
            found[f"{row['stage']} ({STAGES[row['stage']]}), {row['arm']}"] = _rate(row)
    for row in verdicts(results):
        found[f"Does Reasoning help? {row['stage']}, {row['a']} against {row['b']}"] = (
            f"{row['outcome']}: {_difference(row)}, p={row['p_holm']:.3g} (Holm)"
        )
    return found


def _rate(row: dict) -> str:
    return f"{row['value']:.1f} % [{row['low']:.1f}, {row['high']:.1f}] n={row['n']}"


def _difference(row: dict) -> str:
    return f"{row['value']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] n={row['n']}"


def verdicts(results: Results) -> list[dict]:
    """Reasoned against plain at the primary stages S2 and S4."""
    return [r for r in results.paired if r["b"] == "plain" and r["stage"] in ("S2", "S4")]


def figures(run: Run, results: Results) -> dict[str, tuple[Path, Path]]:
    """Draw and save every figure of the report (PNG and SVG in `report/figures`), name → paths."""
    import pandas as pd

    drawn = {
        "loss_curves": plots.loss_curves(pipeline.log_frame(run)),
        "translation": plots.translation(pd.DataFrame(results.translation)),
        "stages": plots.stages(pd.DataFrame(results.stages)),
        "categories": plots.by_category(pd.DataFrame(results.categories)),
        "broken_steps": plots.broken_steps(pd.DataFrame(results.broken)),
    }
    against_plain = [r for r in results.paired if r["b"] == "plain"]
    if against_plain:
        drawn["forest"] = plots.forest(pd.DataFrame(against_plain))
    return {name: figure_style.save(figure, run.path("report", "figures"), name) for name, figure in drawn.items()}


def write(run: Run, results: Results, paths: dict[str, tuple[Path, Path]]) -> Path:
    """Write `report/report.md`, `report.html`, `headline.json`, `results.json` and the training log; returns the folder."""
    folder = run.path("report")
    numbers = headline(run, results)
    blocks = list(_blocks(run, results, numbers))
    write_text(folder / "report.md", "\n\n".join(_markdown(b, paths) for b in blocks) + "\n")
    body = "\n".join(_html(b, paths) for b in blocks)
    title = html.escape(blocks[0][1])
    write_text(
        folder / "report.html",
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><body>\n{body}\n</body></html>\n",
    )
    pipeline.export_log(run)
    write_json(folder / "results.json", dataclasses.asdict(results))
    write_json(folder / "headline.json", numbers)
    return folder


def _blocks(run: Run, results: Results, numbers: dict[str, str]):
    recipe, here = run.recipe, read_json(pipeline.arm_folder(run, run.profile.arms[0]) / "done.json")
    yield "h1", "Does adding Reasoning to a third of a small data set make a small model answer better?"
    yield "verdict", " ".join(r["verdict"] for r in verdicts(results)) or "Only one arm was trained, so there is no verdict."
    yield (
        "p",
        f"Model {run.profile.name} ({run.profile.model.license}), NF4 with LoRA rank {recipe.rank}, seed {recipe.seed}, on {here['device']} in "
        f"{here['precision']}. Trained on {recipe.train_pairs} Tatoeba pairs and the training questions of the authored set; tested on "
        f"{results.translation[0]['n']} unseen pairs and {results.stages[0]['n']} unseen questions, no entity of which was trained on. One seed: the "
        "interval covers the choice of test items, not that of the seed.",
    )
    yield "table", ("Headline", "Measured, 95 % interval"), [(k, v) for k, v in numbers.items()]
    yield "h2", "Where the multistep task breaks"
    yield (
        "p",
        "Each wrong S4 answer is laid to its first broken step: S2 (gold English) wrong means knowledge or reasoning, S2 right and S3 (its own "
        "translation) wrong means translation, S3 right and S4 wrong means chaining.",
    )
    yield "figure", "stages", "Accuracy at the stages S2 to S5 for each arm"
    yield "figure", "broken_steps", "S4 outcomes by first broken step for each arm"
    yield (
        "table",
        ("Arm", "Stage", "Exact match", "Lenient", "Well-formed", "Cut off", "With Reasoning"),
        [
            (r["arm"], f"{r['stage']} {STAGES[r['stage']]}", _rate(r), *(f"{r[k]:.1f} %" for k in ("lenient", "well_formed", "truncated", "reasoned")))
            for r in results.stages
        ],
    )
    if any(r["b"] == "plain" for r in results.paired):
        yield "h2", "Reasoning against no Reasoning, question by question"
        yield "figure", "forest", "Paired differences between the reasoned and the plain arm"
        yield (
            "table",
            ("Stage", "Difference, points", "Only reasoned right", "Only plain right", "p (Holm)", "Outcome", "Detectable from"),
            [
                (r["stage"], _difference(r), r["only_a"], r["only_b"], f"{r['p_holm']:.3g}", r["outcome"], f"{r['mde']:.1f} points")
                for r in results.paired
                if r["b"] == "plain"
            ],
        )
    yield "figure", "categories", "S4 accuracy by category and arm"
    yield "h2", "Translation of unseen Tatoeba pairs"
    yield "figure", "translation", "chrF++ of base and tuned models"
    yield (
        "table",
        ("System", "chrF++", "BLEU", "Cut off"),
        [(r["system"], f"{r['value']:.1f} [{r['low']:.1f}, {r['high']:.1f}]", f"{r['bleu']:.1f}", f"{r['truncated']:.1f} %") for r in results.translation],
    )
    yield (
        "table",
        ("Against the base's best prompt", "chrF++ points", "p"),
        [(r["label"], _difference(r), f"{r['p']:.3g}") for r in results.translation_gain],
    )
    yield "h2", "Loss curves"
    yield "figure", "loss_curves", "Training loss and dev losses of each arm"
    yield (
        "p",
        "Training losses of arms with different targets cannot be compared; the answer-only loss on the shared dev questions can, because it "
        "counts the same tokens for every arm.",
    )
    yield "h2", "Examples (one call, held-out questions)"
    rows = [
        (e["question"], e["gold"], e["system"], " / ".join(filter(None, (e["english"], e["reasoning"], e["answer"]))), "right" if e["right"] else "wrong")
        for e in results.examples
    ]
    yield "table", ("Question", "Gold", "System", "English / Reasoning / Answer", ""), rows
    yield "h2", "Limits"
    yield (
        "p",
        f"One seed and {results.stages[0]['n']} questions: only effects above the minimum detectable one can be told from chance. Exact match "
        "counts a right answer in other words as wrong unless it is a listed alias; the lenient score stands beside it. Few-shot examples help the base model "
        f"({recipe.few_shot} of them); the tuned arms get none.",
    )
    yield "p", "chrF++ " + results.signatures["chrF++"] + " · BLEU " + results.signatures["BLEU"]
    yield "p", "Sentence pairs: Tatoeba (tatoeba.org), CC BY 2.0 FR. Questions: this project, CC BY 4.0."


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
    if kind == "table":
        rows = [block[1], ["---"] * len(block[1]), *block[2]]
        return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)
    return text


def _cell(value: object) -> str:
    """Text for a cell of a Markdown table; Markdown passes HTML through, so it is escaped here too."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\|`*_])", r"\\\1", text)


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
