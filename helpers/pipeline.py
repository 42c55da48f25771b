"""The stages of a run: curate → augment → train. Each looks for what is there, makes what is missing, and says which."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import (
    asking,
    corpora,
    curation,
    edits,
    filters,
    gates,
    models,
    reasoning,
    records,
    similarity,
    sources,
    teachers,
)
from .files import UserError, read_json, sha256, whole_file, write_json, write_text
from .records import Record
from .runtime import Run
from .teachers import Teacher

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


def curate(
    run: Run,
    say: Callable[[str], None] = print,
    *,
    user_file: str = "",
    columns: Mapping[str, str] | None = None,
    hub: str = "",
    hub_split: str = "train[:1000]",
    facts: int = 0,
    evaluation_file: str = "",
) -> Data:
    """`data/{train,dev,test}.jsonl`, `manifest.json` and `dropped.jsonl` of the run, made if they are not there.

    Beyond the shipped sources: `user_file` (a table or JSONL file, see `sources.table`), `hub` (a data set of the hub, see
    `sources.hub`) and `facts` (how many generated questions); `columns` maps fields to columns of either. They go where their `split`
    says, else to train, and stay in the run folder, so that later notebooks find them; given anew, they replace those given before.
    Training records that resemble a row of `evaluation_file` are dropped. What a reader decided on records (`data/edits.jsonl`,
    see `helpers.edits`) is applied last. Training records hold no rationale: notebook 02 puts them on. Raises `UserError`, `RecordError`.
    """
    recipe, folder = run.recipe, run.path("data")
    if user_file or hub or facts:
        _take_in(run, user_file, columns, hub, hub_split, facts, say)
    if evaluation_file:
        records.write(_evaluation(run), similarity.evaluation_rows(evaluation_file))
    own = records.read(_own(run)) if _own(run).exists() else []
    wanted = {"train": recipe.train_pairs, "dev": recipe.dev_pairs, "test": recipe.test_pairs}
    limits = (recipe.questions, recipe.test_questions)
    given = _hashes(corpora.QUESTIONS, _own(run), _evaluation(run), _edits(run))
    code = _hashes(*(Path(module.__file__) for module in (curation, edits, filters, similarity)))
    key = fingerprint(wanted, limits, recipe.seed, given, code, corpora.TATOEBA)
    if is_fresh(folder / "manifest.json", key, *(folder / f"{s}.jsonl" for s in SPLITS)):
        say(f"Curated data: found in {_short(folder)}.")
        return load(run)
    say("Curated data: none for these settings in the run folder, so it is made from the sources now.")
    provided = [sources.tatoeba(say), sources.authored()]
    funnels, kept = _draw(run, provided, own, wanted, limits, say)
    kept = _decided(run, kept, funnels, say)
    for split in SPLITS:
        records.write(folder / f"{split}.jsonl", [r for r in kept if r.split == split])
    with whole_file(folder / "dropped.jsonl") as f:
        for source, funnel in funnels.items():
            for record_id, why, step in funnel.dropped:
                f.write(json.dumps({"id": record_id, "source": source, "step": step, "reason": why}, ensure_ascii=False) + "\n")
    write_json(folder / "manifest.json", _manifest(run, key, funnels, provided))
    return load(run)


def _draw(
    run: Run, provided: Sequence[sources.Provided], own: Sequence[Record], wanted: dict[str, int], limits: tuple[int, int], say
) -> tuple[dict[str, curation.Funnel], list[Record]]:
    """The funnel of each source, and the records with their splits: pairs before questions."""
    tatoeba, authored = (p.records for p in provided)
    questions = {s: _some([r for r in authored if r.split == s], limits[s == "test"]) for s in SPLITS}
    evaluation = records.read(_evaluation(run)) if _evaluation(run).exists() else []
    funnels = {name: curation.Funnel() for name in ("own", "tatoeba", "authored", "reader")}
    own = curation.tidy(own, funnels["own"])
    own_held = [r for r in own if r.split in ("dev", "test")]
    own_train = [r.replace(split="train") for r in own if r.split not in ("dev", "test")]
    held = [*questions["dev"], *questions["test"], *own_held, *evaluation]
    if own_held or evaluation:
        guard = curation.Contamination([*own_held, *evaluation])
        questions["train"] = funnels["authored"].apply("not in the held-out sets", questions["train"], guard)
    own_pairs = [r for r in own_train if r.task == "translate"]
    if len(own_pairs) > wanted["train"]:
        say(f"Your {len(own_pairs):,} sentence pairs are more than train_pairs={wanted['train']:,}: all are kept, Tatoeba adds none.")
    fill = {**wanted, "train": max(0, wanted["train"] - len(own_pairs))}
    pairs, funnels["tatoeba"] = curation.curate_pairs(tatoeba, [*held, *own_pairs], fill, run.recipe.seed)
    guard = curation.Contamination([*held, *pairs["dev"], *pairs["test"]])
    own_train = funnels["own"].apply("not in the held-out sets", own_train, guard)
    kept = []
    for split in SPLITS:
        mine = own_train if split == "train" else [r for r in own_held if r.split == split]
        asked = [*questions[split], *(r for r in mine if r.task == "qa")]
        kept += [r for r in mine if r.task == "translate"] + pairs[split]
        kept += [r.replace(reasoning="") if split == "train" else r for r in asked]
    return funnels, kept


def _decided(run: Run, kept: Sequence[Record], funnels: Mapping[str, curation.Funnel], say: Callable[[str], None]) -> list[Record]:
    """The records as a reader decided on them; a decision that fits none of them is said."""
    found, left = edits.apply(kept, edits.EditStore(_edits(run), say).decisions())
    for record_id, why in left:
        if why == edits.REJECTED:
            funnels["reader"].dropped.append((record_id, why, "decided by a reader"))
        else:
            say(f"{_short(_edits(run))}: the decision on {record_id} was not applied ({why}).")
    return found


def _own(run: Run) -> Path:
    return run.path("data", "own.jsonl")


def _evaluation(run: Run) -> Path:
    return run.path("data", "evaluation.jsonl")


def _edits(run: Run) -> Path:
    return run.path("data", "edits.jsonl")


def _hashes(*paths: Path) -> list[str]:
    return [sha256(p) if p.exists() else "" for p in paths]


def _take_in(run: Run, user_file: str, columns: Mapping[str, str] | None, hub: str, hub_split: str, facts: int, say) -> None:
    """Put the records of the user's sources into `data/own.jsonl`, and what is owed for them into `own.json`."""
    provided = []
    if user_file:
        provided.append(sources.table(user_file, columns, say=say))
    if hub:
        provided.append(sources.hub(hub, hub_split, None if user_file else columns, say=say))
    if facts:
        provided.append(sources.facts(facts))
    taken = {r.id: "the shipped questions" for r in corpora.questions()}
    for source in provided:
        for record in source.records:
            if record.id in taken or record.id.startswith("tatoeba-"):
                where = taken.get(record.id, "the corpus")
                raise records.RecordError(f"{source.name}, record {record.id!r}, field 'id': expected one that {where} does not have.")
            taken[record.id] = source.name
    records.write(_own(run), [r for source in provided for r in source.records])
    write_json(run.path("data", "own.json"), [source.to_manifest() for source in provided])


