"""Rationales: where they come from, the gates they pass, and which records of the training set get one."""

from __future__ import annotations

import ast
import operator
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from .records import Record

_EQUATION = re.compile(r"(?<![\w.])(\d[\d.,]*(?:\s*[-+*/]\s*\d[\d.,]*)+)\s*=\s*(-?\d[\d.,]*)")
_JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def authored(training: Sequence[Record], library: Sequence[Record]) -> dict[str, str]:
    """The shipped rationale of each training question, by record id."""
    rationales = {r.id: r.reasoning for r in library if r.reasoning}
    return {r.id: rationales[r.id] for r in training if r.id in rationales}


def evaluate(expression: str) -> float:
    """Value of a plain arithmetic expression (+ - * / and numbers). Raises `ValueError` for anything else."""

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        raise ValueError(f"not plain arithmetic: {expression!r}")

    try:
        return value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise ValueError(f"not plain arithmetic: {expression!r}") from error


def wrong_equations(rationale: str) -> list[str]:
    """The equations written out in a rationale that do not hold."""
    wrong = []
    for left, right in _EQUATION.findall(rationale):
        tidy = [re.sub(r"[.,]$", "", side).replace(",", "") for side in (left, right)]
        try:
            holds = abs(evaluate(re.sub(r"(?<![\d.])0+(?=\d)", "", tidy[0])) - float(tidy[1])) < 1e-6
        except ValueError:
            holds = False
        if not holds:
            wrong.append(f"{left} = {right}")
    return wrong


def gate(record: Record, rationale: str) -> str:
    """Why this rationale must not be used for this record, or "" when it may.

    Gates: English, 8–80 words, more than the answer, ends in the gold answer, arithmetic holds.
    """
    words = rationale.split()
    if _JAPANESE.search(rationale):
        return "not English"
    if not 8 <= len(words) <= 80:
        return "too short or too long"
    accepted = [a.casefold() for a in (record.answer, *record.aliases)]
    last = re.split(r"(?<=[.!?])\s+", rationale.strip())[-1].casefold()
    if not any(a in last for a in accepted):
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

    Raises `ValueError` for a fraction outside 0 … 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}, expected 0 to 1.")
    candidates = [r for r in training if r.id in rationales]
    chosen = set(ranking(candidates, seed)[: round(fraction * len(training))])
    return [r.replace(reasoning=rationales[r.id] if r.id in chosen else "") for r in training]
