"""Plain arithmetic put into words: every operation of an expression one equation, in the order of evaluation."""

from __future__ import annotations

import ast
import re
from fractions import Fraction

from .answers import normalise_answer
from .records import Record

MONTHS = tuple("January February March April May June July August September October November December".split())
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
_WEEKDAY = r"\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?\b"
# What a number that the question does not name stands for, where the question has the unit: (number, pattern, sentence).
_FACTS = (
    (4, r"\bsquare (?:sheet|has)\b", "A square has 4 equal sides."),
    (4, r"\bquarters of\b", "A quarter is one of 4 equal parts."),
    (4, r"\bleap years?\b", "Leap years can be divided by 4."),
    (7, rf"\bweeks?\b|{_WEEKDAY}", "A week has 7 days."),
    (24, r"\bdays?\b.*\bhours?\b|\bhours?\b.*\b(?:days?|week)\b|\bnext morning\b|\bNew Year's Eve\b", "A day has 24 hours."),
    (60, r"\bhours?\b(?!.*\bseconds?\b)|\d:\d\d", "An hour has 60 minutes."),
    (60, r"\bseconds?\b", "A minute has 60 seconds."),
    (12, r"\bmonths?\b", "A year has 12 months."),
    (12, r"\bdozens?\b", "A dozen is 12."),
    (12, r"\d p\.m\.", "After noon, 12 is added to the hour."),
    (12, r"\bnoon\b", "Noon is 12:00."),
    (100, r"%|\bper ?cent\b", "Percent means out of 100."),
    (100, r"\bcm\b|\bcentimeters?\b", "A meter is 100 cm."),
    (100, r"\bcentury\b", "A century has 100 years."),
    (1000, r"^(?!.*\btons?\b).*\b(?:kg|kilograms?)\b", "A kilogram is 1000 g."),
    (1000, r"\btons?\b", "A ton is 1000 kg."),
    (1000, r"\bkm\b|\bkilometers?\b", "A kilometer is 1000 m."),
    (1000, r"\bliters?\b|\bml\b", "A liter is 1000 mL."),
)


class Unexplained(Exception):
    """This expression, or this pairing of expression and question, is not one that can be put into words."""


def plain(value: Fraction) -> str:
    """A number as it is written in a sentence: no thousands commas, up to six decimals. Raises `Unexplained` for others."""
    if value.denominator == 1:
        return str(value.numerator)
    if (value * 10**6).denominator != 1:
        raise Unexplained
    return f"{float(value):.6f}".rstrip("0")


