"""What the structures of the positive control are made of: words in both languages, and numbers with what follows from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

Numbers = tuple[int, ...]
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()


class Word(NamedTuple):
    """A noun: Japanese, its counter, English singular and plural, and the Japanese verb (stem, past) where it is done."""

    ja: str
    counter: str
    one: str
    many: str
    verb: str = ""

    def japanese(self, slot: str) -> dict[str, str]:
        """The fields of a Japanese template: `x` the noun, `xk` its counter, `xv` and `xt` the verb."""
        stem, _, past = self.verb.partition(" ")
        return {slot: self.ja, f"{slot}k": self.counter, f"{slot}v": stem, f"{slot}t": past}

    def english(self, slot: str) -> dict[str, str]:
        """The fields of an English template: `x` one of it, `xs` several, `ax` with the indefinite article."""
        article = "an" if self.one[:1] in tuple("aeiou") else "a"
        return {slot: self.one, f"{slot}s": self.many, f"a{slot}": f"{article} {self.one}"}


def words(listed: str) -> list[Word]:
    """Words from lines of "Japanese | counter | English | plural | verb"; a regular plural may be left out."""
    found = []
    for line in listed.strip().splitlines():
        ja, counter, one, many, verb = ([part.strip() for part in line.split("|")] + [""] * 4)[:5]
        found.append(Word(ja, counter, one, many or f"{one}s", verb))
    return found


def _names(listed: str) -> list[Word]:
    return [Word(f"{ja}さん", "人", en, en) for ja, en in (name.split("/") for name in listed.split())]


# Of each list training uses the first half, dev and test the second; months and weekdays are everybody's.
PEOPLE = (
    _names("ゆき/Yuki はると/Haruto さくら/Sakura けんた/Kenta みお/Mio そうた/Sota あおい/Aoi だいき/Daiki ひな/Hina りく/Riku"),
    _names("かえで/Kaede たくみ/Takumi ななみ/Nanami しょうた/Shota ゆい/Yui れん/Ren まり/Mari こうじ/Koji"),
)
PERSONS = ("p", "q", "r")  # the slots of people


@dataclass(frozen=True)
class Structure:
    """A kind of problem. `numbers` lists all it can be asked with, `solve` gives the other fields: `answer`, steps, names of days.

    A field of `solve` may be a pair (Japanese, English). `phrases` are pairs of the question in Japanese and English; `slots` name
    the list of words of each letter that is no person.
    """

    kind: str
    numbers: Callable[[], Iterable[Numbers]]
    solve: Callable[..., dict[str, object]]
    check: str
    reasoning: str
    phrases: tuple[tuple[str, str], ...]
    slots: str = ""  # "x=goods y=extra"
    hops: int = 2

    @property
    def listed(self) -> list[tuple[str, str]]:
        """The slots and the names of their lists of words."""
        return [(slot, name) for slot, name in (pair.split("=") for pair in self.slots.split())]

    def fields(self, numbers: Numbers, chosen: dict[str, Word]) -> tuple[dict[str, object], dict[str, object]]:
        """The fields of the Japanese and of the English templates."""
        ja: dict[str, object] = {}
        en: dict[str, object] = {}
        for slot, word in chosen.items():
            ja |= word.japanese(slot)
            en |= word.english(slot)
        for name, value in (dict(zip("abcdefg", numbers, strict=False)) | self.solve(*numbers)).items():
            ja[name], en[name] = value if isinstance(value, tuple) else (value, value)
        return ja, en

    def choose(self, draw: random.Random, lists: dict[str, tuple[list[Word], list[Word]]], held: bool) -> dict[str, Word]:
        """A word for every slot, of the half that training uses or of the other one."""
        people = dict(zip(PERSONS, draw.sample(PEOPLE[held], len(PERSONS)), strict=True))
        return people | {slot: draw.choice(lists[name][held]) for slot, name in self.listed}
