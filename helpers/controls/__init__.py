"""The positive control: arithmetic word problems and date problems in Japanese and English, where worked steps must help.

Every record is made from a structure, numbers and words. Training never sees the words of dev and test, nor any structure with
their numbers; phrasings are the same in all splits.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import islice

from ..answers import _SMALL
from ..files import UserError
from ..records import Record
from . import arithmetic, dates
from .parts import MONTHS, WEEKDAYS, Numbers, Structure

__all__ = ["CATEGORIES", "available", "generate"]
CATEGORIES = {"control-arithmetic": arithmetic, "control-dates": dates}
SHARES = {"train": 0.36, "dev": 0.1, "test": 0.54}
_MOST = 600  # numbers that a structure is asked with, over all splits
_WORDS = (*_SMALL, "twenty")


def generate(train: int = 0, dev: int = 0, test: int = 0, seed: int = 0, kinds: Sequence[str] = ()) -> list[Record]:
    """That many records of each split, half arithmetic and half dates (of an odd number arithmetic gets one more), in turn.

    `kinds` names the structures to make them from, of both categories (none: all). A larger number begins with the records of a smaller
    one. The structure is in the id ("control-dates-clock-train-0012"). Raises `UserError` for a kind that is not known, and for more
    records than there are, or fewer than 0.
    """
    found = []
    for split, wanted in (("train", train), ("dev", dev), ("test", test)):
        most = available(split, seed, kinds)
        if not 0 <= wanted <= most:
            raise UserError(f"{split} is {wanted}; the control has 0 to {most} different {split} records{' of these kinds' if kinds else ''}.")
        found += [_record(i, split, seed, tuple(kinds)) for i in range(wanted)]
    return found


def available(split: str, seed: int = 0, kinds: Sequence[str] = ()) -> int:
    """How many different records a split can have while every structure has as many as the others. Raises `UserError` for an unknown kind."""
    return 2 * min(
        len(structures) * min(len(_pool(s, seed)[split]) for s in structures)
        for structures in (_structures(category, tuple(kinds)) for category in CATEGORIES)
    )


@cache
def _structures(category: str, kinds: tuple[str, ...]) -> tuple[Structure, ...]:
    known = [s.kind for module in CATEGORIES.values() for s in module.STRUCTURES]
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise UserError(f"Unknown kind {unknown[0]!r} of the positive control. Known: {', '.join(known)}.")
    found = tuple(s for s in CATEGORIES[category].STRUCTURES if not kinds or s.kind in kinds)
    if not found:
        raise UserError(f"The positive control needs a kind of {category} at least: {', '.join(s.kind for s in CATEGORIES[category].STRUCTURES)}.")
    return found


@cache
def _pool(structure: Structure, seed: int) -> dict[str, list[Numbers]]:
    """The numbers of each split, in the order in which they are used: every answer once, then every answer again."""
    numbers = sorted(set(structure.numbers()))
    random.Random(f"{seed} {structure.kind}").shuffle(numbers)
    rest, pool = iter(numbers[:_MOST]), {}
    for split, share in SHARES.items():
        seen: Counter[object] = Counter()
        turns = []
        for found in islice(rest, int(share * min(_MOST, len(numbers)))):
            answer = structure.solve(*found)["answer"]
            turns.append((seen[answer], len(turns), found))
            seen[answer] += 1
        pool[split] = [found for _, _, found in sorted(turns)]
    return pool


def _record(index: int, split: str, seed: int, kinds: tuple[str, ...]) -> Record:
    category, module = list(CATEGORIES.items())[index % 2]
    number = index // 2
    structures = _structures(category, kinds)
    turn, place = divmod(number, len(structures))
    structure = structures[place]
    numbers = _pool(structure, seed)[split][turn]
    draw = random.Random(f"{seed} {structure.kind} {numbers}")
    ja, en = structure.fields(numbers, structure.choose(draw, module.WORDS, split != "train"))
    asked = draw.choice(structure.phrases)
    answer = str(en["answer"])
    return Record(
        f"{category}-{structure.kind}-{split}-{number + 1:04d}", "qa", asked[0].format(**ja), _upper(asked[1].format(**en)), answer,
        _aliases(answer), _upper(structure.reasoning.format(**en)), category, structure.hops, "generated", "CC BY 4.0", split,
        (f"{structure.kind} {' '.join(map(str, numbers))}",), structure.check.format(**en),
    )  # fmt: skip


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _aliases(answer: str) -> Sequence[str]:
    """The number in words up to twenty, or a clock time with a.m. or p.m."""
    if ":" in answer:
        hour, minute = answer.split(":")
        twelve, half = (int(hour) - 1) % 12 + 1, "ap"[int(hour) >= 12]
        return (f"{twelve}:{minute} {half.upper()}M", f"{twelve}:{minute} {half}.m.")
    if answer in WEEKDAYS or answer in MONTHS:
        return ()
    return (_WORDS[int(answer)],) if int(answer) < len(_WORDS) else ()
