"""Rationales: where they come from, the gates they pass, and which records of the training set get one."""

from __future__ import annotations

import ast
import operator
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from .files import UserError
from .records import Record

_GAP = r"[^\S\n]*+"  # an equation stays on its line: the next one may begin with a dash
_TERM = rf"\(*{_GAP}-?\d[\d.,]*+{_GAP}\)*"
_SIDE = rf"{_TERM}(?:{_GAP}[-+*/]{_GAP}{_TERM})*"
_EQUATION = re.compile(rf"(?<![\w.^])(?<!\d:){_SIDE}(?:{_GAP}={_GAP}{_SIDE})+")
_SIGNS = str.maketrans("×÷−", "*/-", "$¥€£")
_JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def authored(training: Sequence[Record], library: Sequence[Record]) -> dict[str, str]:
    """The shipped rationale of each training question, by record id."""
    rationales = {r.id: r.reasoning for r in library if r.reasoning}
    return {r.id: rationales[r.id] for r in training if r.id in rationales}


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


def wrong_equations(rationale: str) -> list[str]:
    """The equations in a rationale (numbers, + - * / and parentheses) that do not hold; `a = b = c` is one."""
    wrong = []
    for equation in _EQUATION.findall(rationale.translate(_SIGNS)):
        sides = [_tidy(side) for side in equation.split("=")]
        if not any(re.search(r"[\d)]\s*[-+*/]", side) for side in sides):
            continue
        try:
            values = [evaluate(side) for side in sides]
            holds = all(abs(value - values[0]) < 1e-6 for value in values)
        except ValueError:
            holds = False
        if not holds:
            wrong.append(equation.strip())
    return wrong


def _tidy(side: str) -> str:
    """A side of an equation without thousands commas and what belongs to the sentence: punctuation, parentheses."""
    side = re.sub(r"[.,]+(?!\d)", "", side).replace(",", "").strip()
    side = re.sub(r"(?<![\d.])0+(?=\d)", "", side)
    while side.count("(") > side.count(")") and side.startswith("("):
        side = side[1:]
    while side.count(")") > side.count("(") and side.endswith(")"):
        side = side[:-1]
    return side.strip()


def gate(record: Record, rationale: str) -> str:
    """Why this rationale must not be used for this record, or "" when it may.

    Gates: English, 8–80 words, more than the answer, ends in the gold answer, arithmetic holds.
    """
    words = rationale.split()
    if _JAPANESE.search(rationale):
        return "not English"
    if not 8 <= len(words) <= 80:
        return "too short or too long"
    text = rationale.strip().casefold()
    last = re.split(r"(?<=[.!?])\s+", text)[-1]
    # Whole words and whole numbers: "5" is neither in "15" nor in "1,500".
    accepted = [re.escape(a.casefold()) for a in (record.answer, *record.aliases) if a]
    whole = [rf"(?<![^\W_])(?<!\d[.,]){a}(?![^\W_])(?![.,]\d)" for a in accepted]
    # Or at the very end, for an answer that itself has a full stop and a space ("St. Petersburg").
    if not any(re.search(a, last) or re.search(rf"{a}[\W_]*$", text) for a in whole):
        return "does not end in the gold answer"
    if len(words) - len(record.answer.split()) < 6:
        return "only restates the answer"
    return "wrong arithmetic" if wrong_equations(rationale) else ""


def check(training: Sequence[Record], rationales: dict[str, str]) -> tuple[dict[str, str], Counter[str]]:
    """The rationales that pass every gate, and a count by outcome ("accepted", "missing", or the gate's reason)."""
    accepted, outcomes = {}, Counter()
    for record in training:
        text = rationales.get(record.id, "")
        why = gate(record, text) if text else "missing"
        outcomes[why or "accepted"] += 1
        if not why:
            accepted[record.id] = text
    return accepted, outcomes


def ranking(training: Sequence[Record], seed: int = 0) -> list[str]:
    """Record ids in an order whose every prefix is balanced over category and hops.

    Taking the first third, two thirds or all of it gives nested subsets (33 ⊂ 67 ⊂ 100).
    """
    strata: dict[tuple[str, int], list[str]] = defaultdict(list)
    for record in training:
        strata[record.category, record.hops].append(record.id)
    generator = random.Random(seed)
    keyed = []
    for stratum in sorted(strata):
        ids = sorted(strata[stratum])
        generator.shuffle(ids)
        offset = generator.random()
        keyed += [((i + offset) / len(ids), *stratum, record_id) for i, record_id in enumerate(ids)]
    return [k[-1] for k in sorted(keyed)]


def mix(training: Sequence[Record], rationales: dict[str, str], fraction: float, seed: int = 0) -> list[Record]:
    """The same records in the same order, with a rationale on the first `fraction` (0 to 1) of the ranking.

    Raises `UserError` for a fraction outside 0 … 1.
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"reasoning_fraction is {fraction}: choose a number from 0 to 1.")
    candidates = [r for r in training if r.id in rationales]
    chosen = set(ranking(candidates, seed)[: round(fraction * len(training))])
    return [r.replace(reasoning=rationales[r.id] if r.id in chosen else "") for r in training]
