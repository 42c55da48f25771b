"""Does the rule for the first broken step agree with a reader? A sample to judge, blind to the rule, and the agreement."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import answers, evaluation, pipeline, scoring, studies
from .files import UserError, read_lines, whole_file
from .runtime import Run

STEPS = ("knowledge/reasoning", "translation", "chaining")
JUDGED = (*STEPS, "right")  # a reader may find the answer right after all


def sample(run: Run, data: pipeline.Data, count: int = 60, seed: int = 0) -> list[dict]:
    """`count` wrong one-call answers to authored questions, drawn from all trained systems: what a reader needs to judge them, not the rule's word.

    Each row: `arm`, `seed`, `id`, the question in both languages, `gold`, and the texts of S1 (translation), S2, S3 and S4. Raises `UserError`
    when there are fewer.
    """
    found = [row for row, step in _failures(run, data) if step]
    if len(found) < count:
        raise UserError(f"{len(found)} wrong answers, {count} were asked for. Predict with more arms first, or ask for fewer.")
    return random.Random(seed).sample(found, count)


def _failures(run: Run, data: pipeline.Data) -> Iterable[tuple[dict, str]]:
    gold = {r.id: r for r in data.questions["test"] if not evaluation.is_control(r)}
    for system in evaluation.systems(run):
        if system.adapter is None or not (system.folder / "done.json").exists():
            continue
        own = studies.reasons(system.name)
        rows = {(r["id"], r["stage"]): r for r in evaluation.read(system.folder / "questions.jsonl") if r["asked"] == (own and r["stage"] != "S1")}
        for record in gold.values():
            said = {s: rows[record.id, s] for s in ("S1", "S2", "S3", "S4")}
            right = [answers.exact_match(said[s]["answer"], record.answer, record.aliases) for s in ("S2", "S3", "S4")]
            shown = {
                "arm": system.name, "seed": system.seed, "id": record.id, "ja": record.ja, "en": record.en,
                "gold": [record.answer, *record.aliases], "S1": said["S1"]["english"], **{s: said[s]["text"] for s in ("S2", "S3", "S4")},
            }  # fmt: skip
            yield shown, answers.first_broken_step(*right)


def read(path: str | Path) -> list[dict]:
    """A reader's judgements: JSONL of `{arm, seed, id, step}`, `step` one of `JUDGED`. Raises `UserError` with the line."""
    rows = read_lines(path, arm=str, seed=int, id=str, step=JUDGED)
    if not rows:
        raise UserError(f"{path}: no judgement in it. Each line is a JSON object with arm, seed, id and step.")
    return rows


def write(path: str | Path, rows: Sequence[dict]) -> Path:
    """Write judgements, whole."""
    with whole_file(path) as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return Path(path)


def of(run: Run, data: pipeline.Data) -> dict:
    """`measure` with the judgements in the run folder (`judged.jsonl`); empty when nobody has judged. Raises `UserError`."""
    path = run.path("judged.jsonl")
    return measure(run, data, read(path)) if path.exists() else {}


def measure(run: Run, data: pipeline.Data, judged: Sequence[dict]) -> dict:
    """How often rule and reader agree: `n`, `agree` (percent; its 95 % interval `low`, `high`), Cohen's `kappa` (1960), the `confusion` rows
    (rule, reader, n) and the `systems` that the answers are from (arm, seed, n).

    Raises `UserError` for a judgement of an answer that the predictions do not hold.
    """
    rule = {(row["arm"], row["seed"], row["id"]): step for row, step in _failures(run, data)}
    pairs = []
    for row in judged:
        key = (row["arm"], row["seed"], row["id"])
        if key not in rule:
            raise UserError(f"{row['id']} by {row['arm']} seed {row['seed']} was judged, and is not among the predictions.")
        pairs.append((rule[key] or "right", row["step"]))
    n, confusion = len(pairs), Counter(pairs)
    ours, theirs = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    found = scoring.accuracy([a == b for a, b in pairs])
    agree = sum(a == b for a, b in pairs) / n
    chance = sum(ours[s] * theirs[s] for s in ours) / n**2
    kappa = 1.0 if chance == 1 else (agree - chance) / (1 - chance)
    rows = [{"rule": a, "reader": b, "n": confusion[a, b]} for a in JUDGED for b in JUDGED if confusion[a, b]]
    systems = Counter((row["arm"], row["seed"]) for row in judged)
    return {"n": n, "agree": 100 * agree, "low": found.low, "high": found.high, "kappa": kappa, "confusion": rows,
            "systems": [{"arm": arm, "seed": seed, "n": count} for (arm, seed), count in sorted(systems.items())]}  # fmt: skip
