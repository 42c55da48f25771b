"""Which training records carry a rationale, the controls of DESIGN section 6, and the training file of each arm."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from . import edits, prompts, records
from .files import UserError, sha256, write_json
from .gates import REASONS, check, concludes, gate
from .records import Record

__all__ = [
    "authored", "check", "gate", "mix", "ranking", "remake_arms", "reviewed", "shuffled", "target_tokens", "token_matched", "write_arms",
]  # fmt: skip
CONTROL = 0.33
ACCEPTED_FILE, MANIFEST = "accepted.json", "manifest.json"


def authored(training: Sequence[Record], library: Sequence[Record]) -> dict[str, str]:
    """The shipped rationale of each training question, by record id."""
    rationales = {r.id: r.reasoning for r in library if r.reasoning}
    return {r.id: rationales[r.id] for r in training if r.id in rationales}


def reviewed(
    training: Sequence[Record], rationales: Mapping[str, str], decisions: Mapping[str, edits.Decision]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The rationales as a reader decided on them, and `edits.apply`'s (record id, reason) of what was left out; gates come after.

    A rationale that the reader wrote where there was none is among them.
    """
    shown = [r.replace(reasoning=rationales.get(r.id, "")) for r in training if r.id in rationales or r.id in decisions]
    kept, dropped = edits.apply(shown, decisions)
    return {r.id: r.reasoning for r in kept if r.reasoning}, dropped


def ranking(training: Sequence[Record], seed: int = 0, first: Collection[str] = ()) -> list[str]:
    """Record ids in an order whose every prefix is balanced over category and difficulty; the ids in `first` lead.

    Taking the first fifth, third, two thirds or all of it gives nested subsets (20 ⊂ 33 ⊂ 67 ⊂ 100 %).
    """
    strata: dict[tuple[bool, str, str], list[str]] = defaultdict(list)
    for record in training:
        strata[record.id not in first, record.category, record.difficulty].append(record.id)
    generator = random.Random(seed)
    keyed = []
    for stratum in sorted(strata):
        ids = sorted(strata[stratum])
        generator.shuffle(ids)
        offset = generator.random()
        keyed += [(stratum[0], (i + offset) / len(ids), *stratum[1:], record_id) for i, record_id in enumerate(ids)]
    return [k[-1] for k in sorted(keyed)]


def _carriers(
    training: Sequence[Record], rationales: Mapping[str, str], fraction: float, seed: int, chosen: Collection[str] | None
) -> list[str]:
    """The ids of the records that carry a rationale. Raises `UserError`."""
    if not 0 <= fraction <= 1:
        raise UserError(f"reasoning_fraction is {fraction}: choose a number from 0 to 1.")
    candidates = [r for r in training if r.id in rationales]
    if chosen is None:
        return ranking(candidates, seed)[: round(fraction * len(training))]
    _check_chosen(training, rationales, chosen)
    listed = set(chosen)
    return ranking([r for r in candidates if r.id in listed], seed)


def _check_chosen(training: Sequence[Record], rationales: Mapping[str, str], chosen: Collection[str]) -> None:
    if isinstance(chosen, str):
        raise UserError("The chosen records are one text; give a list of ids.")
    known = {r.id for r in training}
    unknown = [i for i in chosen if i not in known]
    bare = [i for i in chosen if i in known and i not in rationales]
    for ids, what in ((unknown, "are not in the training set"), (bare, "have no accepted rationale")):
        if ids:
            shown = ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
            raise UserError(f"Of the chosen records {len(ids)} {what}: {shown}. Take them off the list.")


def mix(
    training: Sequence[Record],
    rationales: Mapping[str, str],
    fraction: float,
    seed: int = 0,
    chosen: Collection[str] | None = None,
) -> list[Record]:
    """The same records in the same order, with a rationale on the first `fraction` (0 to 1) of the ranking, or on `chosen` ids.

    Raises `UserError` for a fraction outside 0 … 1, and for a chosen id that is unknown or has no accepted rationale.
    """
    carriers = set(_carriers(training, rationales, fraction, seed, chosen))
    return _carry(training, {i: rationales[i] for i in carriers})


def _carry(training: Sequence[Record], rationales: Mapping[str, str]) -> list[Record]:
    return [r.replace(reasoning=rationales.get(r.id, "")) for r in training]


def _in_words(text: str) -> int:
    return len(text.split())


