"""Was the answer right? Exact and lenient matching of a short English answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from fractions import Fraction

_SMALL = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
          "seventeen eighteen nineteen").split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBERS = {word: n for n, word in enumerate(_SMALL)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = "|".join(_SCALES)
# The tail of a longer number ("one hundred and twenty") stays in words: as "20" it would be a number of its own.
_NUMBER_WORD = re.compile(
    rf"(?<![\w-])(?<!hundred )(?<!hundred and )(?<!thousand )(?<!thousand and )(?:({'|'.join(_TENS)})"
    rf"(?:[ -]({'|'.join(_SMALL[1:10])}))?|({'|'.join(_SMALL)}))(?!\w|-\w| (?:{_SCALE})\b)")
_NUMBER = re.compile(rf"(?<![\w.,:/-])-?\d[\d.,:/-]*%?(?:\s*(?:{_SCALE})\b)?")
_VALUE = re.compile(rf"(-?\d+(?:[./]\d+)?)[.,:/-]*%?\s*({_SCALE})?")
_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?!,?\d)")
_TIME = re.compile(r"(?<![\w.:/-])(\d{1,2})(?::([0-5]\d))?(?::[0-5]\d)?(?:\s*(?:([ap])\.?\s?m\b|(o'clock\b)))?"
                   r"(?![\d:/-])|\b(noon|midnight)\b")
_ARTICLE = re.compile(r"(?<!\S)(?:the|The|THE|[Aa]n|a)\s+(?=\S)|^A\s+(?=\S)")
_ENDS = re.compile(r"^(?:(?!-?\.?\d)[^\w%#+\u00b0])+|(?:[^\w%#+\u00b0]|_)+$")
_SENTENCE_END = re.compile(
    r"\n+|[。！？]+|(?<=[.!?])(?<!\b[A-Za-z]\.)(?<!\bMt\.)(?<!\bSt\.)(?<!\bDr\.)(?<!\bMr\.)\s+(?=[^\sa-z])")
_LONG = 12  # words; a longer prediction is a ramble, and only its last sentence is its answer
_LOOKALIKES = str.maketrans("\u2018\u2019\u02bc\u2010\u2013\u2212\u2044", "'''---/")


def _calendar(names: str, ambiguous: str = "", **others: str) -> tuple[re.Pattern[str], dict[str, int]]:
    """Pattern and number of each name; abbreviations and `ambiguous` names ("may", "march") need a capital letter."""
    full = names.split()
    number = {form: i for i, name in enumerate(full) for form in (name, name[:3])}
    number |= {form: number[name] for form, name in others.items()}
    plain = [name for name in full if name not in ambiguous.split()]
    capital = [written for form in number if form not in plain for written in (form.capitalize(), form.upper())]
    return re.compile(rf"(?<![\w-])(?:(?i:{'|'.join(plain)})|{'|'.join(capital)})(?![\w-])"), number


_CALENDARS = (
    _calendar("monday tuesday wednesday thursday friday saturday sunday",
              tues="tuesday", thur="thursday", thurs="thursday"),
    _calendar("january february march april may june july august september october november december", "march may",
              sept="september"))


def normalise_answer(text: str) -> str:
    """The form in which answers are compared: NFKC, case folded, no articles, no punctuation at the ends, single
    spaces, "1,234" as "1234" and number words as digits ("twelve", "twenty-one", up to 99).

    A capital "A" counts as an article only at the start, so that "vitamin A" and "Plan A is" keep theirs.
    """
    text = unicodedata.normalize("NFKC", text).translate(_LOOKALIKES)
    text = _ARTICLE.sub("", _ENDS.sub("", " ".join(text.split()))).casefold()
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return _ENDS.sub("", _NUMBER_WORD.sub(lambda m: str(sum(_NUMBERS[word] for word in m.groups() if word)), text))


def _accepted(answer: str, aliases: Sequence[str]) -> list[str]:
    if isinstance(aliases, str):
        raise ValueError("aliases must be a sequence of strings, not one string.")
    if not normalise_answer(answer):
        raise ValueError(f"The answer {answer!r} is empty once it is normalised; nothing can match it.")
    return [a for a in (answer, *aliases) if normalise_answer(a)]


def exact_match(prediction: str, answer: str, aliases: Sequence[str] = ()) -> bool:
    """Whether the prediction is the answer or an alias once both are normalised. Raises `ValueError` on no answer."""
    return normalise_answer(prediction) in {normalise_answer(a) for a in _accepted(answer, aliases)}


def _stated(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Matches that the text asserts: not denied ("not X") and not one of two left open ("X or Y")."""
    for match in pattern.finditer(text):
        if not re.search(r"(?:\bnot|n't|\bor)\s+$", text[: match.start()], re.I) and not re.match(
                r",?\s+or\b", text[match.end():], re.I):
            yield match


