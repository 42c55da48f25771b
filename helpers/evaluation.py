"""Predictions of every system on the held-out data: what the tables, the figures and the report are made of."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import attention, bootstrap, decoding, inference, pipeline, prompts, studies
from .assembly import short
from .files import UserError, read_lines, read_object, sha256, whole_file, write_json
from .records import Record
from .runtime import Run

CONTROL = "control-"
FILES = ("questions.jsonl", "translation.jsonl")
_COMMON = {"id": str, "english": str, "truncated": bool, "tokens": int}
_TRANSLATED = _COMMON | {"system": str}
_PREDICTED = _COMMON | {"stage": str, "asked": bool, "text": str, "reasoning": str, "answer": str, "well_formed": bool}


@dataclass(frozen=True)
class System:
    """A model to predict with: the base model (`seed` -1, no adapter) or a trained arm."""

    name: str
    seed: int
    adapter: Path | None
    folder: Path

    @property
    def label(self) -> str:
        """Its name, with the seed where there is one."""
        return f"{self.name} seed {self.seed}" if self.adapter else self.name


def systems(run: Run) -> list[System]:
    """The base model and every (arm, seed) of the study, in the order of work."""
    found = [System("base", -1, None, run.path("predictions", "base"))]
    for arm, seed in run.study.jobs:
        trained = pipeline.arm_folder(run.with_seed(seed), arm)
        found.append(System(arm, seed, trained / "adapter", run.path("predictions", arm, f"seed{seed}")))
    return found


def is_control(record: Record) -> bool:
    """Whether a question is one of the generated positive control."""
    return record.category.startswith(CONTROL)


def shots(run: Run, records: Sequence[Record]) -> list[Record]:
    """The few-shot examples of the base model: seeded, from training records, one of each of as many categories."""
    pool = random.Random(run.recipe.seed).sample(sorted(records, key=lambda r: r.id), len(records))
    by_category = {r.category: r for r in reversed(pool)}
    spread = list(by_category.values()) if len(by_category) >= run.recipe.few_shot else pool
    return [r.replace(reasoning="") for r in spread[: run.recipe.few_shot]]


def predict(
    run: Run,
    data: pipeline.Data,
    *,
    some: Sequence[System] | None = None,
    progress: Callable[[str, int, int], None] = lambda system, done, total: None,
    say: Callable[[str], None] = print,
) -> None:
    """Write the predictions on the test split of each of the study's systems (or `some`): `questions.jsonl`, `translation.jsonl`, `done.json`.

    All decode greedily. The base model is prompted with few-shot examples everywhere, and on the sentence pairs zero-shot as well; an arm that
    has learnt from Reasoning answers twice, freely and asked for Reasoning; so does the base model at the primary stages where the recipe says `ask_base`. A system already done from the same adapter and data is
    skipped. Raises `UserError`, also when another process is at the same system here.
    """
    from . import models

    tokenizer = None
    for system in systems(run) if some is None else some:
        marker = system.folder / "done.json"
        if is_predicted(run, data, system):
            say(f"Predictions of {system.label}: found in the run folder.")
            continue
        say(f"Predictions of {system.label}: {len(data.pairs['test'])} sentences, {len(data.questions['test'])} questions …")
        busy = f"{short(system.folder)}: another notebook or command is making these predictions. Wait for it, or choose another RUN name."
        with bootstrap.lock(system.folder.with_name(f".{system.folder.name}.lock"), busy=busy):
            tokenizer = tokenizer or models.load_tokenizer(run.profile, say)
            model = models.load_for_inference(run.profile, system.adapter, say)
            # The old marker first: an interruption must not leave it beside new predictions.
            marker.unlink(missing_ok=True)
            begun = time.monotonic()
            tokens = _predict_one(run, data, system, (model, tokenizer, run.profile), progress)
            made = {"made_from": made_from(run, data, system), "adapter": _weights(system)}
            write_json(marker, made | {"seconds": round(time.monotonic() - begun, 1), "tokens": tokens})
        del model
        # Models hold reference cycles; two of them at once may not fit on a GPU.
        gc.collect()


def is_predicted(run: Run, data: pipeline.Data, system: System) -> bool:
    """Whether a system's predictions are there, made with this adapter, data, settings and code.

    An adapter that is no longer there (a study keeps small files only) is taken to be the one that its training key describes.
    """
    files = (system.folder / name for name in FILES)
    marker = system.folder / "done.json"
    if system.adapter and not run.path("reasoning", "manifest.json").exists():
        return False
    return pipeline.is_fresh(marker, made_from(run, data, system), *files) and _weights(system) in ("", read_object(marker).get("adapter"))


def stale(run: Run, data: pipeline.Data) -> list[str]:
    """Labels of the systems whose predictions were made from other data or settings."""
    return [s.label for s in systems(run) if (marker := s.folder / "done.json").exists() and not is_comparable(run, data, marker)]


def older(run: Run, data: pipeline.Data) -> list[str]:
    """Labels of the systems whose predictions are from these data and settings, but from other code or another adapter."""
    return [s.label for s in systems(run) if is_comparable(run, data, s.folder / "done.json") and not is_predicted(run, data, s)]


def is_comparable(run: Run, data: pipeline.Data, marker: Path) -> bool:
    """Whether a marker of predictions says that they are from these data and settings, whatever the code."""
    found = read_object(marker).get("made_from") if marker.exists() else None
    return isinstance(found, list) and found[:1] == [_settings(run, data)]


def _settings(run: Run, data: pipeline.Data) -> str:
    return pipeline.fingerprint(run.profile.model, run.recipe, data.manifest["files"])


def made_from(run: Run, data: pipeline.Data, system: System) -> list[str]:
    """Hashes of what a system's predictions depend on: settings and data, code, and how its adapter is trained. Raises `UserError`."""
    from . import fused, models, packing

    return [
        _settings(run, data),
        *(sha256(module.__file__) for module in (attention, decoding, fused, inference, models, packing, prompts)),
        pipeline.training_key(run.with_seed(system.seed), data, system.name) if system.adapter else "",
    ]


