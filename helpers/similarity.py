"""Which texts say the same: near-duplicates inside a corpus, copies of held-out records, nearest neighbours of a record."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .filters import normalise, words
from .records import Record, RecordError

SIDES = ("ja", "en")
# 20 bands of 6 rows: a pair at the threshold of 0.8 becomes a candidate in 99.8 % of cases, one at 0.5 in 27 %.
BANDS, ROWS = 20, 6
_NUMBER = re.compile(r"\d+")


def shingles(text: str, side: str) -> set[str]:
    """What near-duplicates are compared by: character trigrams for ja, word pairs for en, both with the ends of the text.

    Words for English, because one letter makes another sentence ("he is a teacher" is all but contained in "she is a teacher"), and
    pairs, because the sentences are short: of eight words, one changed leaves a Jaccard similarity of 0.64.
    """
    if side == "ja":
        key = normalise(text)
        ends = f"^{key}$"
        return {ends[i : i + 3] for i in range(len(key))}
    found = words(text)
    ends = ["^", *found, "$"]
    return {f"{a} {b}" for a, b in zip(ends, ends[1:], strict=False)} if found else set()


def jaccard(one: set[str], other: set[str]) -> float:
    """Shared part of two sets, 0 to 1; 0 for two empty ones."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0


@dataclass(frozen=True, slots=True)
class Near:
    """A near-duplicate: the `side` that it shares with the earlier row `of` (its place in the list), and how similar they are."""

    side: str
    of: int
    similarity: float


class _Index:
    """MinHash signatures of the rows kept so far on one side, in bands (rensa)."""

    def __init__(self, records: Sequence[Record], side: str, threshold: float, seed: int):
        from rensa import RMinHashLSH

        self.records, self.side, self.threshold, self.seed = records, side, threshold, seed
        self.bands = RMinHashLSH(threshold, BANDS * ROWS, BANDS)

    def text(self, i: int) -> str:
        return getattr(self.records[i], self.side)

    def sign(self, start: int, stop: int) -> tuple[list[set[str]], list[Any]]:
        from rensa import RMinHash

        sets = [shingles(self.text(i), self.side) for i in range(start, stop)]
        return sets, RMinHash.from_token_sets([list(s) for s in sets], BANDS * ROWS, self.seed)

    def nearest(self, i: int, own: set[str], signature: Any) -> Near | None:
        """The most similar kept row at or above the threshold. The candidates are verified, so that no hash decides."""
        best = told = None
        for j in sorted(self.bands.query(signature)):
            similarity = jaccard(own, shingles(self.text(j), self.side))
            if similarity < max(self.threshold, best.similarity + 1e-9 if best else 0):
                continue
            told = told or _told(self.text(i))
            if told == _told(self.text(j)):
                best = Near(self.side, j, similarity)
        return best


def _told(text: str) -> tuple[list[str], bool]:
    """What makes another text of few letters: its numbers, in order, and whether it asks."""
    asks = text.rstrip("」』\"”’' ").endswith(("?", "？")) or normalise(text).endswith("か")
    return [str(int(n)) for n in _NUMBER.findall(text)], asks


def near_duplicates(records: Sequence[Record], threshold: float = 0.8, seed: int = 0) -> dict[int, Near]:
    """The places of the records that nearly repeat an earlier one on either side; the earlier one is not in the result itself.

    Two texts are near-duplicates when the Jaccard similarity of their `shingles` is at least `threshold`, they hold the same numbers and
    both ask or both tell (a final か alone makes a question).
    Each record is compared with the kept ones before it: the first of a cluster stays, and what goes is near to one that stays. MinHash
    and bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3) find the candidates: time and memory are linear.
    """
    sides = [_Index(records, side, threshold, seed) for side in SIDES]
    found: dict[int, Near] = {}
    for start in range(0, len(records), 5_000):
        stop = min(start + 5_000, len(records))
        signed = [(index, *index.sign(start, stop)) for index in sides]
        for i in range(start, stop):
            own = [(index, sets[i - start], signatures[i - start]) for index, sets, signatures in signed]
            # A text without a letter or digit has no shingles and resembles nothing.
            own = [(index, grams, signature) for index, grams, signature in own if grams]
            near = next((n for index, grams, signature in own if (n := index.nearest(i, grams, signature))), None)
            if near:
                found[i] = near
            else:
                for index, _, signature in own:
                    index.bands.insert(i, signature)
    return found


def ngrams(text: str, n: int) -> set[str]:
    """Character n-grams of the normalised text; a shorter text is one gram."""
    key = normalise(text)
    return {key[i : i + n] for i in range(max(1, len(key) - n + 1))} if key else set()


def word_ngrams(text: str, n: int) -> set[str]:
    """Word n-grams of the normalised text; a text of fewer words is one gram."""
    found = words(text)
    return {" ".join(found[i : i + n]) for i in range(max(1, len(found) - n + 1))} if found else set()


@dataclass(frozen=True, slots=True)
class Copy:
    """A match with a held-out record: on which `side`, the `id` of that record, and the share of n-grams in common (0 to 1)."""

    side: str
    id: str
    share: float


