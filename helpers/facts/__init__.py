"""Bilingual questions with gold answers, generated from CLDR (through babel), iso-codes (through pycountry) and the calendar.

What is asked and what is left out stands in `phrases`. Names are those of CLDR in both languages; CLDR knows no capitals.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from string import Formatter

from .. import curation, reasoning
from ..files import UserError
from ..records import Record
from . import codes, dates, names, phrases
from .names import Country, Fact
from .reasons import REASONS

SHARES = {"train": 0.6, "dev": 0.1, "test": 0.3}
CLDR, ISO = "Unicode License v3 (CLDR)", "LGPL-2.1-only (iso-codes)"
LICENSE = f"{CLDR}; {ISO}"
# Kinds whose words come from iso-codes too: three-letter codes, official names, names of languages.
CODED = frozenset(
    "country-code code-country code-currency official-language code-language code-to-country language-code code-to-language "
    "language-country country-language-code which-uses".split()
)
ATTRIBUTION = (
    "Names, currencies and official languages: Unicode CLDR, as packaged in Babel. Codes: iso-codes (Debian), as packaged in pycountry."
)


def revision() -> str:
    """The versions that the facts come from."""
    import babel
    import pycountry
    from babel.core import get_global

    return f"CLDR {get_global('cldr')['version']} (babel {babel.__version__}), pycountry {pycountry.__version__}"


def _country_facts(c: Country) -> Iterator[Fact]:
    where, world, known = c.en.lower(), names.world(), names.country_fields(c)
    if c.a2 in world.asked("currency", c.currency):
        (answer, aliases), about = names.money_answer(c.currency), (where, names.currency(c.currency))
        yield Fact("currency", c.a2, known, answer, aliases, about)
        if names.some("code-currency", c.a2, 0.3):
            yield Fact("code-currency", c.a2, known | {"a": c.a3}, answer, aliases, about, 2)
    if c.a2 in world.asked("language", c.language):
        said = known | names.language_fields(c.language, c)
        name, aliases = names.language_names(c.language)[1], names.language_aliases(c.language)
        yield Fact("official-language", c.a2, said, name, aliases, (where, name.lower()))
        if names.some("code-language", c.a2, 0.4):
            yield Fact("code-language", c.a2, said | {"a": c.a3}, name, aliases, (where, name.lower()), 2)
    if not names.some("country", c.a2, 0.55):
        return
    short = c.a2 == names.plain(c.en)[:2].upper()
    asked = c.a2 in phrases.INSIDE_ANOTHER or names.some("country-code", c.a2, 0.5)
    if not short and c.a2 not in phrases.WORDS and asked:
        yield Fact("country-code", c.a2, known, c.a2, (), (where,))
    else:
        code, other, n = (c.a3, c.a2, 3) if short or names.some("code-country", c.a2, 0.5) else (c.a2, c.a3, 2)
        said = known | {"a": code, "b": other, "n": n, "O": names.NUMBERS[n]}
        yield Fact("code-country", c.a2, said, c.en, c.aliases, (where,))


def _first_day_facts() -> Iterator[Fact]:
    from babel import Locale
    from babel.core import get_global

    days, likely = names.locales()[1].days["format"]["wide"], get_global("likely_subtags")
    for code in phrases.WEEK_COUNTRIES:
        c = names.world().countries[code]
        locale = Locale(likely.get(f"und_{code}", "en").split("_")[0], territory=code)
        first, a, b = locale.first_week_day, locale.weekend_start, locale.weekend_end
        way = {(0, 5, 6): "mon", (6, 5, 6): "sun", (5, 4, 5): "sat"}.get((first, a, b))
        # Where the weekend is not of these forms the rationales would be untrue.
        if way and names.some("first-day", code, 0.6):
            known = {"c": c.ja, "C": c.the, "A": days[a], "B": days[b], "D": days[first]}
            yield Fact("first-day", code, known, days[first], (), (c.en.lower(),), way=f"first-day-{way}")


def _which_facts() -> Iterator[Fact]:
    for pair in phrases.COMPARED:
        one, other = (names.world().countries[code] for code in pair.split())
        if not (one.currency and other.currency) or one.currency == other.currency:
            continue
        name, theirs = names.currency(one.currency), names.currency(other.currency)
        first, second = (one, other) if names.some("order", pair, 0.5) else (other, one)
        known = {
            "c": first.ja, "C": first.the, "c2": second.ja, "C2": second.the, "m": names.currency_ja(one.currency), "M": name,
            "Ms": names.currency(one.currency, 2), "V": other.the, "W": one.the, "M2": theirs, "k": one.currency, "k2": other.currency,
        }  # fmt: skip
        about = (one.en.lower(), other.en.lower(), name, theirs)
        yield Fact("which-uses", pair.replace(" ", ""), known, one.en, one.aliases, about, 2)


def generate(limit: int | None = None, seed: int = 0) -> list[Record]:
    """Questions of category "facts" with splits (train 0.6, dev 0.1, test 0.3) in which no entity is in two; all of them without `limit`.

    The kind of question is in the id ("facts-currency-JP"). `limit` takes some of every kind; `seed` decides phrasing,
    split and choice. Raises `UserError` when babel or pycountry is not installed, or for a `limit` below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1.")
    try:
        import babel  # noqa: F401
        import pycountry  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed. Run the setup cell, or: pip install babel pycountry.") from error
    found = [fact for c in names.world().countries.values() for fact in _country_facts(c)]
    found += [*_which_facts(), *_first_day_facts(), *codes.facts(), *dates.facts()]
    # By kind, so that every kind is in every split.
    plain = [Record(_id(f), "qa", _id(f), _id(f), f.answer, category=f.kind, entities=tuple(dict.fromkeys(f.entities))) for f in found]
    splits = [r.split for r in curation.split_by_entity(plain, SHARES, seed)]
    records = [_record(fact, split, seed) for fact, split in zip(found, splits, strict=True)]
    if limit is not None and limit < len(records):
        records = _balanced(records, limit, seed)
    return [r.replace(category="facts") for r in records]