def _weights(system: System) -> str:
    weights = system.adapter / "adapter_model.safetensors" if system.adapter else None
    return sha256(weights) if weights and weights.exists() else ""


def _predict_one(run: Run, data: pipeline.Data, system: System, model: tuple, progress) -> int:
    pairs, questions = data.pairs["test"], data.questions["test"]
    authored, control = [r for r in questions if not is_control(r)], [r for r in questions if is_control(r)]
    asked = asked_stages(run, system)
    calls = len(authored) * (len(inference.STAGES) + len(asked)) + len(control) * sum(1 + (stage in asked) for stage in inference.PRIMARY)
    total, done = (2 if system.name == "base" else 1) * len(pairs) + calls, 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        progress(system.label, done, total)

    japanese = [r.ja for r in pairs]
    if system.name == "base":
        translations = {"base zero-shot": (japanese, ()), "base few-shot": (japanese, shots(run, data.pairs["train"]))}
        found, translated = _prompted(run, data, model, authored, control, list(translations.values()), asked, step)
    else:
        translations = {system.name: (japanese, ())}
        found, translated = inference.all_stages(*model, authored, primary=control, translations=list(translations.values()), asked=asked, progress=step)
    rows = [
        {"system": name, "id": record.id, "english": prompts.parse("translate", completion.text).english,
         "truncated": completion.truncated, "tokens": completion.tokens}
        for name, completions in zip(translations, translated, strict=True)
        for record, completion in zip(pairs, completions, strict=True)
    ]  # fmt: skip
    _write(system.folder / "translation.jsonl", rows)
    _write(system.folder / "questions.jsonl", (p.to_dict() for p in found))
    return sum(row["tokens"] for row in rows) + sum(p.tokens for p in found)


def asked_stages(run: Run, system: System) -> tuple[str, ...]:
    """The stages at which a system is asked for Reasoning as well; the base model, where the recipe says so, at the primary ones."""
    if system.name == "base":
        return inference.PRIMARY if run.recipe.ask_base else ()
    return inference.REASONED if studies.reasons(system.name) else ()


def examples_for(run: Run, data: pipeline.Data, control: bool) -> list[Record]:
    """The training questions that the base model's examples are drawn from: of the same kind as the question, and with a rationale."""
    accepted = pipeline.rationales(run)
    return [r for r in data.questions["train"] if is_control(r) == control and r.id in accepted]


def _prompted(
    run: Run, data: pipeline.Data, model: tuple, authored: list[Record], control: list[Record], translations: list[tuple], asked: tuple[str, ...], step
) -> tuple[list[inference.Prediction], list[list[inference.Completion]]]:
    """The base model with examples of the same kind as the question, without and (at stages that are `asked`) with Reasoning; and its translations."""
    accepted = pipeline.rationales(run)
    found, translated = [], []
    for of_control, some in ((False, authored), (True, control)):
        if of_control and not some:
            continue
        examples = shots(run, examples_for(run, data, of_control))
        records = {"records": [], "primary": some} if of_control else {"records": some, "translations": translations}
        reasoned = [r.replace(reasoning=accepted[r.id]) for r in examples]
        predicted, more = inference.all_stages(*model, **records, asked=asked, shots=examples, reasoned_shots=reasoned, progress=step)
        found, translated = found + predicted, translated + more
    return found, translated


def _write(path: Path, rows: Iterable[dict]) -> None:
    with whole_file(path) as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read(path: Path) -> list[dict]:
    """The rows of a predictions file. Raises `UserError` when it is missing, and for a row that is none, with its line."""
    if not path.exists():
        raise UserError(f"{path} is missing. Run notebook 05 first.")
    return read_lines(path, **(_TRANSLATED if path.name == "translation.jsonl" else _PREDICTED))
