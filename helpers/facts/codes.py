"""Generated facts on the codes of currencies and languages, and on scripts."""

from __future__ import annotations

import random
from collections.abc import Iterator

from . import names, phrases
from .names import Country, Fact

# Languages that a reader may have heard of and that CLDR names well in Japanese.
LANGUAGES = (
    "af am ar as az be bg bn bo bs ca cs cy da de dv dz el eo es et eu fa fi fj fr ga gl gn gu ha he hi hr hu hy id ig is it ja jv ka kk "
    "km kn ko ky la lb lo lt lv mg mi mk ml mn mr ms mt ne nl pl ps pt qu ro ru rw sa si sk sl sm sn so sq sr st su sv sw ta te tg th "
    "ti tk to tr tt ug uk ur uz vi xh yi yo zh zu"
).split()
# Languages with one usual script by a name that is not their own. Kazakh, Mongolian, Punjabi, Serbian and others have two.
SCRIPT_LANGUAGES = (
    "am ar ba be bg ca cs cv cy da de dv dz es et eu fa fi ga ha hi hu id is it lt lv mg mk mr mt ne nl pl ps pt ro ru sk sl so sq "
    "sv sw tg ti tr tt ug uk ur vi yi yo zu"
).split()


def facts() -> Iterator[Fact]:
    """All facts of this module, in a fixed order."""
    yield from _currencies()
    yield from _languages()
    yield from _scripts()
    for country in names.world().countries.values():
        if country.a2 in names.world().asked("language", country.language, 4):
            yield from _country_language(country)


def _issuers() -> dict[str, Country]:
    """Currency → the country whose code its own begins with; not the euro."""
    return {c.currency: c for c in names.world().countries.values() if c.currency and c.currency[:2] == c.a2}


def _currencies() -> Iterator[Fact]:
    for code, c in sorted(_issuers().items()):
        about = (c.en.lower(), names.currency(code))
        known = names.country_fields(c) | {"m": names.currency_ja(code)}
        if code not in phrases.NO_CURRENCY_NAME | phrases.WORDS and names.some("currency-code", code, 0.3):
            yield Fact("currency-code", code, known, code, (), about)
        elif names.some("code-to-currency", code, 0.4):
            answer, aliases = names.money_answer(code, with_code=False)
            yield Fact("code-to-currency", code, known, answer, aliases, about)
        if names.world().money[code] == {c.a2} and c.a2 not in phrases.INSIDE_ANOTHER and names.some("code-to-country", code, 0.4):
            yield Fact("code-to-country", code, known, c.en, c.aliases, about, 2)


def _languages() -> Iterator[Fact]:
    world = names.world()
    for tag in LANGUAGES:
        en, known = names.language_names(tag)[1], names.language_fields(tag)
        if names.some("language-code", tag, 0.5) and tag.upper() not in phrases.WORDS:
            yield Fact("language-code", tag, known, tag, (), (en.lower(),))
        else:
            yield Fact("code-to-language", tag, known, en, names.language_aliases(tag), (en.lower(),))
        official = world.speech.get(tag, set())
        c = world.countries.get(next(iter(official))) if len(official) == 1 else None
        if c and tag not in phrases.NO_LANGUAGE_COUNTRY and c.a2 not in phrases.NO_LANGUAGE:
            yield Fact("language-country", tag, known | {"C": c.the}, c.en, c.aliases, (c.en.lower(), en.lower()), 2)


def _scripts() -> Iterator[Fact]:
    for tag in SCRIPT_LANGUAGES:
        en, known, code = names.language_names(tag)[1], names.language_fields(tag), names.script(tag)
        answer, aliases = names.script_answer(code)
        # Half of the many in Latin letters: else it would be the right guess nearly always.
        if answer in en or (code == "Latn" and names.some("script", tag, 0.5)):
            continue
        same = [names.language_names(t)[1] for t in SCRIPT_LANGUAGES if names.script(t) == code and t != tag]
        known["Z"] = code
        if len(same) >= 2:
            known["N1"], known["N2"] = random.Random(tag).sample(same, 2)
        yield Fact("script", tag, known, answer, aliases, (en.lower(), *_namesake(answer)))


def _namesake(script: str) -> tuple[str, ...]:
    """A script that is called as a language is must not answer in a split where the language is held out."""
    return (script.lower(),) if script in {names.language_names(tag)[1] for tag in LANGUAGES} else ()


def _country_language(c: Country) -> Iterator[Fact]:
    tag, en = c.language, names.language_names(c.language)[1]
    known, about = names.country_fields(c) | names.language_fields(tag, c), (c.en.lower(), en.lower())
    if tag in SCRIPT_LANGUAGES and (names.script(tag) != "Latn" or names.some("country-script", c.a2, 0.2)):
        answer, aliases = names.script_answer(names.script(tag))
        yield Fact("country-script", c.a2, known | {"Z": names.script(tag)}, answer, aliases, (*about, *_namesake(answer)), 2)
    elif len(tag) == 2 and tag.upper() not in phrases.WORDS:
        yield Fact("country-language-code", c.a2, known, tag, (), about, 2)