def _number(token: str) -> Fraction | None:
    """Value of a number token; None for anything else (dates, ranges, clock times, lists)."""
    match = _VALUE.fullmatch(token)
    try:
        return Fraction(match[1]) * _SCALES.get(match[2], 1) if match else None
    except ZeroDivisionError:
        return None


def _minutes(match: re.Match[str]) -> int | None:
    """Minutes after midnight; None where the digits are no clock time. Without a.m. or p.m. the clock has 24 hours."""
    hour, minute, half, oclock, named = match.groups()
    if named:
        return 720 if named == "noon" else 0
    if not (minute or half or oclock) or int(hour) > (12 if half else 24):
        return None
    return (int(hour) % 12 + 12 * (half == "p") if half else int(hour) % 24) * 60 + int(minute or 0)


def _says(text: str, answer: str) -> bool:
    plain, wanted = normalise_answer(text), normalise_answer(answer)
    for pattern, number in _CALENDARS:
        if wanted in number:
            found = [number[m[0].casefold()] for m in _stated(pattern, unicodedata.normalize("NFKC", text))]
            return bool(found) and found[-1] == number[wanted]
    if (value := _number(wanted)) is not None:
        tokens = [m[0] for m in _stated(_NUMBER, plain)]
        return bool(tokens) and _number(tokens[-1]) == value
    if (clock := _TIME.fullmatch(wanted)) and (moment := _minutes(clock)) is not None:
        times = [t for m in _stated(_TIME, plain) if (t := _minutes(m)) is not None]
        return bool(times) and times[-1] == moment
    left = r"(?<!\w)(?<!\w-)" + (r"(?<!-)(?<!\d[.,:/])" if wanted[0].isdigit() else "")
    right = r"(?!\w|-\w)" + (r"(?![.,:/]\d)" if wanted[-1].isdigit() else "")
    return any(_stated(re.compile(left + re.escape(wanted) + right), plain))


def lenient_match(prediction: str, answer: str, aliases: Sequence[str] = ()) -> bool:
    """Whether the prediction, a phrase or a sentence, gives the answer or an alias; every exact match does.

    Names must appear as whole words (a hyphenated word is one word). Of numbers, weekdays, months and clock times the
    LAST one named counts, and must be equal in value. "yes" and "no" must be the first word. What is denied ("not X")
    or left open ("X or Y") does not count; of a prediction of more than 12 words only the last sentence does.
    Raises `ValueError` on an empty answer.
    """
    accepted = _accepted(answer, aliases)
    if exact_match(prediction, answer, aliases):
        return True
    first = re.match(r"\W*(\w*)", unicodedata.normalize("NFKC", prediction).casefold())[1]
    scope = prediction
    if len(prediction.split()) > _LONG:
        scope = ([s for s in _SENTENCE_END.split(prediction.strip()) if normalise_answer(s)] or [""])[-1]
    return any(first == normalise_answer(a) if normalise_answer(a) in ("yes", "no") else _says(scope, a)
               for a in accepted)


def first_broken_step(s2: bool, s3: bool, s4: bool) -> str:
    """Where the multistep task broke, from the outcomes on one question: answered from the gold English (`s2`), from
    the model's own translation in a second call (`s3`), in one call (`s4`). Returns "" when `s4` is right, else
    "knowledge/reasoning", "translation" or "chaining".
    """
    if s4:
        return ""
    return "knowledge/reasoning" if not s2 else "translation" if not s3 else "chaining"


def ends_in_a_loop(text: str) -> bool:
    """Whether `text`, or a line of it, ends in the same 1 to 100 characters, 12 or more in all, four times over; the last time may be broken off."""
    for line in [*text.splitlines(), text]:
        for unit in range(1, min(100, len(line) // 4) + 1):
            tail = line[-max(4 * unit, 12) :]
            if len(tail) >= 12 and tail[unit:] == tail[:-unit]:
                return True
    return False
