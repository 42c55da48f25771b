"""The stages of a run: curate → augment → train. Each looks for what is there, makes what is missing, and says which."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import corpora, curation, reasoning, records
from .files import UserError, read_json, sha256, write_json, write_text
from .records import Record
from .runtime import Run

SPLITS = ("train", "dev", "test")
View = Callable[[int], Callable[[dict], None]]


@dataclass(frozen=True)
class Data:
    """The records of one run by split, sentence pairs and questions apart."""

    pairs: dict[str, list[Record]]
    questions: dict[str, list[Record]]
    manifest: dict


def fingerprint(*parts: object) -> str:
    """A short hash of settings and file hashes: a stage is done when it was made from the same ones."""
    text = json.dumps(parts, sort_keys=True, default=lambda o: dataclasses.asdict(o))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_fresh(marker: Path, key: object, *files: Path) -> bool:
    """Whether `marker` says that its stage was made from `key`, and what it made, `files`, is there."""
    return marker.exists() and read_json(marker).get("made_from") == key and all(f.exists() for f in files)


def _some(questions: Sequence[Record], count: int) -> list[Record]:
    """The first `count` in an order balanced over categories; all of them for 0."""
    if not count:
        return list(questions)
    chosen = set(reasoning.ranking(questions)[:count])
    return [r for r in questions if r.id in chosen]


def curate(run: Run, say: Callable[[str], None] = print, user_file: str = "") -> Data:
    """`data/{train,dev,test}.jsonl` and `data/manifest.json` of the run, made if they are not there.

    `user_file` is a JSONL file of records to add (by their `split`, else to train); a copy stays in the run folder, so that later
    notebooks find it. Training records hold no rationale: notebook 02 puts them on. Raises `UserError`, `RecordError`.
    """
    recipe, folder = run.recipe, run.path("data")
    if user_file:
        _take_in(Path(user_file), _own(run))
    own = records.read(_own(run)) if _own(run).exists() else []
    wanted = {"train": recipe.train_pairs, "dev": recipe.dev_pairs, "test": recipe.test_pairs}
    limits = (recipe.questions, recipe.test_questions)
    key = fingerprint(wanted, limits, recipe.seed, _hashes(corpora.QUESTIONS, _own(run), Path(curation.__file__)), corpora.TATOEBA)
    if is_fresh(folder / "manifest.json", key, *(folder / f"{s}.jsonl" for s in SPLITS)):
        say(f"Curated data: found in {_short(folder)}.")
        return load(run)
    say("Curated data: none for these settings in the run folder, so it is made from the sources now.")
    authored = corpora.questions()
    questions = {s: _some([r for r in authored if r.split == s], limits[s == "test"]) for s in SPLITS}
    own_held = [r for r in own if r.split in ("dev", "test")]
    held = [*questions["dev"], *questions["test"], *own_held]
    pairs, funnel = curation.curate_pairs(corpora.tatoeba(say), held, wanted, recipe.seed)
    guard = curation.Contamination([*held, *pairs["dev"], *pairs["test"]])
    kept = curation.Funnel()
    if own_held:
        questions["train"] = kept.apply("authored", questions["train"], curation.Contamination(own_held))
    own = kept.apply("own", own, lambda r: "" if r.split in ("dev", "test") else guard(r))
    for split in SPLITS:
        mine = [r.replace(split=split) for r in own if (r.split or "train") == split]
        asked = [r.replace(reasoning="") if split == "train" else r for r in (*questions[split], *mine)]
        records.write(folder / f"{split}.jsonl", [*pairs[split], *asked])
    write_json(folder / "dropped.json", funnel.dropped + kept.dropped)
    write_json(folder / "manifest.json", _manifest(run, key, funnel, kept))
    return load(run)


def _own(run: Run) -> Path:
    return run.path("data", "own.jsonl")


def _hashes(*paths: Path) -> list[str]:
    return [sha256(p) if p.exists() else "" for p in paths]


def _take_in(source: Path, target: Path) -> None:
    taken = {r.id for r in corpora.questions()}
    found = records.read(source)
    for record in found:
        if record.id in taken or record.id.startswith("tatoeba-"):
            raise records.RecordError(f"{source}, record {record.id!r}, field 'id': expected one that the shipped data does not have.")
    records.write(target, found)


def _manifest(run: Run, key: str, funnel: curation.Funnel, own: curation.Funnel) -> dict:
    sources = [
        ("tatoeba", corpora.TATOEBA.license, corpora.TATOEBA.attribution, corpora.TATOEBA.sha256),
        ("data/questions.jsonl", "CC BY 4.0", "The BONSAI Reasoning Notebooks authors", sha256(corpora.QUESTIONS)),
    ]
    if _own(run).exists():
        sources.append(("own.jsonl", "as its records say", "the user of this run", sha256(_own(run))))
    return {
        "made_from": key,
        "seed": run.recipe.seed,
        "funnel": funnel.steps,
        "own": own.steps,
        "dropped": dict(Counter(why for _, why in funnel.dropped + own.dropped)),
        "files": {f"{s}.jsonl": sha256(run.path("data", f"{s}.jsonl")) for s in SPLITS},
        "sources": [dict(zip(("name", "license", "attribution", "sha256"), s, strict=True)) for s in sources],
    }


def load(run: Run) -> Data:
    """The curated data of a run. Raises `UserError` when notebook 01 has not made it, `RecordError` when it is damaged."""
    found = {split: records.read(run.path("data", f"{split}.jsonl")) for split in SPLITS}
    return Data(
        {s: [r for r in found[s] if r.task == "translate"] for s in SPLITS},
        {s: [r for r in found[s] if r.task == "qa"] for s in SPLITS},
        read_json(run.path("data", "manifest.json")),
    )


def augment(run: Run, data: Data, say: Callable[[str], None] = print) -> dict:
    """`data/train_reasoned.jsonl`: the training questions with a rationale on a third of them, and its manifest.

    The rationales come from the authored set and the user's own records, and pass the gates of `reasoning.gate`. Raises `UserError`.
    """
    recipe = run.recipe
    marker, made = run.path("reasoning", "manifest.json"), run.path("reasoning", "accepted.json")
    key = fingerprint(data.manifest["made_from"], recipe.reasoning_fraction, recipe.seed, sha256(reasoning.__file__))
    if is_fresh(marker, key, made, run.path("data", "train_reasoned.jsonl")):
        say(f"Rationales: found in {_short(marker.parent)}.")
        return read_json(marker)
    say("Rationales: none for these settings in the run folder, so they are put on now.")
    library = [*corpora.questions(), *(records.read(_own(run)) if _own(run).exists() else [])]
    accepted, outcomes = reasoning.check(data.questions["train"], reasoning.authored(data.questions["train"], library))
    write_json(made, accepted)
    mixed = reasoning.mix(data.questions["train"], accepted, recipe.reasoning_fraction, recipe.seed)
    path = records.write(run.path("data", "train_reasoned.jsonl"), mixed)
    manifest = {
        "made_from": key,
        "teacher": "authored",
        "fraction": recipe.reasoning_fraction,
        "questions": len(mixed),
        "with_reasoning": sum(bool(r.reasoning) for r in mixed),
        "outcomes": dict(outcomes),
        "files": {path.name: sha256(path)},
    }
    write_json(marker, manifest)
    return manifest


def arm_questions(run: Run, data: Data, arm: str) -> list[Record]:
    """The training questions of an arm: `plain`, or `reasoned-P` with a rationale on P % of them (1 to 100).

    Raises `UserError` for another name.
    """
    if arm == "plain":
        return data.questions["train"]
    match = re.fullmatch(r"reasoned-(\d{1,3})", arm)
    if not match or not 1 <= int(match[1]) <= 100:
        raise UserError(f"Unknown arm {arm!r}. Known: plain, reasoned-33 (any percentage from 1 to 100).")
    accepted = read_json(run.path("reasoning", "accepted.json"))
    return reasoning.mix(data.questions["train"], accepted, int(match[1]) / 100, run.recipe.seed)


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
    from . import models, prompts, training

    questions = arm_questions(run, data, arm)
    order = training.plan(run.recipe, data.pairs["train"], questions)
    dev = {"pairs": data.pairs["dev"][: run.recipe.dev_loss_pairs], "questions": data.questions["dev"]}
    folder, shared = arm_folder(run, arm), arm_folder(run, "shared")
    recipe = dataclasses.replace(run.recipe, generation_batch=0, few_shot=0, translation_budget=0, answer_budget=0, multistep_budget=0)
    code = _hashes(*(Path(module.__file__) for module in (models, prompts, training)))
    common = [run.profile.model, recipe, data.manifest["files"], code]
    key = fingerprint(*common, [r.reasoning for r in questions])
    _claim(folder, key, say)
    if (folder / "done.json").exists() and (folder / "adapter").exists():
        say(f"Arm {arm}: found trained in {_short(folder)}.")
        return folder
    say(f"Arm {arm}: {order.steps} steps, of which {order.shared_steps} on sentence pairs are shared by all arms.")
    progress = view(order.steps)
    if order.shared_steps and training.last_checkpoint(folder) is None:
        _claim(shared, fingerprint(*common), say)
        saved = training.last_checkpoint(shared)
        if saved is None or int(saved.name.split("-")[1]) < order.shared_steps:
            training.train(run.profile, order, dev, shared, stop_after=order.shared_steps, progress=progress, say=say)
        training.begin_from(shared, folder)
    training.train(run.profile, order, dev, folder, progress=progress, say=say)
    return folder


def _claim(folder: Path, key: str, say: Callable[[str], None]) -> None:
    """Begin a training folder; what was trained from other data or settings there is removed."""
    marker = folder / "made_from.json"
    if not is_fresh(marker, key):
        if folder.exists():
            say(f"{_short(folder)}: from other data, settings or code, so it is removed and trained anew.")
            # Not ignore_errors: a checkpoint left behind would be gone on from under the new key.
            shutil.rmtree(folder)
        write_json(marker, {"made_from": key})


def training_logs(run: Run) -> dict[str, list[dict]]:
    """Training log rows of every arm in the run folder."""
    from .training import read_log

    found = {}
    for path in sorted(run.path("arms").glob(f"*/seed{run.recipe.seed}/log.jsonl")):
        if path.parent.parent.name != "shared":
            found[path.parent.parent.name] = read_log(path)
    return found


def ensure(run: Run, *, train: bool = False, view: View = lambda steps: lambda row: None, say: Callable[[str], None] = print) -> Data:
    """What earlier notebooks make: curated data and rationales, with `train` the trained arms too. Raises `UserError`."""
    data = curate(run, say)
    augment(run, data, say)
    if train:
        for arm in run.profile.arms:
            train_arm(run, data, arm, view=view, say=say)
    return data


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])


def log_frame(run: Run):
    """The training logs as one data frame, a row an arm and step. Raises `UserError` when no arm has been trained."""
    import pandas as pd

    logs = training_logs(run)
    if not logs:
        raise UserError(f"{run.path('arms')}: no arm has been trained. Run notebook 03 first.")
    return pd.concat([pd.DataFrame(rows).assign(arm=arm) for arm, rows in logs.items()], ignore_index=True)


def training_summary(run: Run):
    """What training took and came to, a row an arm: a data frame. `training_loss` is the mean of the last 20 steps."""
    log = log_frame(run)
    arms, questions = log.groupby("arm", sort=False), log[log.phase == "questions"].groupby("arm", sort=False)
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
    """All training logs as one CSV (`report/training_log.csv`), a row an arm and step. Raises `UserError`."""
    return write_text(run.path("report", "training_log.csv"), log_frame(run).to_csv(index=False))
