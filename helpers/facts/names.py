"""Countries, currencies and languages under their CLDR names, and what the installed data say of each."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from . import phrases

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen".split()
ORDERS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()


@dataclass(frozen=True)
class Fact:
    """One fact before it is worded: `kind` and `key` make the id, `fields` fill a phrasing and a rationale of that kind.

    `way` is the kind of rationale where a kind has several.
    """

    kind: str
    key: str
    fields: dict[str, object]
    answer: str
    aliases: Sequence[str]
    entities: Sequence[str]
    hops: int = 1
    check: str = ""
    way: str = ""


@dataclass(frozen=True)
class Country:
    """A state: its codes, names (`the` with its article) and what it alone has; `currency` or `language` is "" when not single."""

    a2: str
    a3: str
    ja: str
    en: str
    the: str
    aliases: tuple[str, ...]
    official: str
    currency: str
    language: str


@dataclass(frozen=True)
class World:
    """What the installed data say: countries by code, and which territories use a currency or a language officially."""

    countries: dict[str, Country]
    money: dict[str, set[str]]
    speech: dict[str, set[str]]

    def asked(self, what: str, code: str, most: int = 5) -> set[str]:
        """The countries, `most` at the most, for which a `currency` or `language` is asked: else few answers would fill the set."""
        users = [c.a2 for c in self.countries.values() if code and getattr(c, what) == code]
        return set(sorted(users, key=lambda a2: random.Random(a2).random())[:most])


@cache
def locales():
    from babel import Locale

    return Locale("ja"), Locale("en")


def plain(text: str) -> str:
    """`text` in ASCII letters: an accepted spelling of an answer."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.replace("’", "'")) if not unicodedata.combining(c))


def spellings(answer: str, others: Sequence[str]) -> tuple[str, ...]:
    found = [s for text in (answer, *others) for s in (text, plain(text))]
    return tuple(s for s in dict.fromkeys(found) if s != answer)


@cache
def world() -> World:
    import pycountry
    from babel.core import get_global
    from babel.languages import get_official_languages
    from babel.numbers import get_territory_currencies

    japanese, english = locales()
    current = {c.alpha_3 for c in pycountry.currencies}
    countries, money, speech = {}, defaultdict(set), defaultdict(set)
    for territory in get_global("territory_currencies"):
        for code in get_territory_currencies(territory):
            money[code].add(territory)
        for tag in get_official_languages(territory, regional=False, de_facto=True):
            speech[tag.split("_")[0]].add(territory)
    for entry in pycountry.countries:
        code = entry.alpha_2
        if code in phrases.LEFT_OUT or code not in japanese.territories:
            continue
        name = english.territories[code].replace("’", "'").replace("&", "and").replace("St. ", "Saint ")
        used = get_territory_currencies(code)
        official = {tag.split("_")[0] for tag in get_official_languages(code, de_facto=True)}
        single = used[0] if len(used) == 1 and used[0] in current and code not in phrases.NO_CURRENCY else ""
        spoken = official.pop() if len(official) == 1 and code not in phrases.NO_LANGUAGE else ""
        formal = "" if code in phrases.NO_OFFICIAL_NAME else getattr(entry, "official_name", "")
        given = (entry.name, getattr(entry, "common_name", ""), formal)
        also = [n for n in (*given, *phrases.COUNTRY_ALIASES.get(code, ())) if n and "," not in n and "(" not in n]
        countries[code] = Country(
            code, entry.alpha_3, japanese.territories[code], name, f"the {name}" if code in phrases.WITH_ARTICLE else name,
            spellings(name, also), formal, single, spoken if spoken in english.languages else "",
        )  # fmt: skip
    return World(countries, dict(money), dict(speech))


def currency(code: str, count: int = 1) -> str:
    """English name as in running text: "Swiss franc", "euro"."""
    from babel.numbers import get_currency_name

    if code in phrases.CURRENCY_NAMES:
        return phrases.CURRENCY_NAMES[code][count > 1]
    return get_currency_name(code, count, locale="en").replace("&", "and").replace("ʻ", "'")


def currency_ja(code: str) -> str:
    # CLDR sets words of loan names apart by a space; Japanese text uses a middle dot.
    return locales()[0].currencies[code].replace(" CFA ", "CFA").replace(" ", "・")


def unit(code: str) -> str:
    return currency(code).split()[-1]


def upper(text: str) -> str:
    return text[:1].upper() + text[1:]


@cache
def _units() -> Counter[str]:
    return Counter(unit(code) for code in world().money)