def shuffled(
    training: Sequence[Record],
    rationales: Mapping[str, str],
    fraction: float,
    seed: int = 0,
    length: Callable[[str], int] = _in_words,
    chosen: Collection[str] | None = None,
) -> list[Record]:
    """The control in which the records of `mix` carry each other's rationales; questions and answers stay right.

    Every rationale is used once, so that the number of target tokens stays what it is, and on a record whose own one is about as
    long (`length` of a text, in tokens). None is a record's own, none concludes with the record's answer. Raises `UserError`.
    """
    carriers = _carriers(training, rationales, fraction, seed, chosen)
    donors = _donors(training, rationales, carriers, seed, length)
    return _carry(training, {i: rationales[donor] for i, donor in donors.items()})


def _donors(
    training: Sequence[Record], rationales: Mapping[str, str], carriers: Collection[str], seed: int, length: Callable[[str], int]
) -> dict[str, str]:
    """Whose rationale each carrier gets: the derangement of least total difference in length that is allowed."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    listed = set(carriers)
    takers = sorted((r for r in training if r.id in listed), key=lambda r: r.id)
    if not takers:
        return {}
    sizes = np.array([length(rationales[r.id]) for r in takers], dtype=float)
    # The seed breaks ties by less than a token; RandomState's stream is frozen, and with it the only best assignment.
    cost = np.abs(sizes[:, None] - sizes) + np.random.RandomState(seed).random_sample((len(takers),) * 2)
    np.fill_diagonal(cost, np.inf)
    while True:
        try:
            rows, columns = linear_sum_assignment(cost)
        except ValueError as error:
            raise UserError(
                f"The shuffled control needs another record's rationale for each of {len(takers)} records, one that does not conclude "
                "with its answer, and there are too few. Let more records carry a rationale."
            ) from error
        # Asking only about the pairs that come up, and forbidding them, ends in the same optimum as asking about all pairs first.
        giveaway = [(i, j) for i, j in zip(rows, columns, strict=True) if concludes(takers[i], rationales[takers[j].id])]
        if not giveaway:
            break
        for pair in giveaway:
            cost[pair] = np.inf
    return {takers[i].id: takers[j].id for i, j in zip(rows, columns, strict=True)}


def target_tokens(record: Record, count_tokens: Callable[[str], int]) -> int:
    """Supervised tokens of a question in one epoch: once as `multistep`, once as `answer` or `direct`, an end token each."""
    return sum(count_tokens(prompts.completion(stage, record)) + 1 for stage in ("multistep", "answer"))


def token_matched(
    plain: Sequence[Record], reasoned: Sequence[Record], tokens: Callable[[Record], int], seed: int = 0
) -> list[Record]:
    """The control without rationales but with as many target tokens: `plain`, then records of it again (id with "#2", "#3" …).

    Whole records are added, in a balanced order, while that brings the sum of `tokens` nearer to that of `reasoned`: it ends
    within one record. Raises `UserError` when `plain` has no tokens.
    """
    return _repeat(plain, _repeats(plain, reasoned, tokens, seed))


def _repeats(plain: Sequence[Record], reasoned: Sequence[Record], tokens: Callable[[Record], int], seed: int) -> list[str]:
    sizes = {r.id: tokens(r) for r in plain}
    gap = sum(map(tokens, reasoned)) - sum(sizes.values())
    if not all(size > 0 for size in sizes.values()) or (gap > 0 and not sizes):
        raise UserError("The token-matched control needs records with target tokens to repeat.")
    again: list[str] = []
    for record_id in itertools.cycle(ranking(plain, seed)):
        if gap <= sizes[record_id] / 2:
            break
        again.append(record_id)
        gap -= sizes[record_id]
    return again


def _repeat(plain: Sequence[Record], again: Sequence[str]) -> list[Record]:
    by_id, seen, added = {r.id: r for r in plain}, Counter(r.id for r in plain), []
    for record_id in again:
        seen[record_id] += 1
        added.append(by_id[record_id].replace(id=f"{record_id}#{seen[record_id]}"))
    return [*plain, *added]


def _percent(fraction: float) -> int:
    return round(100 * fraction)


def _arms(training: Sequence[Record], accepted: Mapping[str, str], choice: Mapping) -> dict[str, list[Record]]:
    """The records of each training file, as the manifest's `choice` says: the one way in which files are made and made again."""
    plain, order, control = _carry(training, {}), choice["ranking"], _percent(choice["control"])
    files = {"train_plain.jsonl": plain}
    for fraction in choice["fractions"]:
        carriers = order[: round(fraction * len(training))]
        files[f"train_reasoned-{_percent(fraction)}.jsonl"] = _carry(training, {i: accepted[i] for i in carriers})
    donated = {i: accepted[donor] for i, donor in choice["donors"].items()}
    files[f"train_shuffled-{control}.jsonl"] = _carry(training, donated)
    files["train_plain-token-matched.jsonl"] = _repeat(plain, choice["repeats"])
    return files


