"""The stages of a run: curate → augment → train. Each looks for what is there, makes what is missing, and says which."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from . import bootstrap, checkpoints, models, reasoning, records, runtime, studies
from .assembly import SPLITS, Data, curate, fingerprint, hashes, is_curated, is_fresh, load, short, take_in
from .augmentation import arm_files, augment, compare, for_review, teacher
from .files import UserError, disk_is_full, read_object, write_json, write_text
from .profiles import Profile
from .records import Record
from .runtime import Run

__all__ = [
    "SPLITS", "Data", "arm_files", "arm_folder", "arm_questions", "augment", "compare", "curate", "ensure", "export_log", "fingerprint", "fitted",
    "for_review", "is_curated", "is_fresh", "is_trained", "load", "log_frame", "rationales", "take_in", "teacher", "train_arm", "training_key",
    "training_logs", "training_summary",
]  # fmt: skip
View = Callable[[int], Callable[[dict], None]]


def arm_questions(run: Run, data: Data, arm: str) -> list[Record]:
    """The training questions of an arm: `plain`, `reasoned-P` or `explained-P` with a rationale on P % of them (1 to 100; before the answer or
    after it), or a control that notebook 02 wrote (`shuffled-33`, `plain-token-matched`).

    Raises `UserError` for another name.
    """
    if studies.explains(arm):
        # The same questions carry the same rationales.
        return arm_questions(run, data, arm.replace("explained", "reasoned"))
    written = run.path("reasoning", f"train_{arm}.jsonl")
    place = run.path("reasoning", "manifest.json")
    manifest = read_object(place, files=dict, choice=dict)
    ranking = manifest["choice"].get("ranking")
    if not isinstance(ranking, list) or not all(isinstance(i, str) for i in ranking):
        raise UserError(f"{place}, field 'choice': expected a ranking of ids. Run notebook 02 again.")
    if arm == "plain":
        return data.questions["train"]
    if written.name in manifest["files"]:
        return records.read(written)
    match = re.fullmatch(r"reasoned-(\d{1,3})", arm)
    if not match or not 1 <= int(match[1]) <= 100:
        known = ", ".join(name.removeprefix("train_").removesuffix(".jsonl") for name in manifest["files"])
        raise UserError(f"Unknown arm {arm!r}. Known: {known}, reasoned-P and explained-P for any percentage P from 1 to 100.")
    accepted = rationales(run)
    # By the manifest's ranking, which a user's own list leads.
    carriers = ranking[: round(int(match[1]) / 100 * len(data.questions["train"]))]
    if lacking := [i for i in carriers if i not in accepted]:
        raise UserError(f"{run.path('reasoning', 'accepted.json')}: no rationale of {lacking[0]!r}, which the manifest beside it names. Run notebook 02 again.")
    return reasoning.mix(data.questions["train"], accepted, 1.0, chosen=carriers)


def rationales(run: Run) -> dict[str, str]:
    """The accepted rationale of each training question, by id. Raises `UserError` when notebook 02 has not put them on."""
    path = run.path("reasoning", "accepted.json")
    found = read_object(path)
    if wrong := next((i for i, text in found.items() if not isinstance(text, str)), None):
        raise UserError(f"{path}, field {wrong!r}: expected a text. Run notebook 02 again.")
    return found


def arm_folder(run: Run, arm: str) -> Path:
    """Where an arm's checkpoints, log and adapter lie."""
    return run.path("arms", arm, f"seed{run.recipe.seed}")


def train_arm(
    run: Run, data: Data, arm: str, *, view: View = lambda steps: lambda row: None, say: Callable[[str], None] = print
) -> Path:
    """Train an arm, or find it trained; the adapter is in `adapter/` of the folder returned.

    The steps on sentence pairs alone are the same in every arm with as many steps as `plain`: they are trained once, in `arms/shared`, and each
    arm goes on from that checkpoint, which equals training it whole (tests/test_training.py). `view(steps)` makes the callback that shows
    progress. Raises `UserError`, also when another process is training this arm here.
    """
    questions = arm_questions(run, data, arm)
    folder, keys = arm_folder(run, arm), _training_keys(run, data, arm, questions)
    if _is_done(folder, keys[0]):
        say(f"Arm {arm}: found trained in {short(folder)}.")
        return folder
    busy = f"{short(folder)}: another notebook or command is training this arm. Wait for it, or choose another RUN name."
    with bootstrap.lock(_lock_of(folder), busy=busy):
        try:
            _train_whole(run, data, arm, questions, keys, view, say)
        except Exception as error:
            if isinstance(error, UserError):
                raise
            # Checkpoints are written and read by libraries that each have a class of their own for what goes wrong.
            if disk_is_full(error):
                raise UserError(f"{folder}: the disk is full. Free some space and run again: it goes on from the last checkpoint.") from error
            if type(error).__name__ in ("UnpicklingError", "SafetensorError") or "PytorchStreamReader" in str(error):
                raise UserError(
                    f"{folder}: a file of its last checkpoint is damaged, or holds what no checkpoint of this program does, and was not loaded. "
                    "Remove that checkpoint and run again: it goes on from the one before."
                ) from error
            raise
    return folder


