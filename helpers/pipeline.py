"""The stages of a run: curate → augment → train. Each looks for what is there, makes what is missing, and says which."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from . import models, reasoning, records
from .assembly import SPLITS, Data, curate, fingerprint, hashes, is_curated, is_fresh, load, short, take_in
from .augmentation import arm_files, augment, compare, for_review, teacher
from .files import UserError, read_json, write_json, write_text
from .records import Record
from .runtime import Run

__all__ = [
    "SPLITS", "Data", "arm_files", "arm_folder", "arm_questions", "augment", "compare", "curate", "ensure", "export_log", "fingerprint",
    "for_review", "is_curated", "is_fresh", "is_trained", "load", "log_frame", "rationales", "take_in", "teacher", "train_arm", "training_logs", "training_summary",
]  # fmt: skip
View = Callable[[int], Callable[[dict], None]]


def arm_questions(run: Run, data: Data, arm: str) -> list[Record]:
    """The training questions of an arm: `plain`, `reasoned-P` with a rationale on P % of them (1 to 100), or a control that
    notebook 02 wrote (`shuffled-33`, `plain-token-matched`).

    Raises `UserError` for another name.
    """
    written = run.path("reasoning", f"train_{arm}.jsonl")
    manifest = read_json(run.path("reasoning", "manifest.json"))
    if arm == "plain":
        return data.questions["train"]
    if written.name in manifest["files"]:
        return records.read(written)
    match = re.fullmatch(r"reasoned-(\d{1,3})", arm)
    if not match or not 1 <= int(match[1]) <= 100:
        known = ", ".join(name.removeprefix("train_").removesuffix(".jsonl") for name in manifest["files"])
        raise UserError(f"Unknown arm {arm!r}. Known: {known}, and reasoned-P for any percentage P from 1 to 100.")
    accepted = rationales(run)
    # By the manifest's ranking, which a user's own list leads.
    carriers = manifest["choice"]["ranking"][: round(int(match[1]) / 100 * len(data.questions["train"]))]
    return reasoning.mix(data.questions["train"], accepted, 1.0, chosen=carriers)


def rationales(run: Run) -> dict[str, str]:
    """The accepted rationale of each training question, by id. Raises `UserError` when notebook 02 has not put them on."""
    return read_json(run.path("reasoning", "accepted.json"))


def arm_folder(run: Run, arm: str) -> Path:
    """Where an arm's checkpoints, log and adapter lie."""
    return run.path("arms", arm, f"seed{run.recipe.seed}")


def train_arm(
    run: Run, data: Data, arm: str, *, view: View = lambda steps: lambda row: None, say: Callable[[str], None] = print
) -> Path:
    """Train an arm, or find it trained; the adapter is in `adapter/` of the folder returned.

    The steps on sentence pairs alone are the same in every arm: they are trained once, in `arms/shared`, and each arm goes on from that
    checkpoint, which equals training it whole (tests/test_training.py). `view(steps)` makes the callback that shows
    progress. Raises `UserError`.
    """
    from . import training

    questions = arm_questions(run, data, arm)
    order = training.plan(run.recipe, data.pairs["train"], questions)
    dev = {"pairs": data.pairs["dev"][: run.recipe.dev_loss_pairs], "questions": data.questions["dev"]}
    folder, shared = arm_folder(run, arm), arm_folder(run, "shared")
    key, shared_key = _training_keys(run, data, questions)
    _claim(folder, key, say)
    if (folder / "done.json").exists() and (folder / "adapter").exists():
        say(f"Arm {arm}: found trained in {short(folder)}.")
        return folder
    say(f"Arm {arm}: {order.steps} steps, of which {order.shared_steps} on sentence pairs are shared by all arms.")
    progress = view(order.steps)
    if order.shared_steps and training.last_checkpoint(folder) is None:
        _claim(shared, shared_key, say)
        saved = training.last_checkpoint(shared)
        if saved is None or int(saved.name.split("-")[1]) < order.shared_steps:
            training.train(run.profile, order, dev, shared, stop_after=order.shared_steps, progress=progress, say=say)
        training.begin_from(shared, folder)
    training.train(run.profile, order, dev, folder, progress=progress, say=say)
    return folder