class Arithmetic:
    """The steps of one explanation, as sentences, while its expression is walked.

    A number of the expression must be one that the question names, a 1 or a 2, or one whose meaning can be said in a sentence;
    what stands on other knowledge (legs of a spider) is for another teacher. Raises `Unexplained`.
    """

    def __init__(self, record: Record):
        self.text, self.answer = record.en, record.answer
        self.steps: list[str] = []
        self.named_numbers = set(re.findall(r"\d+(?:\.\d+)?", normalise_answer(record.en.replace("-", " "))))
        self.named_numbers |= {str(i) for i, word in enumerate(_ORDINALS, 1) if self.has(word)}
        self.named_numbers |= {re.match(r"\d+", word)[0] for word in re.findall(r"\b\d+(?:st|nd|rd|th)\b", record.en)}

    def say(self, step: str) -> None:
        if step not in self.steps:
            self.steps.append(step)

    def equation(self, left: Fraction, sign: str, right: Fraction, value: Fraction) -> Fraction:
        # A word first, because "= 3. -2 + 5" would read on as one equation.
        begin = "Then " if left < 0 else ""
        self.say(f"{begin}{plain(left)} {sign} {plain(right) if right >= 0 else f'({plain(right)})'} = {plain(value)}.")
        return value

    def so(self) -> str:
        return f"So the answer is {self.answer}."

    def has(self, words: str) -> bool:
        return bool(re.search(rf"(?<![\w:]){re.escape(words)}(?![\w:])", self.text))

    def meaning(self, value: float) -> None:
        """Say what a number stands for that the question does not name. Raises `Unexplained` where that is not known."""
        if str(value) in self.named_numbers or value in (0, 1, 2):
            return
        months = [m for m, days in zip(MONTHS, _DAYS, strict=True) if self.has(m) and days == value]
        if months:
            return self.say(f"{' and '.join(months)} {'has' if len(months) == 1 else 'have'} {value} days.")
        if value in range(1, 13) and self.has(MONTHS[int(value) - 1]):
            return self.say(f"{MONTHS[int(value) - 1]} is month {value} of the year.")
        meant = [words for n, pattern, words in _FACTS if n == value and re.search(pattern, self.text, re.I | re.S)]
        if len(meant) != 1:  # none, or more than one thing that it could be
            raise Unexplained
        self.say(meant[0])

    def number(self, node: ast.expr) -> Fraction:
        """The value of a number expression; its operations become steps in the order in which they are evaluated."""
        match node:
            case ast.Constant(value=value) if type(value) in (int, float):
                self.meaning(value)
                return Fraction(str(value))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.number(operand)
            case ast.BinOp(
                left=ast.BinOp(left=ast.BinOp(left=a, op=ast.Add(), right=b), op=ast.Sub(), right=ast.Constant(value=1)),
                op=ast.FloorDiv(), right=c) if ast.dump(b) == ast.dump(c):  # fmt: skip
                return self.rounded_up(self.number(a), self.number(b))
            case ast.BinOp(
                left=ast.BinOp(left=ast.Constant(value=int() as hour), op=ast.Mult(), right=ast.Constant(value=60)),
                op=ast.Add(), right=ast.Constant(value=int() as minute)) if self.has(f"{hour}:{minute:02}"):  # fmt: skip
                total = hour * 60 + minute
                self.say(f"{hour}:{minute:02} is {hour} * 60 + {minute} = {total} minutes after midnight.")
                return Fraction(total)
            case ast.BinOp(left=left, op=op, right=right):
                return self.operation(self.number(left), op, self.number(right))
        raise Unexplained

    def operation(self, a: Fraction, op: ast.operator, b: Fraction) -> Fraction:
        match op:
            case ast.Add():
                return self.equation(a, "+", b, a + b)
            case ast.Sub():
                return self.equation(a, "-", b, a - b)
            case ast.Mult():
                return self.equation(a, "*", b, a * b)
            case ast.Pow() if b in range(2, 11) and a >= 0:
                self.say(f"{' * '.join([plain(a)] * int(b))} = {plain(a**int(b))}.")
                return a ** int(b)
            case ast.Div() | ast.FloorDiv() if isinstance(op, ast.Div) or (a / b).denominator == 1:
                return self.equation(a, "/", b, a / b)
            case ast.FloorDiv() | ast.Mod() if a >= 0 and b > 0:
                q = a // b
                fits, over = f"{plain(b)} * {plain(q)} = {plain(b * q)}", f"{plain(b)} * {plain(q + 1)} = {plain(b * (q + 1))}"
                if isinstance(op, ast.FloorDiv):
                    self.say(f"{fits} fits into {plain(a)}, but {over} does not.")
                    return q
                self.say(f"The largest multiple of {plain(b)} up to {plain(a)} is {fits}.")
                return self.equation(a, "-", b * q, a - b * q)
        raise Unexplained

    def rounded_up(self, a: Fraction, b: Fraction) -> Fraction:
        """`(a + b - 1) // b`: how many lots of b are needed for a."""
        q = a // b
        if a == b * q:
            return self.equation(a, "/", b, q)
        full = plain(b * q)
        self.say(f"{plain(q)} * {plain(b)} = {full} is not enough, for {plain(a)} - {full} = {plain(a - b * q)} is left.")
        self.say(f"So one more is needed: {plain(q)} + 1 = {plain(q + 1)}.")
        return q + 1
