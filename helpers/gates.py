"""Gates: which rationales may be used. Each refusal has a code of `REASONS`, and each is counted."""

from __future__ import annotations

import ast
import operator
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from .answers import lenient_match, normalise_answer
from .prompts import _FIELD
from .records import Record

ACCEPTED = "accepted"
GENERATED = "generated"  # the source of the positive control's problems (helpers.controls)
REASONS = {
    "missing": "説明がありません / No rationale was written for this record.",
    "format": "欄の名前や特殊トークンを含みます / It holds a field label (Answer: …) or a special token of a tokenizer.",
    "not-english": "英語ではありません / It is not in English.",
    "length": "長さが範囲外です / It is not 10 to 120 tokens long (8 to 80 words where no tokenizer is at hand).",
    "wrong-conclusion": "結論が正答と違います / Its last sentence does not conclude with the gold answer.",
    "restates-answer": "答えの言い換えだけです / It says little beyond the question and the answer.",
    "wrong-arithmetic": "計算が合いません / An equation in it does not hold.",
    "held-out-text": "評価用の文を含みます / It repeats a passage of a dev or test record.",
    "near-copy": "ほかの説明とほぼ同じです / It is nearly a copy of a rationale accepted before it.",
}
TOKENS, WORDS = (10, 120), (8, 80)
# The authored rationales set these bounds: their largest pairwise Jaccard index is 0.23 (word bigrams), and their longest run
# of words shared with another split, "on the coast of the sea of Japan", has three words that are not function words.
RUN, SHORT_TEXT, CONTENT, NEAR = 8, 5, 4, 0.7
ANYBODYS = 3  # held-out records that share a passage: it gives none of them away, as in records made from a template
_FUNCTION = frozenset(
    """a an the this that these those it its he his she her they their we our you i is are was were be been being am has have had do
    does did will would can could of in on at by for from with to into than as about and or but so if because when while where which
    who what how then there thus therefore hence not no all each both answer""".split()
)
_SPECIAL = re.compile(r"<\|[^|<>]*\|>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>")
# Languages of Latin script that a teacher may fall back to. Not all that py3langid knows: among Nigerian Pidgin and Shona, an
# English sentence full of Japanese names is no longer English.
_OTHERS = frozenset("fr de es it pt nl sv da no fi pl cs tr vi id ro hu ca la tl eo".split())
_MARGIN = 2.0  # nats by which another language must lead; in the authored rationales English leads, by 4 at least
_WORD = re.compile(r"\d+(?:\.\d+)*|[^\W\d_]+")

_GAP = r"[^\S\n]*+"  # an equation stays on its line: the next one may begin with a dash
_TERM = rf"\(*{_GAP}-?\d[\d.,]*+{_GAP}\)*"
_SIDE = rf"{_TERM}(?:{_GAP}[-+*/]{_GAP}{_TERM})*"
_EQUATION = re.compile(rf"(?<![\w.^])(?<!\d:){_SIDE}(?:{_GAP}={_GAP}{_SIDE})+")
_SIGNS = str.maketrans("×÷−", "*/-", "$¥€£")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def evaluate(expression: str) -> float:
    """Value of a plain arithmetic expression (+ - * / and numbers). Raises `ValueError` for anything else."""

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        raise ValueError(f"not plain arithmetic: {expression!r}")

    try:
        return float(value(ast.parse(expression, mode="eval").body))
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"not plain arithmetic: {expression!r}") from error


def _equations(rationale: str) -> list[tuple[str, bool]]:
    """Each equation of a rationale that computes something, and whether it holds; `a = b = c` is one."""
    found = []
    for equation in _EQUATION.findall(rationale.translate(_SIGNS)):
        sides = [_tidy(side) for side in equation.split("=")]
        if not any(re.search(r"[\d)]\s*[-+*/]", side) for side in sides):
            continue
        try:
            values = [evaluate(side) for side in sides]
            holds = all(abs(value - values[0]) < 1e-6 for value in values)
        except ValueError:
            holds = False
        found.append((equation.strip(), holds))
    return found


