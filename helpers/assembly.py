"""The curated data of a run: sources → cleaned, filtered, decontaminated, drawn, as a reader decided; every drop keeps its reason."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import bootstrap, controls, corpora, curation, edits, filters, models, reasoning, records, similarity, sources
from .files import read_json, read_object, sha256, whole_file, write_json
from .records import Record
from .runtime import Run

SPLITS = ("train", "dev", "test")
MAX_TOKENS = 128  # of a sentence


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
    return marker.exists() and read_object(marker).get("made_from") == key and all(f.exists() for f in files)


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
    folder = run.path("data")
    given = [sources.table(user_file, columns, say=say)] if user_file else []
    given += [sources.hub(hub, hub_split, None if user_file else columns, say=say)] if hub else []
    given += [sources.facts(facts)] if facts else []
    if given:
        take_in(run, given)
    if evaluation_file:
        records.write(_evaluation(run), similarity.evaluation_rows(evaluation_file))
    own = records.read(own_file(run)) if own_file(run).exists() else []
    wanted, limits = _wanted(run)
    key = _key(run)
    if is_curated(run):
        say(f"Curated data: found in {short(folder)}.")
        return load(run)
    say("Curated data: none for these settings in the run folder, so it is made from the sources now.")
    busy = f"{short(folder)}: another notebook or command is making these data. Wait for it, or choose another RUN name."
    with bootstrap.lock(folder.with_name(f".{folder.name}.lock"), busy=busy):
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


def is_curated(run: Run) -> bool:
    """Whether the run's curated data are there, made from these settings, sources and code."""
    folder = run.path("data")
    return is_fresh(folder / "manifest.json", _key(run), *(folder / f"{s}.jsonl" for s in SPLITS))


def _wanted(run: Run) -> tuple[dict[str, int], tuple[int | str, ...]]:
    recipe = run.recipe
    wanted = {"train": recipe.train_pairs, "dev": recipe.dev_pairs, "test": recipe.test_pairs}
    return wanted, (
        recipe.questions, recipe.test_questions, recipe.control_train, recipe.control_dev, recipe.control_test, recipe.control_kinds
    )  # fmt: skip


def _key(run: Run) -> str:
    files = hashes(corpora.QUESTIONS, own_file(run), _evaluation(run), _edits(run))
    code = hashes(*(Path(module.__file__) for module in (curation, edits, filters, similarity)), *sorted(Path(controls.__file__).parent.glob("*.py")))
    return fingerprint(*_wanted(run), run.recipe.pool_pairs, run.recipe.seed, files, code, corpora.TATOEBA)


def _draw(
    run: Run, provided: Sequence[sources.Provided], own: Sequence[Record], wanted: dict[str, int], limits: tuple[int, ...], say
) -> tuple[dict[str, curation.Funnel], list[Record]]:
    """The funnel of each source, and the records with their splits: pairs before questions."""
    tatoeba, authored = (p.records for p in provided)
    questions = {s: _some([r for r in authored if r.split == s], limits[s == "test"]) for s in SPLITS}
    for record in control_questions(run):
        questions[record.split].append(record)
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
    count = filters.token_counter(models.load_tokenizer(run.profile, say))
    limit = min(MAX_TOKENS, run.recipe.max_length // 3)  # both sides and the prompt's own words have to fit
    pairs, funnels["tatoeba"] = curation.curate_pairs(
        tatoeba, [*held, *own_pairs], fill, run.recipe.seed, count_tokens=count, max_tokens=limit, pool=run.recipe.pool_pairs
    )
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
            say(f"{short(_edits(run))}: the decision on {record_id} was not applied ({why}).")
    return found


def control_questions(run: Run) -> list[Record]:
    """The problems of the positive control that the recipe asks for, with their rationales."""
    recipe = run.recipe
    return controls.generate(recipe.control_train, recipe.control_dev, recipe.control_test, kinds=recipe.control_kinds.split())


def own_file(run: Run) -> Path:
    """Where the records of the user's sources lie."""
    return run.path("data", "own.jsonl")


def _evaluation(run: Run) -> Path:
    return run.path("data", "evaluation.jsonl")


def _edits(run: Run) -> Path:
    return run.path("data", "edits.jsonl")


def hashes(*paths: Path) -> list[str]:
    """SHA-256 of each file, "" for one that is not there."""
    return [sha256(p) if p.exists() else "" for p in paths]


def take_in(run: Run, provided: Sequence[sources.Provided]) -> None:
    """Put a user's sources into the run, in place of those before: `data/own.jsonl`, and what is owed for them `own.json`.

    Raises `RecordError` for an id that is taken.
    """
    taken = {r.id: "the shipped questions" for r in corpora.questions()}
    for source in provided:
        for record in source.records:
            if record.id in taken or record.id.startswith("tatoeba-"):
                where = taken.get(record.id, "the corpus")
                raise records.RecordError(f"{source.name}, record {record.id!r}, field 'id': expected one that {where} does not have.")
            taken[record.id] = source.name
    records.write(own_file(run), [r for source in provided for r in source.records])
    write_json(run.path("data", "own.json"), [source.to_manifest() for source in provided])


def _manifest(run: Run, key: str, funnels: Mapping[str, curation.Funnel], provided: Sequence[sources.Provided]) -> dict:
    owed = [p.to_manifest() for p in provided] + (read_json(run.path("data", "own.json")) if own_file(run).exists() else [])
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
        read_object(run.path("data", "manifest.json"), files=dict),
    )


def short(path: Path) -> str:
    """The last three parts of a path: what a line of output says of it."""
    return "/".join(path.parts[-3:])