def write_arms(
    folder: str | Path,
    training: Sequence[Record],
    accepted: Mapping[str, str],
    *,
    count_tokens: Callable[[str], int],
    fractions: Sequence[float] = (0.2, CONTROL, 0.67, 1.0),
    control: float = CONTROL,
    seed: int = 0,
    chosen: Collection[str] | None = None,
    teachers: Mapping[str, str] | str = "authored",
    licences: Mapping[str, str] | None = None,
) -> dict:
    """The training file of every arm, `accepted.json` and `manifest.json` in `folder`; returns the manifest.

    `accepted` are the rationales that passed the gates, `teachers` who wrote each (or all), `licences` the licence by teacher,
    `count_tokens` the length of a text in the model's tokens. The controls are made for the fraction `control`. With `chosen` ids the
    first fraction and the controls are exactly these, and larger `fractions` go on from them. `remake_arms` makes the same files
    again from the manifest. Raises `UserError`.
    """
    wanted = {_percent(f): f for f in sorted({*fractions, control})}
    if chosen is not None:
        _check_chosen(training, accepted, chosen)
        control = len(set(chosen)) / max(1, len(training))
        wanted = {_percent(control): control} | {p: f for p, f in wanted.items() if p > _percent(control)}
    for fraction in wanted.values():
        _carriers(training, accepted, fraction, seed, None)
    order = ranking([r for r in training if r.id in accepted], seed, first=set(chosen or ()))
    carriers = order[: round(control * len(training))]
    plain, reasoned = _carry(training, {}), _carry(training, {i: accepted[i] for i in carriers})

    def tokens(record: Record) -> int:
        return target_tokens(record, count_tokens)

    choice = {
        "seed": seed,
        "fractions": list(wanted.values()),
        "control": control,
        "chosen": None if chosen is None else sorted(set(chosen)),
        "ranking": order,
        "donors": _donors(training, accepted, carriers, seed, count_tokens),
        "repeats": _repeats(plain, reasoned, tokens, seed),
    }
    kept = {r.id: accepted[r.id] for r in training if r.id in accepted}
    by = {i: teachers if isinstance(teachers, str) else teachers.get(i, "–") for i in kept}
    described = {}
    for name, found in _write(folder, training, kept, choice).items():
        described[name] = {
            "sha256": sha256(Path(folder, name)),
            "records": len(found),
            "with_reasoning": sum(bool(r.reasoning) for r in found),
            "target_tokens": sum(map(tokens, found)),
        }
    manifest = {
        "choice": choice,
        "files": described,
        "accepted": {"sha256": _hash(kept), "rationales": len(kept)},
        "teachers": dict(sorted(Counter(by.values()).items())),
        "licences": {
            "records": dict(sorted(Counter(r.license or "–" for r in training).items())),
            "rationales": {name: (licences or {}).get(name, "–") for name in sorted(set(by.values()))},
        },
        "gates": REASONS,
    }
    write_json(Path(folder, ACCEPTED_FILE), kept)
    write_json(Path(folder, MANIFEST), manifest)
    return manifest


def _write(folder: str | Path, training: Sequence[Record], accepted: Mapping[str, str], choice: Mapping) -> dict:
    files = _arms(training, accepted, choice)
    for name, found in files.items():
        records.write(Path(folder, name), found)
    return files


def _hash(accepted: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(accepted, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def remake_arms(folder: str | Path, training: Sequence[Record], accepted: Mapping[str, str], manifest: Mapping) -> None:
    """Make the files of a manifest again, from the same training records and `accepted.json`; neither tokenizer nor seed is needed.

    Raises `UserError` when the rationales or a file differ from what the manifest says.
    """
    if _hash(accepted) != manifest["accepted"]["sha256"]:
        raise UserError("The accepted rationales are not those of the manifest. Take the accepted.json that lies beside it.")
    _write(folder, training, accepted, manifest["choice"])
    for name, expected in manifest["files"].items():
        if sha256(Path(folder, name)) != expected["sha256"]:
            raise UserError(f"{Path(folder, name)}: differs from the manifest, which was made from other training records.")
    write_json(Path(folder, ACCEPTED_FILE), accepted)
    write_json(Path(folder, MANIFEST), manifest)