def is_trained(run: Run, data: Data, arm: str) -> bool:
    """Whether an arm's adapter is there, trained from these data, settings and code. Raises `UserError` for an unknown arm."""
    folder = arm_folder(run, arm)
    key, _ = _training_keys(run, data, arm_questions(run, data, arm))
    return is_fresh(folder / "made_from.json", key, folder / "done.json", folder / "adapter" / "adapter_model.safetensors")


def _training_keys(run: Run, data: Data, questions: list[Record]) -> tuple[str, str]:
    """What an arm, and the part that all arms share, are trained from."""
    from . import fused, prompts, training

    # What training does not depend on is left out: changing it trains nothing again.
    inference_only = ("generation_batch", "few_shot", *(f"{kind}_budget" for kind in ("translation", "answer", "multistep", "reasoning", "line")))
    recipe = dataclasses.replace(run.recipe, **dict.fromkeys(inference_only, 0))
    code = hashes(*(Path(module.__file__) for module in (fused, models, prompts, training)))
    common = [run.profile.model, recipe, data.manifest["files"], code]
    return fingerprint(*common, [r.reasoning for r in questions]), fingerprint(*common)


def _claim(folder: Path, key: str, say: Callable[[str], None]) -> None:
    """Begin a training folder; what was trained from other data or settings there is removed."""
    marker = folder / "made_from.json"
    if not is_fresh(marker, key):
        if folder.exists():
            say(f"{short(folder)}: from other data, settings or code, so it is removed and trained anew.")
            # Not ignore_errors: a checkpoint left behind would be gone on from under the new key.
            shutil.rmtree(folder)
        write_json(marker, {"made_from": key})


def training_logs(run: Run) -> dict[tuple[str, int], list[dict]]:
    """Training log rows of every (arm, seed) of the study that has been begun, and of other arms in the run folder."""
    from .training import read_log

    logs = {(p.parent.parent.name, int(p.parent.name[4:])): p for p in sorted(run.path("arms").glob("*/seed*/log.jsonl"))}
    order = [job for job in run.study.jobs if job in logs] + [job for job in logs if job not in run.study.jobs]
    return {job: read_log(logs[job]) for job in order if job[0] != "shared"}


def ensure(run: Run, *, train: bool = False, view: View = lambda steps: lambda row: None, say: Callable[[str], None] = print) -> Data:
    """What earlier notebooks make: curated data and rationales, with `train` the trained arms too. Raises `UserError`."""
    data = curate(run, say)
    augment(run, data, say)
    if train:
        for arm, seed in run.study.jobs:
            train_arm(run.with_seed(seed), data, arm, view=view, say=say)
    return data


def log_frame(run: Run):
    """The training logs as one data frame, a row an arm, seed and step. Raises `UserError` when no arm has been trained."""
    import pandas as pd

    logs = training_logs(run)
    if not logs:
        raise UserError(f"{run.path('arms')}: no arm has been trained. Run notebook 03 first.")
    return pd.concat([pd.DataFrame(rows).assign(arm=arm, seed=seed) for (arm, seed), rows in logs.items()], ignore_index=True)


def training_summary(run: Run):
    """What training took and came to, a row an arm and seed: a data frame. `training_loss` is the mean of the last 20 steps."""
    log = log_frame(run)
    job = ["arm", "seed"]
    arms, questions = log.groupby(job, sort=False), log[log.phase == "questions"].groupby(job, sort=False)
    frame = arms[["dev_answer_loss", "dev_translation_loss"]].last()
    frame.insert(0, "training_loss", questions.loss.agg(lambda s: s.tail(20).mean()))
    frame.insert(0, "peak_memory_gb", arms.peak_memory_gb.max())
    frame.insert(0, "tokens_per_second", arms.tokens_per_second.median())
    frame.insert(0, "question_targets", questions.target_tokens_seen.agg(lambda s: s.max() - s.min()))
    frame.insert(0, "target_tokens", arms.target_tokens_seen.max())
    frame.insert(0, "tokens", arms.tokens_seen.max())
    frame.insert(0, "steps", arms.step.max())
    return frame.reset_index()


def export_log(run: Run) -> Path:
    """All training logs as one CSV (`report/training_log.csv`), a row an arm, seed and step. Raises `UserError`."""
    return write_text(run.path("report", "training_log.csv"), log_frame(run).to_csv(index=False))