def wrong_equations(rationale: str) -> list[str]:
    """The equations in a rationale (numbers, + - * / and parentheses) that do not hold."""
    return [equation for equation, holds in _equations(rationale) if not holds]


def _tidy(side: str) -> str:
    """A side of an equation without thousands commas and what belongs to the sentence: punctuation, parentheses."""
    side = re.sub(r"[.,]+(?!\d)", "", side).replace(",", "").strip()
    side = re.sub(r"(?<![\d.])0+(?=\d)", "", side)
    while side.count("(") > side.count(")") and side.startswith("("):
        side = side[1:]
    while side.count(")") > side.count("(") and side.endswith(")"):
        side = side[:-1]
    return side.strip()


def english(text: str) -> bool:
    """Whether a text is English: Latin letters (and Greek, for formulas), and no other language fits clearly better.

    By the n-gram model of langid.py (Lui and Baldwin 2012) as py3langid ships it; no network, always the same.
    """
    import py3langid

    letters = (c for c in unicodedata.normalize("NFKC", text) if c.isalpha())
    if any(c > "\u03ff" and not unicodedata.name(c, "").startswith("LATIN") for c in letters):
        return False
    scores = dict(py3langid.rank(text))
    return max(scores[code] for code in _OTHERS) <= scores["en"] + _MARGIN


def concludes(record: Record, rationale: str) -> bool:
    """Whether the last sentence of a rationale gives the record's answer (or an alias), by the rules of `answers.lenient_match`.

    Of "yes" and "no" the last one named counts. A number may be followed by another one ("so 7 months have 31 days") when it is
    also what the last equation comes to.
    """
    text = rationale.strip()
    last = re.split(r"(?<=[.!?])\s+", text)[-1]
    accepted = [a for a in (record.answer, *record.aliases) if normalise_answer(a)]
    if not accepted:
        return False
    keys = {normalise_answer(a) for a in accepted}
    if keys & {"yes", "no"}:
        named = re.findall(r"\b(?:yes|no)\b", last.casefold())
        return bool(named) and named[-1] in keys
    if lenient_match(last, accepted[0], accepted[1:]):
        return True
    whole = [rf"(?<!not )(?<!n't )(?<!or )(?<![^\W_])(?<!\d[.,]){re.escape(a.casefold())}" for a in accepted]
    # At the very end, for an answer that itself has a full stop and a space ("St. Petersburg").
    if any(re.search(rf"{a}[\W_]*$", text.casefold()) for a in whole):
        return True
    results = re.findall(r"=\s*[$¥€£]?(-?\d[\d.,]*)", text)
    computed = bool(results) and "=" not in last and normalise_answer(results[-1]) in keys
    return computed and any(re.search(rf"{a}(?![^\W_])(?![.,]\d)", last.casefold()) for a in whole)


def _words(text: str) -> list[str]:
    return _WORD.findall(re.sub(r"(?<=\d),(?=\d{3})", "", unicodedata.normalize("NFKC", text).casefold()))


def _restates(record: Record, rationale: str) -> bool:
    known = {w for text in (record.en, record.answer, *record.aliases) for w in _words(text)}
    return len(set(_words(rationale)) - known - _FUNCTION) < 3 and not _equations(rationale)


def gate(record: Record, rationale: str, *, count_tokens: Callable[[str], int] | None = None) -> str:
    """The code of `REASONS` for which this rationale must not be used for this record, or "" when it may.

    `count_tokens` gives the length of a text in the model's tokens; without it the length is bounded in words. What concerns
    several rationales or splits (`held-out-text`, `near-copy`) is for `check`.
    """
    if not rationale.strip():
        return "missing"
    if _FIELD.search(rationale) or _SPECIAL.search(rationale):
        return "format"
    if not english(rationale):
        return "not-english"
    (least, most), length = (TOKENS, count_tokens(rationale)) if count_tokens else (WORDS, len(rationale.split()))
    if not least <= length <= most:
        return "length"
    if not concludes(record, rationale):
        return "wrong-conclusion"
    if _restates(record, rationale):
        return "restates-answer"
    return "wrong-arithmetic" if wrong_equations(rationale) else ""


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