class Contamination:
    """Finds records that copy a protected one on either language side.

    Character n-grams for Japanese, which has no spaces, and word n-grams for English, both after NFKC and without punctuation
    (Brown et al. 2020, appendix C, use words alone). `ja_n` 8 characters, `en_n` 5 words; a shorter text counts as one n-gram, so that
    it is found when it is the same. A record is a copy when `share` (default 0.6) of its n-grams are those of one protected record, or
    when it holds 0.8 of those of a protected record that has at least three. A paraphrase is not a copy.
    """

    def __init__(self, protected: Iterable[Record], ja_n: int = 8, en_n: int = 5, share: float = 0.6):
        self.sizes = {"ja": ja_n, "en": en_n}
        self.share = share
        self.ids: list[str] = []
        self.counts: dict[str, list[int]] = {side: [] for side in SIDES}
        self.holders: dict[str, dict[str, list[int]]] = {side: defaultdict(list) for side in SIDES}
        for place, record in enumerate(protected):
            self.ids.append(record.id)
            for side in SIDES:
                grams = self._grams(record, side)
                self.counts[side].append(len(grams))
                for gram in grams:
                    self.holders[side][gram].append(place)

    def _grams(self, record: Record, side: str) -> set[str]:
        return ngrams(record.ja, self.sizes["ja"]) if side == "ja" else word_ngrams(record.en, self.sizes["en"])

    def match(self, record: Record) -> Copy | None:
        """The protected record that this one copies (the closest one; on the Japanese side, if there is one), or None."""
        for side in SIDES:
            grams, holders = self._grams(record, side), self.holders[side]
            shared: Counter[int] = Counter()
            for gram in grams:
                # `get`, as the index of a defaultdict would grow with every record that is looked at.
                shared.update(holders.get(gram, ()))
            best: tuple[float, int] | None = None
            for place, count in shared.items():
                held = self.counts[side][place]
                own_share, held_share = count / len(grams), count / held
                if own_share >= self.share or (held_share >= 0.8 and held >= 3):
                    best = max(best or (0.0, 0), (max(own_share, held_share), -place))
            if best:
                return Copy(side, self.ids[-best[1]], best[0])
        return None

    def __call__(self, record: Record) -> str:
        """Reason to drop the record, else ""."""
        copy = self.match(record)
        return f"{copy.side} side is in a held-out set" if copy else ""


def evaluation_rows(path: str | Path) -> list[Record]:
    """The texts of an evaluation file to keep out of training: JSONL whose rows have `ja`, `en` or both; other fields are left out.

    Raises `RecordError` with file, line and field.
    """
    found = []
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise RecordError(f"{path}: cannot be read ({reason}). Give the path of a JSONL file in UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{where}: not valid JSON ({error}). Each line is one JSON object.") from error
        if not isinstance(row, dict):
            raise RecordError(f"{where}, field 'record': expected a JSON object, found {type(row).__name__}.")
        for side in SIDES:
            if not isinstance(row.get(side) or "", str):
                raise RecordError(f"{where}, field {side!r}: expected a string, found {type(row[side]).__name__}.")
        sides = [(row.get(side) or "").strip() for side in SIDES]
        if not any(map(normalise, sides)):
            raise RecordError(f"{where}, field 'ja': expected text in 'ja', in 'en' or in both.")
        found.append(Record(str(row.get("id") or f"{Path(path).name}:{number}"), "translate", *sides))
    return found


class Neighbours:
    """An index of records for `nearest`: hashed character trigrams (ja: pairs) of both sides, weighted by TF-IDF, as sparse rows.

    About 0.6 kB a record; 200,000 records take seconds to index and milliseconds to search.
    """

    def __init__(self, records: Sequence[Record], bits: int = 20):
        import numpy as np

        self.records, self.bits = records, bits
        self.matrix = self._counts(records)
        holders = np.bincount(self.matrix.indices, minlength=self.matrix.shape[1])
        self.weights = np.log((1 + len(records)) / (1 + holders)).astype("float32") + 1
        self.matrix = self._weighted(self.matrix)

    def _counts(self, records: Sequence[Record]) -> Any:
        """Rows of 0 and 1. The two sides are hashed apart, so that the cosine is over both."""
        import zlib

        import numpy as np
        from scipy.sparse import csr_matrix

        mask = (1 << self.bits) - 1
        columns, ends = bytearray(), [0]
        rest = iter(records)
        while some := list(islice(rest, 5_000)):
            for record in some:
                grams = {zlib.crc32(g.encode("utf-8", "surrogatepass")) & mask for g in _both(record)}
                columns += np.fromiter(sorted(grams), "int32", len(grams)).tobytes()
                ends.append(ends[-1] + len(grams))
        indices = np.frombuffer(bytes(columns), "int32")
        return csr_matrix((np.ones(len(indices), "float32"), indices, ends), shape=(len(ends) - 1, mask + 1))

    def _weighted(self, counts: Any) -> Any:
        import numpy as np

        counts.data *= self.weights[counts.indices]
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        norms = np.sqrt(np.bincount(rows, counts.data**2, minlength=counts.shape[0]))
        counts.data /= norms[rows].astype("float32")
        return counts

    def nearest(self, record: Record, k: int = 5) -> list[tuple[Record, float]]:
        """The `k` most similar records and their cosine similarity (0 to 1), best first; the record itself, by id, is left out."""
        import numpy as np

        scores = (self.matrix @ self._weighted(self._counts([record])).T).toarray().ravel()
        order = np.argsort(-scores, kind="stable")[: k + 1]
        found = [(self.records[i], round(float(scores[i]), 4)) for i in order if self.records[i].id != record.id]
        return [(near, score) for near, score in found[:k] if score > 0]


def _both(record: Record) -> set[str]:
    ja, en = normalise(record.ja), f" {' '.join(words(record.en))} "
    return {f"j{ja[i : i + 2]}" for i in range(len(ja) - 1)} | {f"e{en[i : i + 3]}" for i in range(len(en) - 2)}


def neighbours(record: Record, records: Sequence[Record], k: int = 5) -> list[tuple[Record, float]]:
    """The `k` records most like `record` and their similarity (0 to 1), best first. For many look-ups, keep a `Neighbours`."""
    return Neighbours(records).nearest(record, k)