def money_answer(code: str, with_code: bool = True) -> tuple[str, tuple[str, ...]]:
    """Answer and aliases. A unit by itself counts if no other money has it: "Dollar" would be found in every wrong dollar."""
    name, alone = currency(code), unit(code)
    more = [
        upper(currency(code, 2)),
        *phrases.CURRENCY_ALIASES.get(code, ()),
        *([upper(alone)] if _units()[alone] == 1 else []),
        *([code] if with_code and code not in phrases.WORDS else []),
    ]
    return upper(name), spellings(upper(name), more)


def language_names(tag: str) -> tuple[str, str]:
    japanese, english = locales()
    return japanese.languages[tag], english.languages[tag]


def language_aliases(tag: str) -> tuple[str, ...]:
    import pycountry

    name = pycountry.languages.get(alpha_2=tag).name
    also = [*phrases.LANGUAGE_ALIASES.get(tag, ()), *([] if "(" in name else [name])]
    answer = language_names(tag)[1]
    return spellings(answer, [*also, f"{answer} language"])


def country_fields(c: Country) -> dict[str, object]:
    """What phrasings and rationales may say of a country."""
    known = {"c": c.ja, "C": c.the, "C_bare": c.en, "a": c.a2, "a3": c.a3}
    if re.match(r"(?:[A-Z]\w+ )*(?:Republic|Kingdom|State|Commonwealth|Federation|Union|Principality|Sultanate) of ", c.official):
        known["F"] = c.official
    return known | (money_fields(c.currency, c) if c.currency else {})


def money_fields(code: str, c: Country) -> dict[str, object]:
    """What they may say of a currency as it is used in a country."""
    one, many = unit(code), currency(code, 2).split()[-1]
    known: dict[str, object] = {"k": code, "M": currency(code), "u": one, "us": many, "z": code[2]}
    shared = sharing("currency", code, c)
    if code[:2] == c.a2:
        known["own"] = c.the
        if plain(one)[0].upper() == code[2]:
            known["fits"] = code[2]
    elif len(shared) >= 2:
        known |= dict(zip("XY", random.Random(c.a2).sample(shared, 2), strict=True))
    else:
        known["user"] = c.the
    return known


def language_fields(tag: str, c: Country | None = None) -> dict[str, object]:
    """What they may say of a language, as it is official in `c`."""
    import pycountry

    ja, en = language_names(tag)
    known: dict[str, object] = {"l": ja, "L": en, "t": tag, "t3": pycountry.languages.get(alpha_2=tag).alpha_3}
    name = own_name(tag)
    # A rationale is English: a name in another script has no place in it.
    if tag not in phrases.NO_OWN_NAME and name.isascii() and name.isalpha() and name.casefold() != en.casefold():
        known["O"] = upper(name)
        if plain(name)[:2].casefold() == tag:
            known["o"] = upper(name)
    if tag not in phrases.SEVERAL_SCRIPTS:
        known["S"] = script_answer(script(tag))[0]
    shared = sharing("language", tag, c) if c else []
    if len(shared) >= 2:
        known |= dict(zip("PQ", random.Random(c.a2).sample(shared, 2), strict=True))
    return known


def own_name(tag: str) -> str:
    """What its speakers call a language, "" where CLDR does not know."""
    from babel import Locale, UnknownLocaleError

    try:
        return Locale(tag).get_language_name(tag) or ""
    except UnknownLocaleError:
        return ""


def script(tag: str) -> str:
    """ISO 15924 code of the script that a language is usually written in, by CLDR's likely subtags."""
    from babel.core import get_global

    return get_global("likely_subtags")[tag].split("_")[1]


def script_answer(code: str) -> tuple[str, tuple[str, ...]]:
    """English name of a script, and other names."""
    # CLDR 47 says Bangla, which few English texts do.
    name = {"Beng": "Bengali"}.get(code, locales()[1].scripts[code])
    also = {"Beng": ("Bangla",), "Ethi": ("Ge'ez", "Geez"), "Latn": ("Roman", "Roman alphabet"), "Arab": ("Perso-Arabic",)}.get(code, ())
    return name, (f"{name} script", f"{name} alphabet", *also)


def some(kind: str, key: str, share: float) -> bool:
    """Whether this fact is one of the `share` of its kind that is asked: always the same ones."""
    return random.Random(f"{kind} {key}").random() < share


def sharing(what: str, code: str, c: Country) -> list[str]:
    """English names of the other countries with this one `currency` or `language`; users beside another one are in doubt."""
    return [o.the for o in world().countries.values() if getattr(o, what) == code and o.a2 != c.a2]