def _id(fact: Fact) -> str:
    return f"facts-{fact.kind}-{fact.key}"


def _balanced(records: Sequence[Record], limit: int, seed: int) -> list[Record]:
    chosen = set(reasoning.ranking(records, seed)[:limit])
    return [r for r in records if r.id in chosen]


def _fill(templates: Sequence[str], fields: dict[str, object]) -> list[str]:
    """The templates whose fields are all known, filled; each begins with a capital letter."""
    usable = [t for t in templates if all(name in fields for _, name, _, _ in Formatter().parse(t) if name)]
    return [names.upper(t.format(**fields)) for t in usable]


def _record(fact: Fact, split: str, seed: int) -> Record:
    """The fact in words. Dev and test are asked and explained in other words than train: else every question would look like a copy."""
    draw = random.Random(f"{seed} {fact.kind} {fact.key}")
    ways, train = phrases.PHRASES[fact.kind], split == "train"
    ja, en = (text.format(**fact.fields) for text in draw.choice(ways[:2] if train else ways[2:]))
    coded = fact.kind in CODED
    record = Record(
        _id(fact), "qa", ja, en, fact.answer, tuple(fact.aliases), "", fact.kind, fact.hops, "cldr+iso-codes" if coded else "cldr",
        LICENSE if coded else CLDR, split, tuple(dict.fromkeys(fact.entities)), fact.check,
    )  # fmt: skip
    for_train, for_held = REASONS[fact.way or fact.kind]
    # A way that suits most facts may say too little of one ("Czech" of Czechia), or sound foreign to the language gate.
    passing = [r for r in _fill(for_train if train else for_held, fact.fields) if not reasoning.gate(record, r)]
    return record.replace(reasoning=draw.choice(passing) if passing else "")
