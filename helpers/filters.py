"""One row at a time: the text as it is trained on and compared, and the reasons to refuse a row. Runs in a list or in a stream."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from .records import Record

_KANJI = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_JAPANESE = re.compile(f"[\u3040-\u30ff\u31f0-\u31ff々{_KANJI}]")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
_NOT_WORD = re.compile(r"[\W_]+")
_ODD_WIDTH = re.compile(r"[\u3300-\u33ff\uff01-\uff9f\uffe0\uffe1\uffe5\uffe6]+")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_FULL_WIDTH = str.maketrans("?!()~", "？！（）〜")
_COMMA = re.compile(f"(?<={_JAPANESE.pattern}),")
_STOP = re.compile(rf"(?<={_JAPANESE.pattern})\.(?=[\s」』）)]|$|{_JAPANESE.pattern})")


def normalise(text: str) -> str:
    """Key for comparison: NFKC, casefolded, without punctuation and spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        # Composed again: what punctuation kept apart may be one character without it.
        return unicodedata.normalize("NFC", _NOT_WORD.sub("", text))
    return _NOT_WORD.sub("", text.casefold())


def words(text: str) -> list[str]:
    """Words for comparison: NFKC, casefolded, without punctuation; an apostrophe joins (don't, dont)."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("’", "'")
    return [w for w in _NOT_WORD.split(text.casefold().replace("'", "")) if w]


def clean(text: str) -> str:
    """Text for training: NFKC for letters and digits of odd width, no invisible characters, single spaces, Japanese punctuation
    full-width (`?` `!` `(` `)` `~` in a text with Japanese script, `,` and `.` that follow it).
    """
    # Not NFKC of the whole text: that would turn 10² into 102.
    folded = _ODD_WIDTH.sub(lambda m: unicodedata.normalize("NFKC", m[0]), _INVISIBLE.sub("", text))
    folded = unicodedata.normalize("NFC", folded)
    if _JAPANESE.search(folded):
        folded = _STOP.sub("。", _COMMA.sub("、", folded)).translate(_FULL_WIDTH)
    return " ".join(folded.split())


# Halves of characters, private use, and UTF-8 that was read as Windows-1252 (Ã©, â€™, ã�) or as Shift JIS (縺ｮ繧).
_CP1252 = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_UNREADABLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x9f\ufffd\ufffe\uffff\ue000-\uf8ff\ud800-\udfff\ufdd0-\ufdef]"
    f"|[ÃÂ][\u0080-\u00bf]|â€|(?:[ã-é][{_CP1252}]{{2}}){{2}}|(?:[縺繧繝].?){{3}}"
)
_ADDRESS = re.compile(r"https?://|www\.|[\w.+-]@[\w-]+\.\w|\b[a-z0-9-]{2,63}\.(?:com|net|org|info|co\.jp|jp|html?)\b", re.I)
_DASH = "[-\u2010-\u2015\u2212ー]"
_PHONE = re.compile(
    rf"\b0\d{{1,4}}{_DASH}\d{{1,4}}{_DASH}\d{{3,4}}(?!\d)|(?<!\d)\d{{3}}{_DASH}\d{{3}}{_DASH}\d{{4}}(?!\d)"
    rf"|\+\d{{1,3}}[ ({_DASH[1:]}\d[\d ()-]{{6,}}|(?:電話|番号|phone|number|call|dial)\D{{0,15}}\d{{3,4}}{_DASH}\d{{4}}(?!\d)",
    re.I,
)
_MARKUP = re.compile(
    r"</?[a-zA-Z][^<>]{0,200}>|&(?:[a-z]{2,6}|#\d{1,5});|[{}\\|`]|[=!<>]=|=>|\w\(\)|\[\[|\]\]|^\s*(?:#|//|/\*)"
    r"|\b(?:def|function|var|const|import)\s+\w+\s*[(=;]"
)
_BOILERPLATE = re.compile(
    r"all rights reserved|copyright ?(?:©|\(c\)|\d{4})|© ?\d{4}|lorem ipsum|\bclick here\b|terms of (?:service|use)\b|privacy policy"
    r"|cookie policy|subscribe to our|無断転載|(?:ここ|こちら)をクリック|利用規約|続きを読む|_{3,}",
    re.I,
)
_REPEATED = re.compile(r"([^\W\d_])\1{5}|([^\w\s])\2{7}|(\w.{0,5}?\w)\3{5}|\b(\w+)(?:\W+\4\b){5}", re.I)


def unreadable(record: Record) -> str:
    """Reason to drop a row with an empty side, control characters, halves of characters or mojibake, else ""."""
    for side, text in (("ja", record.ja), ("en", record.en)):
        if not normalise(text):
            return f"{side} is empty"
        if _UNREADABLE.search(text):
            return f"{side} is unreadable"
    return ""


def unsafe(record: Record) -> str:
    """Reason to drop a row that a language model should not learn to recite, else "".

    Unsafe means: web and mail addresses, telephone numbers, markup and code, boilerplate of web pages, text that repeats itself.
    It does not judge what a sentence says: there is no list of words, so insults, violence and slander pass. Records that are
    written for people to see need a reader, or a classifier made for that.
    """
    text = f"{record.ja}\n{record.en}"
    if _ADDRESS.search(text):
        return "web or mail address"
    if _PHONE.search(text):
        return "telephone number"
    if _MARKUP.search(text):
        return "markup or code"
    if _BOILERPLATE.search(text):
        return "boilerplate"
    if _REPEATED.search(text):
        return "repeats itself"
    return ""


# Without superscripts and fractions, which are word characters.
_LETTER = re.compile("[^\\W\\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u218f]")
_LATIN = re.compile("[A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff]")
_NUMERAL = re.compile("[〇零一二三四五六七八九十百千万億]")
# Written with the Latin alphabet and common on the web; the identifier chooses among these.
_LANGUAGES = (
    "en",
    "fr",
    "de",
    "es",
    "it",
    "pt",
    "nl",
    "sv",
    "da",
    "no",
    "pl",
    "tr",
    "id",
    "tl",
    "vi",
    "ro",
    "cs",
    "fi",
    "hu",
    "la",
)
_CLEARLY = 10.0
_CONSONANTS = "kk?y?|gy?|ss?h?|zy?|tt?|t?ts|t?ch|d|ny?|hy?|by?|pp?y?|my?|ry?|f|j|w|y"
_SYLLABLES = re.compile(f"(?:(?:{_CONSONANTS})?[aiueoāīūēō]|n(?![aiueoāīūēōy]))+")
_ROMAJI = re.compile(r"\b(?:wa|ga|wo|desu|deshita|da yo|kudasai|\w{2,}(?:masu|mashita|masen|mashou))\b")


def wrong_language(record: Record) -> str:
    """Reason to drop a pair whose sides are not Japanese and English, else "".

    Japanese is told by script: at least a fifth of the letters (names and quoted words are Latin), and kana, unless the kanji are few
    and all of them Japanese (JIS X 0213). English is told by script and, from two words on, by py3langid (Barbaresi; BSD): since
    short sentences tell it little, they are dropped only where another language is ten times as likely, or where it is Japanese in
    Latin letters.
    """
    ja, en = record.ja, record.en
    japanese = len(_JAPANESE.findall(ja))
    if not japanese:
        return "ja has no Japanese script"
    if japanese < 0.2 * len(_LETTER.findall(ja)):
        return "ja is mostly in another script"
    if not _KANA.search(ja) and _chinese(ja):
        return "ja is Chinese by its characters"
    if _JAPANESE.search(en):
        return "en has Japanese script"
    latin = len(_LATIN.findall(en))
    if not latin:
        return "en has no Latin letter"
    if latin < 0.9 * len(_LETTER.findall(en)):
        return "en is partly in another script"
    found = words(en)
    if len(found) < 2:
        return ""
    if _ROMAJI.search(" ".join(found)) and all(_SYLLABLES.fullmatch(w) for w in found):
        return "en is Japanese in Latin letters"
    odds = dict(_identifier().rank(en))
    english = odds.pop("en")
    return "en is in another language" if max(odds.values()) >= _CLEARLY * english else ""


def _chinese(text: str) -> bool:
    kanji = "".join(c for c in _JAPANESE.findall(text) if not _NUMERAL.match(c))
    try:
        kanji.encode("euc_jis_2004")
    except UnicodeEncodeError:
        return True
    return len(kanji) >= 12


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(_LANGUAGES)
    return identifier


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


# In the order in which they are applied: it decides which reason a row gets, never whether it is dropped.
FILTERS: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("readable text on both sides", unreadable),
    ("Japanese and English", wrong_language),
    ("no addresses, markup, boilerplate", unsafe),
    ("plausible lengths", odd_length),
)


def reason(record: Record) -> str:
    """The first reason of `FILTERS` to drop a record, "" to keep it."""
    return next((why for _, check in FILTERS if (why := check(record))), "")


def judged(row: dict) -> dict:
    """A row with its fields `ja` and `en` cleaned and a field `reason` ("" = keep): for `map` of a `datasets` stream.

    `rows = load_dataset("json", data_files=…, split="train", streaming=True).map(judged)`, then `rows.filter(lambda r: not r["reason"])`
    and, for the list of what was dropped, the opposite. It keeps no state, so that it also runs in the mappers of a cluster (datatrove,
    whose MinHash stages then find the near-duplicates; a `similarity.Contamination` runs there as well).
    """
    sides = {side: clean(text) if isinstance(text := row.get(side), str) else "" for side in ("ja", "en")}
    return {**row, **sides, "reason": reason(Record("", "translate", **sides))}


def row_filter(row: dict) -> str:
    """The reason to drop a row with the fields `ja` and `en`, as `judged` finds it; "" to keep it."""
    return judged(row)["reason"]


CountTokens = Callable[[list[str]], Sequence[int]]


def token_counter(tokenizer: Any) -> CountTokens:
    """Counts tokens of a batch of texts, without special tokens, with a tokenizer of `transformers` or `tokenizers`."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "encode_batch_fast"):
        return lambda texts: [len(e) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
    return lambda texts: [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def token_lengths(records: Iterable[Record], count_tokens: CountTokens, limit: int, batch: int = 2_000) -> Iterator[str]:
    """For each record the reason to drop it, "" where neither side has more than `limit` tokens."""
    rest = iter(records)
    while some := list(islice(rest, batch)):
        counts = count_tokens([text for r in some for text in (r.ja, r.en)])
        for pair in zip(counts[::2], counts[1::2], strict=True):
            yield "more tokens than the limit" if max(pair) > limit else ""