class HeldOut:
    """Finds passages of dev and test records in a rationale.

    A passage is a run of 8 words of a record's English side or rationale (a text of 5 to 7 words counts whole), with at least 4
    different words besides function words, that fewer than 3 of these records share: names and turns of phrase are anybody's. What
    the question of the rationale's own record says is no leak.
    """

    def __init__(self, records: Iterable[Record]):
        holders: Counter[tuple[str, ...]] = Counter()
        for record in records:
            texts = [words for words in map(_words, (record.en, record.reasoning)) if len(words) >= SHORT_TEXT]
            holders.update({run for words in texts for run in _runs(words, min(RUN, len(words)))})
        self.passages = {run for run, n in holders.items() if n < ANYBODYS and len(set(run) - _FUNCTION) >= CONTENT}

    def passage(self, record: Record, rationale: str) -> str:
        """A passage of a held-out record that the rationale repeats, or ""."""
        own, words = _words(record.en), _words(rationale)
        for size in range(SHORT_TEXT, RUN + 1):
            found = (_runs(words, size) & self.passages) - _runs(own, size)
            if found:
                return " ".join(min(found))
        return ""


class _Copies:
    """The rationales accepted so far, by their word bigrams."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.holders: dict[tuple[str, ...], list[int]] = defaultdict(list)

    def near(self, runs: set[tuple[str, ...]]) -> bool:
        shared = Counter(i for run in runs for i in self.holders.get(run, ()))
        return any(n >= NEAR * (len(runs) + self.sizes[i] - n) for i, n in shared.items())

    def add(self, runs: set[tuple[str, ...]]) -> None:
        for run in runs:
            self.holders[run].append(len(self.sizes))
        self.sizes.append(len(runs))


def check(
    training: Sequence[Record],
    rationales: Mapping[str, str],
    held_out: Iterable[Record] = (),
    *,
    count_tokens: Callable[[str], int] | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """The rationales that pass every gate, and the outcome of every training record: `accepted` or a code of `REASONS`.

    Both by record id, in the order of `training`. `held_out` are the dev and test records (questions and sentence pairs); of two
    near-copies (Jaccard index of word bigrams at least 0.7) the first stays.
    """
    held, copies = HeldOut(held_out), _Copies()
    accepted, outcomes = {}, {}
    for record in training:
        text = rationales.get(record.id, "")
        runs = _runs(_words(text), 2)
        why = gate(record, text, count_tokens=count_tokens)
        # A drill repeats its form on purpose, within a split and across; that no numbers and no words are in two splits its generator sees to.
        if not why and record.source != GENERATED and held.passage(record, text):
            why = "held-out-text"
        if not why and record.source != GENERATED and copies.near(runs):
            why = "near-copy"
        outcomes[record.id] = why or ACCEPTED
        if not why:
            accepted[record.id] = text
            copies.add(runs)
    return accepted, outcomes


def acceptance(training: Sequence[Record], outcomes: Mapping[str, str], teachers: Mapping[str, str] | str) -> list[dict]:
    """The acceptance table: a row a teacher and category with `n`, `accepted` and a count for each code of `REASONS`.

    `teachers` names the teacher of each record id, or the one teacher of them all; "–" where there is none.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in training:
        teacher = teachers if isinstance(teachers, str) else teachers.get(record.id, "–")
        counts[teacher, record.category][outcomes[record.id]] += 1
    return [
        {"teacher": teacher, "category": category, "n": found.total(), **{code: found[code] for code in (ACCEPTED, *REASONS)}}
        for (teacher, category), found in sorted(counts.items())
    ]