def _manifest(run: Run, key: str, funnels: Mapping[str, curation.Funnel], provided: Sequence[sources.Provided]) -> dict:
    owed = [p.to_manifest() for p in provided] + (read_json(run.path("data", "own.json")) if _own(run).exists() else [])
    return {
        "made_from": key,
        "seed": run.recipe.seed,
        "funnel": funnels["tatoeba"].steps,
        "own": funnels["own"].steps,
        "dropped": dict(Counter(why for funnel in funnels.values() for _, why, _ in funnel.dropped)),
        "files": {f"{s}.jsonl": sha256(run.path("data", f"{s}.jsonl")) for s in SPLITS},
        "sources": owed,
    }


def load(run: Run) -> Data:
    """The curated data of a run. Raises `UserError` when notebook 01 has not made it, `RecordError` when it is damaged."""
    found = {split: records.read(run.path("data", f"{split}.jsonl")) for split in SPLITS}
    return Data(
        {s: [r for r in found[s] if r.task == "translate"] for s in SPLITS},
        {s: [r for r in found[s] if r.task == "qa"] for s in SPLITS},
        read_json(run.path("data", "manifest.json")),
    )


def augment(
    run: Run,
    data: Data,
    say: Callable[[str], None] = print,
    *,
    teacher: Teacher | None = None,
    samples: int = 4,
    budget: asking.Budget | None = None,
    price: tuple[float, float] = (0.0, 0.0),
    progress: asking.Progress = lambda done, total, tokens, cost, eta: None,
    chosen: Collection[str] | None = None,
) -> dict:
    """`reasoning/`: a training file for each arm (see `reasoning.write_arms`), and `data/train_reasoned.jsonl`; returns the manifest.

    The rationales come from `teacher` (default: the authored set and the user's own records), pass a reader (`reasoning/edits.jsonl`)
    and the gates of `helpers.gates`. `samples`, `budget`, `price` and `progress` as in `asking.collect`; what a teacher was asked for is
    never asked again. `chosen`: the ids of the records that carry a rationale, in place of a seeded draw. What a teacher made is kept by
    later calls without one. Raises `UserError`.
    """
    recipe, folder, train = run.recipe, run.path("reasoning"), data.questions["train"]
    marker, review = folder / "augmentation.json", folder / "edits.jsonl"
    code = _hashes(*(Path(module.__file__) for module in (edits, gates, reasoning)))
    key = fingerprint(data.manifest["files"], recipe.reasoning_fraction, recipe.seed, code, _hashes(review))
    before = read_json(marker) if marker.exists() else {}
    same = is_fresh(marker, key, folder / "manifest.json", run.path("data", "train_reasoned.jsonl"))
    if teacher is None and chosen is None:
        if same:
            say(f"Rationales: found in {_short(folder)}, by {before['teacher']}.")
            return before
        if before.get("teacher", "authored") != "authored" or before.get("chosen"):
            raise UserError(
                f"{folder}: the rationales there ({before['teacher']}) were made from other data or settings. Run notebook 02 again with "
                "its teacher (what it has answered is not asked again), or remove this folder."
            )
    say("Rationales: none for these settings in the run folder, so they are put on now.")
    library = [*corpora.questions(), *(records.read(_own(run)) if _own(run).exists() else [])]
    teacher = teacher or teachers.authored(library)
    tokens = filters.token_counter(models.load_tokenizer(run.profile, say))

    def count(text: str) -> int:
        return tokens([text])[0]

    asked = asking.collect(
        teacher, train, folder / "asked.jsonl", samples=samples, accept=lambda r, text: gates.gate(r, text, count_tokens=count),
        budget=budget, price=price, progress=progress, say=say,
    )  # fmt: skip
    # A refused one too: a reader may mend it.
    proposed = {i: text for i, _, text in asked.refused if text} | asked.accepted
    read, left = reasoning.reviewed(train, proposed, edits.EditStore(review, say).decisions())
    for record_id, why in left:
        say(f"Rationale of {record_id}: left out ({why}).")
    held = [r for split in ("dev", "test") for r in (*data.questions[split], *data.pairs[split])]
    accepted, outcomes = gates.check(train, read, held, count_tokens=count)
    reasoning.write_arms(
        folder, train, accepted, count_tokens=count, fractions=(0.2, recipe.reasoning_fraction, 0.67, 1.0), control=recipe.reasoning_fraction,
        seed=recipe.seed, chosen=chosen, teachers=teacher.name, licences={"authored": "CC BY 4.0"},
    )  # fmt: skip
    mixed = reasoning.mix(train, accepted, recipe.reasoning_fraction, recipe.seed, chosen)
    path = records.write(run.path("data", "train_reasoned.jsonl"), mixed)
    manifest = {
        "made_from": key,
        "teacher": teacher.name if teacher.name == teacher.model else f"{teacher.name} {teacher.model}".strip(),
        "prompt_version": teacher.prompt_version,
        "fraction": recipe.reasoning_fraction,
        "chosen": sorted(chosen) if chosen is not None else None,
        "questions": len(mixed),
        "with_reasoning": sum(bool(r.reasoning) for r in mixed),
        "outcomes": dict(Counter(outcomes.values())),
        "proposed": {i: [text, outcomes.get(i, "missing")] for i, text in proposed.items()},
        "acceptance": gates.acceptance(train, outcomes, teacher.name),
        "asked": {"requests": asked.asked, "tokens_in": asked.tokens_in, "tokens_out": asked.tokens_out, "cost": asked.cost, "left": asked.left},
        "files": {path.name: sha256(path)},
    }
    write_json(marker, manifest)
    return manifest


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
    from . import prompts, training

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
