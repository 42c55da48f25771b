"""From raw records to clean, de-duplicated, decontaminated, split ones; every dropped record keeps its reason."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .files import UserError
from .filters import FILTERS, CountTokens, clean, normalise, odd_length, token_lengths, wrong_language
from .records import Record
from .similarity import Contamination, near_duplicates, ngrams

__all__ = [
    "Contamination", "Funnel", "clean", "curate_pairs", "deduplicate", "ngrams", "normalise", "odd_length", "split_by_entity", "tidy",
    "wrong_language",
]  # fmt: skip


@dataclass
class Funnel:
    """What each filter kept: `steps` holds (label, records left), `dropped` (record id, reason, label of the step) of each refused.

    The last step of `curate_pairs` is a draw: what is neither drawn nor refused is in neither list.
    """

    steps: list[tuple[str, int]] = field(default_factory=list)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)

    def apply(self, label: str, records: Iterable[Record], reason: Callable[[Record], str]) -> list[Record]:
        """Keep the records for which `reason` returns ""; note the others with the reason it gives."""
        records = list(records)
        return self.take(label, records, map(reason, records))

    def take(self, label: str, records: Iterable[Record], reasons: Iterable[str]) -> list[Record]:
        """As `apply`, with the reason of each record given."""
        kept = []
        for record, why in zip(records, reasons, strict=True):
            if why:
                self.dropped.append((record.id, why, label))
            else:
                kept.append(record)
        self.steps.append((label, len(kept)))
        return kept


def deduplicate(records: Sequence[Record], funnel: Funnel) -> list[Record]:
    """Keep the first record of each Japanese and of each English side (normalised)."""
    seen_ja: set[str] = set()
    seen_en: set[str] = set()

    def reason(record: Record) -> str:
        ja, en = normalise(record.ja), normalise(record.en)
        if ja in seen_ja or en in seen_en:
            return "repeats a side"
        seen_ja.add(ja)
        seen_en.add(en)
        return ""

    return funnel.apply("no side repeated", records, reason)


def drop_near_duplicates(records: Sequence[Record], funnel: Funnel, threshold: float = 0.8, seed: int = 0) -> list[Record]:
    """Keep the first of the records that nearly say the same on either side (`similarity.near_duplicates`)."""
    found = near_duplicates(records, threshold, seed)
    reasons = (f"nearly repeats {found[i].side}" if i in found else "" for i in range(len(records)))
    return funnel.take("no near-duplicate", records, reasons)


def tidy(own: Iterable[Record], funnel: Funnel, threshold: float = 0.8) -> list[Record]:
    """A user's own records, cleaned and filtered like the corpus; length bounds and near-duplicates concern sentence pairs alone,
    because questions may be long, and may differ in a name only.
    """
    found = [r.replace(ja=clean(r.ja), en=clean(r.en)) for r in own]
    for label, reason in FILTERS:
        found = funnel.apply(label, found, lambda r, f=reason: "" if f is odd_length and r.task == "qa" else f(r))
    found = deduplicate(found, funnel)
    pairs = [r for r in found if r.task == "translate"]
    return [*drop_near_duplicates(pairs, funnel, threshold), *(r for r in found if r.task == "qa")]


def split_by_entity(records: Sequence[Record], shares: dict[str, float], seed: int = 0) -> list[Record]:
    """Assign splits so that no entity is in two of them and each category is near its `shares` in every split.

    Records that share an entity, directly or over others, move together; large groups are placed first.
    """
    parent = list(range(len(records)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, record in enumerate(records):
        for entity in record.entities or (record.id,):
            parent[root(i)] = root(first.setdefault(entity, i))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(records)):
        groups[root(i)].append(i)
    totals: dict[str, int] = defaultdict(int)
    for record in records:
        totals[record.category] += 1
    room = {(c, s): n * share for c, n in totals.items() for s, share in shares.items()}
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    order.sort(key=len, reverse=True)
    placed: dict[int, str] = {}
    for group in order:
        # The split that lacks most, relative to what these categories want of it.
        def need(split: str, group=group) -> float:
            return sum(room[records[i].category, split] / (totals[records[i].category] * shares[split]) for i in group)

        best = max((s for s in shares if shares[s] > 0), key=need)
        for i in group:
            placed[i] = best
            room[records[i].category, best] -= 1
    return [r.replace(split=placed[i]) for i, r in enumerate(records)]


def curate_pairs(
    pairs: Iterable[Record],
    protected: Sequence[Record],
    sizes: dict[str, int | None],
    seed: int = 0,
    *,
    count_tokens: CountTokens | None = None,
    max_tokens: int = 128,
    threshold: float = 0.8,
    pool: int = 0,
) -> tuple[dict[str, list[Record]], Funnel]:
    """Clean sentence pairs and draw disjoint splits of the given sizes; `sizes["train"]` None takes all that are left.

    Only `pool` of the pairs, drawn by `seed`, are looked at (0: all of them).

    No normalised side is in two splits, because none is kept twice at all. Pairs that resemble a `protected` record (the questions
    of dev and test, the rows of an evaluation file) are dropped. Training pairs that resemble a drawn dev or test pair are dropped too.
    `count_tokens` (see `filters.token_counter`) adds a filter for pairs with more than `max_tokens` tokens on a side.
    Raises `UserError` when too few pairs are left.
    """
    found, begun = list(pairs), "pairs in the corpus"
    pooled = 0 < pool < len(found)
    if pooled:
        begun = f"drawn from the corpus ({len(found):,} pairs)"
        found = [found[i] for i in sorted(random.Random(seed).sample(range(len(found)), pool))]
    funnel = Funnel([(begun, len(found))])
    left = [r.replace(ja=clean(r.ja), en=clean(r.en)) for r in found]
    for label, reason in FILTERS:
        left = funnel.apply(label, left, reason)
    if count_tokens:
        left = funnel.take(f"at most {max_tokens} tokens", left, token_lengths(left, count_tokens, max_tokens))
    left = deduplicate(left, funnel)
    left = drop_near_duplicates(left, funnel, threshold, seed)
    left = funnel.apply("not in the held-out sets", left, Contamination(protected))
    order = random.Random(seed).sample(left, len(left))
    held = sizes["dev"] + sizes["test"]
    splits = {"test": order[: sizes["test"]], "dev": order[sizes["test"] : held]}
    splits["train"] = _train(order[held:], [*splits["test"], *splits["dev"]], sizes["train"], funnel)
    if len(left) < held or len(splits["train"]) < (sizes["train"] or 0):
        wanted = ", ".join(f"{name} {sizes[name]}" for name in ("train", "dev", "test"))
        raise UserError(f"{len(left)} pairs are left, too few for {wanted}. Give more pairs or ask for smaller splits{', or a larger pool_pairs' if pooled else ''}.")
    return {name: [r.replace(split=name) for r in splits[name]] for name in ("train", "dev", "test")}, funnel


def _train(rest: Iterable[Record], held: Sequence[Record], size: int | None, funnel: Funnel) -> list[Record]:
    """The first `size` records of `rest` (all for None) that are no copies of the `held` ones. None is looked at in vain."""
    guard, kept, label = Contamination(held), [], "drawn for this run"
    for record in rest:
        if len(kept) == size:
            break
        why = guard(record)
        if why:
            funnel.dropped.append((record.id, why, label))
        else:
            kept.append(record)
    funnel.steps.append((label, len(kept) + len(held)))
    return kept
