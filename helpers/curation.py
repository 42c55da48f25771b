"""From raw records to clean, de-duplicated, decontaminated, split ones; every dropped record keeps its reason."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .files import UserError
from .records import Record

_JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")
_NOT_WORD = re.compile(r"[\W_]+")
_ODD_WIDTH = re.compile(r"[\u3300-\u33ff\uff01-\uff9f\uffe0\uffe1\uffe5\uffe6]+")
_FULL_WIDTH = str.maketrans("?!()~", "？！（）〜")


def normalise(text: str) -> str:
    """Key for comparison: NFKC, casefolded, without punctuation and spaces."""
    return _NOT_WORD.sub("", unicodedata.normalize("NFKC", text).casefold())


def clean(text: str) -> str:
    """Text for training: NFKC for letters and digits of odd width, single spaces, Japanese punctuation kept full-width."""
    # Not NFKC of the whole text: that would turn 10² into 102.
    folded = unicodedata.normalize("NFC", _ODD_WIDTH.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text))
    if _JAPANESE.search(folded):
        folded = folded.translate(_FULL_WIDTH)
    return " ".join(folded.split())


@dataclass
class Funnel:
    """What each filter kept: `steps` holds (label, records left), `dropped` (record id, reason) of every record refused.

    The last step of `curate_pairs` is a draw: what is neither drawn nor refused is in neither list.
    """

    steps: list[tuple[str, int]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)

    def apply(self, label: str, records: Sequence[Record], reason: Callable[[Record], str]) -> list[Record]:
        """Keep the records for which `reason` returns ""; note the others with the reason it gives."""
        kept = []
        for record in records:
            why = reason(record)
            if why:
                self.dropped.append((record.id, why))
            else:
                kept.append(record)
        self.steps.append((label, len(kept)))
        return kept


def wrong_language(record: Record) -> str:
    """Reason to drop a pair whose sides are not Japanese and English by script, else ""."""
    if not _JAPANESE.search(record.ja):
        return "ja has no Japanese script"
    if _JAPANESE.search(record.en):
        return "en has Japanese script"
    if not _LATIN.search(record.en):
        return "en has no Latin letter"
    return ""


def odd_length(record: Record) -> str:
    """Reason to drop a pair that is too short, too long or of an unlikely length ratio, else "".

    Bounds in characters: ja 4–80, en 8–200. A Tatoeba pair has a median of 2.1 English characters to a Japanese one.
    """
    ja, en = len(record.ja), len(record.en)
    if not (4 <= ja <= 80 and 8 <= en <= 200):
        return "length out of bounds"
    if not 0.7 <= en / ja <= 6:
        return "unlikely length ratio"
    return ""


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


def ngrams(text: str, n: int) -> set[str]:
    """Character n-grams of the normalised text."""
    key = normalise(text)
    return {key[i : i + n] for i in range(max(1, len(key) - n + 1))} if key else set()


class Contamination:
    """Finds records that share most of their character n-grams with protected ones, on either language side.

    Character n-grams after NFKC, because Japanese has no spaces (DESIGN section 6). `ja_n` 8 and `en_n` 20 characters; a record is
    a copy when at least `share` (default 0.6) of its n-grams are protected.
    """

    def __init__(self, protected: Iterable[Record], ja_n: int = 8, en_n: int = 20, share: float = 0.6):
        self.sizes = {"ja": ja_n, "en": en_n}
        self.share = share
        self.grams: dict[str, set[str]] = {"ja": set(), "en": set()}
        for record in protected:
            for side, n in self.sizes.items():
                self.grams[side] |= ngrams(getattr(record, side), n)

    def __call__(self, record: Record) -> str:
        for side, n in self.sizes.items():
            own = ngrams(getattr(record, side), n)
            if own and len(own & self.grams[side]) >= self.share * len(own):
                return f"{side} side is in a held-out set"
        return ""


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
    pairs: Sequence[Record], protected: Sequence[Record], sizes: dict[str, int], seed: int = 0
) -> tuple[dict[str, list[Record]], Funnel]:
    """Clean sentence pairs and draw disjoint splits of the given sizes.

    No normalised side is in two splits, because none is kept twice at all. Pairs that resemble a `protected` record (the questions
    of dev and test) are dropped. Training pairs that resemble a drawn dev or test pair are dropped too.
    Raises `UserError` when too few pairs are left.
    """
    funnel = Funnel([("pairs in the corpus", len(pairs))])
    tidy = [r.replace(ja=clean(r.ja), en=clean(r.en)) for r in pairs]
    tidy = funnel.apply("Japanese and English by script", tidy, wrong_language)
    tidy = funnel.apply("plausible lengths", tidy, odd_length)
    tidy = deduplicate(tidy, funnel)
    tidy = funnel.apply("not in the question set", tidy, Contamination(protected))
    order = random.Random(seed).sample(tidy, len(tidy))
    held, rest = sizes["dev"] + sizes["test"], order
    splits = {"test": rest[: sizes["test"]], "dev": rest[sizes["test"] : held]}
    guard = Contamination([*splits["test"], *splits["dev"]])
    train = []
    for record in rest[held:]:
        if len(train) == sizes["train"]:
            break
        why = guard(record)
        if why:
            funnel.dropped.append((record.id, why))
        else:
            train.append(record)
    if len(tidy) < held or len(train) < sizes["train"]:
        wanted = ", ".join(f"{name} {sizes[name]}" for name in ("train", "dev", "test"))
        raise UserError(f"{len(tidy)} pairs are left, too few for {wanted}. Give more pairs or ask for smaller splits.")
    splits["train"] = train
    funnel.steps.append(("drawn for this run", sum(map(len, splits.values()))))
    return {name: [r.replace(split=name) for r in splits[name]] for name in ("train", "dev", "test")}, funnel
