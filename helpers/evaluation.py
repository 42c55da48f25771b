"""Predictions of every system on the held-out data, and the tables that the report and the figures are made of."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import answers, inference, pipeline, prompts, scoring
from .files import UserError, sha256, whole_file, write_json
from .records import Record
from .runtime import Run

ANSWER_STAGES = ("S2", "S3", "S4", "S5")


def shots(run: Run, records: Sequence[Record]) -> list[Record]:
    """The few-shot examples of the base model: seeded, from training records, one of each of as many categories."""
    pool = random.Random(run.recipe.seed).sample(sorted(records, key=lambda r: r.id), len(records))
    by_category = {r.category: r for r in reversed(pool)}
    spread = list(by_category.values()) if len(by_category) >= run.recipe.few_shot else pool
    return [r.replace(reasoning="") for r in spread[: run.recipe.few_shot]]


def _systems(run: Run) -> dict[str, Path | None]:
    return {"base": None} | {arm: pipeline.arm_folder(run, arm) / "adapter" for arm in run.profile.arms}


def predict(
    run: Run,
    data: pipeline.Data,
    *,
    progress: Callable[[str, int, int], None] = lambda system, done, total: None,
    say: Callable[[str], None] = print,
) -> None:
    """Write each system's predictions on the test split: `predictions/SYSTEM.jsonl` and `SYSTEM.translation.jsonl`.

    The base model is prompted with few-shot examples everywhere, and on the sentence pairs zero-shot as well. A system already done
    from the same adapter and data is skipped. Raises `UserError`.
    """
    from . import models

    tokenizer = None
    for system, adapter in _systems(run).items():
        made = [
            pipeline.fingerprint(run.profile.model, run.recipe, data.manifest["files"]),
            *(sha256(module.__file__) for module in (inference, models, prompts)),
            sha256(adapter / "adapter_model.safetensors") if adapter else "",
        ]
        marker = run.path("predictions", f"{system}.json")
        files = (run.path("predictions", f"{system}{kind}.jsonl") for kind in ("", ".translation"))
        if pipeline.is_fresh(marker, made, *files):
            say(f"Predictions of {system}: found in the run folder.")
            continue
        say(f"Predictions of {system}: {len(data.pairs['test'])} sentences, {len(data.questions['test'])} questions in five stages …")
        tokenizer = tokenizer or models.load_tokenizer(run.profile, say)
        model = models.load_for_inference(run.profile, adapter, say)
        # The old marker first: an interruption must not leave it beside new predictions.
        marker.unlink(missing_ok=True)
        _predict_one(run, data, system, model, tokenizer, progress)
        write_json(marker, {"made_from": made})
        del model
        # Models hold reference cycles; two of them at once may not fit on a GPU.
        gc.collect()


def _predict_one(run: Run, data: pipeline.Data, system: str, model, tokenizer, progress) -> None:
    pairs, questions = data.pairs["test"], data.questions["test"]
    total, done = (2 if system == "base" else 1) * len(pairs) + 5 * len(questions), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        progress(system, done, total)

    japanese, model_of = [r.ja for r in pairs], (model, tokenizer, run.profile)
    if system == "base":
        examples = shots(run, data.pairs["train"])
        translated = {"base zero-shot": inference.translate(*model_of, japanese, progress=step),
                      "base few-shot": inference.translate(*model_of, japanese, shots=examples, progress=step)}  # fmt: skip
        found, _ = inference.all_stages(*model_of, questions, shots=shots(run, data.questions["train"]), progress=step)
    else:
        found, same = inference.all_stages(*model_of, questions, sentences=japanese, progress=step)
        translated = {system: same}
    rows = [
        {"system": name, "id": record.id, "english": prompts.parse("translate", completion.text).english,
         "truncated": completion.truncated, "tokens": completion.tokens}
        for name, completions in translated.items()
        for record, completion in zip(pairs, completions, strict=True)
    ]  # fmt: skip
    _write(run.path("predictions", f"{system}.translation.jsonl"), rows)
    _write(run.path("predictions", f"{system}.jsonl"), (p.to_dict() for p in found))


def _write(path: Path, rows: Iterable[dict]) -> None:
    with whole_file(path) as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _read(path: Path) -> list[dict]:
    if not path.exists():
        raise UserError(f"{path} is missing. Run notebook 05 first.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Results:
    """The tables of a run, as lists of plain rows (one dictionary each), ready for `pandas.DataFrame`.

    Accuracies and rates are percent, differences and chrF++ points, intervals 95 %.
    """

    translation: list[dict]
    translation_gain: list[dict]
    question_translation: list[dict]
    stages: list[dict]
    categories: list[dict]
    broken: list[dict]
    paired: list[dict]
    examples: list[dict]
    signatures: dict[str, str]


def _estimate(estimate: scoring.Estimate) -> dict:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def _share(rows: Sequence[dict], field: str) -> float:
    return round(100 * sum(bool(r[field]) for r in rows) / max(1, len(rows)), 1)


def results(run: Run, data: pipeline.Data) -> Results:
    """Score the predictions of a run. Raises `UserError` when they are missing."""
    names = list(_systems(run))
    gold = {r.id: r for r in data.questions["test"]}
    references = [r.en for r in data.pairs["test"]]

    outputs: dict[str, list[dict]] = {}
    for name in names:
        for row in _read(run.path("predictions", f"{name}.translation.jsonl")):
            outputs.setdefault(row["system"], []).append(row)
    english = {system: [r["english"] for r in rows] for system, rows in outputs.items()}
    translation, signatures = [], {}
    for system, rows in outputs.items():
        scores = scoring.corpus_scores(english[system], references)
        signatures = {"chrF++": scores["chrf_signature"], "BLEU": scores["bleu_signature"]}
        translation.append({"system": system, **_estimate(scoring.chrf_interval(english[system], references)),
                            "bleu": scores["bleu"], "truncated": _share(rows, "truncated")})  # fmt: skip
    best = max((t for t in translation if t["system"].startswith("base")), key=lambda t: t["value"])["system"]
    gain = []
    for arm in run.profile.arms:
        found = scoring.paired_bootstrap(english[arm], english[best], references)
        gain.append({"label": f"{arm} − {best}", "value": found.value, "low": found.low, "high": found.high,
                     "p": found.p_value, "n": found.n})  # fmt: skip

    by_stage = {name: _by_stage(_read(run.path("predictions", f"{name}.jsonl"))) for name in names}
    right = {
        (name, s): [answers.exact_match(p["answer"], gold[p["id"]].answer, gold[p["id"]].aliases) for p in by_stage[name][s]]
        for name in names
        for s in ANSWER_STAGES
    }
    question_translation, stages, categories, broken = [], [], [], []
    for name in names:
        first = by_stage[name]["S1"]
        question_translation.append(
            {"system": name, **_estimate(scoring.chrf_interval([p["english"] for p in first], [gold[p["id"]].en for p in first]))}
        )
        for s in ANSWER_STAGES:
            rows = by_stage[name][s]
            lenient = [answers.lenient_match(p["answer"], gold[p["id"]].answer, gold[p["id"]].aliases) for p in rows]
            stages.append({"arm": name, "stage": s, **_estimate(scoring.accuracy(right[name, s])),
                           "lenient": 100 * sum(lenient) / len(lenient), "well_formed": _share(rows, "well_formed"),
                           "truncated": _share(rows, "truncated"), "reasoned": _share(rows, "reasoning")})  # fmt: skip
        for category in dict.fromkeys(r.category for r in gold.values()):
            outcomes = [ok for p, ok in zip(by_stage[name]["S4"], right[name, "S4"], strict=True) if gold[p["id"]].category == category]
            categories.append({"arm": name, "category": category, **_estimate(scoring.accuracy(outcomes))})
        steps = [answers.first_broken_step(*triple) for triple in zip(*(right[name, s] for s in ("S2", "S3", "S4")), strict=True)]
        for step in ("", "chaining", "translation", "knowledge/reasoning"):
            broken.append({"arm": name, "step": step or "right", "n": steps.count(step)})
    return Results(
        translation, gain, question_translation, stages, categories, broken, _paired(run, right), _examples(by_stage, right, gold), signatures
    )  # fmt: skip


def _by_stage(rows: Sequence[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["stage"], []).append(row)
    return found


def _paired(run: Run, right: dict[tuple[str, str], list[bool]]) -> list[dict]:
    """Each reasoned arm against plain, each arm against base, a stage a row; Holm over the rows of a comparison's stage set."""
    rows = []
    comparisons = [(a, "plain") for a in run.profile.arms if a != "plain" and "plain" in run.profile.arms]
    comparisons += [(a, "base") for a in run.profile.arms]
    for a, b in comparisons:
        found = {s: scoring.mcnemar(right[a, s], right[b, s]) for s in ANSWER_STAGES}
        adjusted = scoring.holm({s: m.p_value for s, m in found.items()})
        for s, m in found.items():
            verdict = scoring.verdict(m, p_value=adjusted[s], names=(a, b))
            rows.append({"label": f"{a} − {b}, {s}", "stage": s, "a": a, "b": b, "value": m.difference, "low": m.low, "high": m.high,
                         "n": m.n, "only_a": m.only_a, "only_b": m.only_b, "p": m.p_value, "p_holm": adjusted[s],
                         "outcome": verdict.outcome, "verdict": f"{s}: {verdict.text}", "mde": verdict.mde})  # fmt: skip
    return rows


def _examples(by_stage, right, gold: dict[str, Record], each: int = 2) -> list[dict]:
    """A few S4 outputs, a row a question and system: some that the last arm got right, some that it got wrong."""
    flags = right[list(by_stage)[-1], "S4"]
    rows = []
    for wanted in (True, False):
        indices = [i for i, ok in enumerate(flags) if ok == wanted]
        for i in indices[:: max(1, len(indices) // each)][:each]:
            for name, stages in by_stage.items():
                out, record = stages["S4"][i], gold[stages["S4"][i]["id"]]
                rows.append({"id": record.id, "question": record.ja, "gold": record.answer, "system": name,
                             "english": out["english"], "reasoning": out["reasoning"], "answer": out["answer"],
                             "right": right[name, "S4"][i]})  # fmt: skip
    return rows