def _train_whole(run: Run, data: Data, arm: str, questions: list[Record], keys: tuple[str, str], view: View, say: Callable[[str], None]) -> None:
    from . import distributed, training

    order = dataclasses.replace(training.plan(run.recipe, data.pairs["train"], questions), reasoning_last=studies.explains(arm))
    dev = {"pairs": data.pairs["dev"][: run.recipe.dev_loss_pairs], "questions": data.questions["dev"]}
    folder, shared = arm_folder(run, arm), arm_folder(run, "shared")
    _claim(folder, keys[0], say)
    # The learning rate falls over all steps of an arm, so one with more of them (plain-token-matched) has other first steps too.
    plain = training.plan(run.recipe, data.pairs["train"], arm_questions(run, data, studies.BASELINE))
    shares = order.shared_steps and order.steps == plain.steps
    with_whom = "shared with the other arms" if shares else f"its own, for {studies.BASELINE} has {plain.steps} steps"
    alone = f"of which {order.shared_steps} on sentence pairs are {with_whom}" if order.shared_steps else "with sentence pairs and questions mixed from the start"
    say(f"Arm {arm}: {order.steps} steps, {alone}.")
    profile = fitted(run.profile, order, say)
    progress = view(order.steps)
    if shares and checkpoints.last_checkpoint(folder) is None:
        with bootstrap.lock(_lock_of(shared), f"{short(shared)}: another notebook or command is training this part; waiting for it …"):
            _claim(shared, keys[1], say)
            saved = checkpoints.last_checkpoint(shared)
            if saved is None or int(saved.name.split("-")[1]) < order.shared_steps:
                distributed.train(profile, order, dev, shared, stop_after=order.shared_steps, progress=progress, say=say)
            checkpoints.begin_from(shared, folder)
    distributed.train(profile, order, dev, folder, progress=progress, say=say)


def fitted(profile: Profile, order, say: Callable[[str], None]) -> Profile:
    """On a GPU the profile with as much of a step at once as its memory holds: the same step, faster."""
    from . import memory, training

    budget = runtime.gpu_gib()
    if not budget:
        return profile
    longest = max(len(e["input_ids"]) for e in training.encode(models.load_tokenizer(profile, say), profile, order.items, order.reasoning_last))
    found = memory.fitted(profile, longest, budget)
    if found != profile:
        kept = "every activation kept" if not found.recipe.gradient_checkpointing else "with gradient checkpointing"
        times = f", accumulated {found.recipe.accumulation} times" if found.recipe.accumulation > 1 else ""
        say(f"{found.recipe.batch_size} examples at once{times}, {kept}: predicted to fit {budget:.1f} GiB.")
    return found


def _lock_of(folder: Path) -> Path:
    # Beside the folder: it may be removed while the lock is held.
    return folder.with_name(f".{folder.name}.lock")


def _is_done(folder: Path, key: str) -> bool:
    return is_fresh(folder / "made_from.json", key, folder / "done.json", folder / "adapter" / "adapter_model.safetensors")


def is_trained(run: Run, data: Data, arm: str) -> bool:
    """Whether an arm's adapter is there, trained from these data, settings and code. Raises `UserError` for an unknown arm."""
    return _is_done(arm_folder(run, arm), training_key(run, data, arm))


def training_key(run: Run, data: Data, arm: str) -> str:
    """A short hash of what an arm is trained from: data, settings and code. Raises `UserError` for an unknown arm."""
    return _training_keys(run, data, arm, arm_questions(run, data, arm))[0]


def _training_keys(run: Run, data: Data, arm: str, questions: list[Record]) -> tuple[str, str]:
    """What an arm, and the part that all arms share, are trained from."""
    from . import fused, packing, prompts, training

    # What training does not depend on is left out: changing it trains nothing again.
    inference_only = ("generation_batch", "few_shot", "ask_base", *(f"{kind}_budget" for kind in ("translation", "answer", "multistep", "reasoning", "line")))
    recipe = dataclasses.replace(run.recipe, **dict.fromkeys(inference_only, 0))
    code = hashes(*(Path(module.__file__) for module in (fused, models, packing, prompts, training)))
    common = [run.profile.model, recipe, data.manifest["files"], code]
    return fingerprint(*common, [r.reasoning for r in questions], studies.explains(arm)), fingerprint(*common)


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
    logs = {(p.parent.parent.name, int(p.parent.name[4:])): p for p in sorted(run.path("arms").glob("*/seed*/log.jsonl"))}
    order = [job for job in run.study.jobs if job in logs] + [job for job in logs if job not in run.study.jobs]
    # An arm that is being trained, or was killed, may end in half a line.
    return {job: checkpoints.read_log(logs[job], partial=True) for job in order if job[0] != "shared"}


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
    before = log[log.phase != "questions"].groupby(job, sort=False).target_tokens_seen.max()
    frame.insert(0, "question_targets", questions.target_tokens_seen.max() - before)
    frame.insert(0, "target_tokens", arms.target_tokens_seen.max())
    frame.insert(0, "tokens", arms.tokens_seen.max())
    frame.insert(0, "steps", arms.step.max())
    return frame.reset_index()


def export_log(run: Run) -> Path:
    """All training logs as one CSV (`report/training_log.csv`), a row an arm, seed and step. Raises `UserError`."""
    return write_text(run.path("report", "training_log.csv"), log_frame(run).to_csv(index=False))
