"""Rationales by program: arithmetic in order of evaluation, dates and clock times counted out.

The expression that computes a record's answer (`check`) is read, never run, and each of its operations becomes one equation.
"""

from __future__ import annotations

import ast
import calendar
import re
from collections.abc import Iterable
from datetime import date, timedelta
from fractions import Fraction

from .answers import exact_match
from .records import Record
from .worked_arithmetic import MONTHS, Arithmetic, Unexplained, plain

# Not calendar.day_name: that one follows the locale.
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LONGEST = 80  # words: what the gates let through
_COUNTS = ("no", "one", "two", "three", "four", "five", "six")
_LEAP = re.compile(r"'Yes' if (\d{4})%4==0 and \1%100!=0 or \1%400==0 else 'No'")


def rationale(record: Record) -> str:
    """The worked steps for a record whose `check` is arithmetic or calendar arithmetic, or "" where it cannot be explained.

    Ends with a sentence that holds the answer. A rationale whose last value is not the record's answer is never returned.
    """
    if not record.check or not record.answer:
        return ""
    work = _Work(record)
    try:
        found, last = work.last(ast.parse(record.check, mode="eval").body)
    except (Unexplained, SyntaxError, ValueError, ArithmeticError, RecursionError):
        return ""
    text = " ".join([*work.steps, last])
    right = exact_match(found, record.answer, record.aliases)
    return text if right and work.steps and len(text.split()) <= LONGEST else ""


def rationales(records: Iterable[Record]) -> dict[str, str]:
    """The rationale of every record that can be explained, by record id."""
    return {r.id: text for r in records if (text := rationale(r))}


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise Unexplained
    return value.numerator


def _literal(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _literal(left) + _literal(right)
    raise Unexplained


def _length(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _month_has(day: date) -> str:
    leap = " in a leap year" if _length(day) == 29 else ""
    return f"{MONTHS[day.month - 1]} has {_length(day)} days{leap}"


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


class _Work(Arithmetic):
    """Arithmetic with dates, weekdays, months and clock times in it."""

    def last(self, node: ast.expr) -> tuple[str, str]:
        """The value of the whole expression as text, and the sentence that ends with it."""
        match node:
            case ast.Call(func=ast.Name(id="weekday"), args=[argument]):
                return self.weekday(argument)
            case ast.Call(func=ast.Name(id="month_name"), args=[argument]):
                return self.month(argument)
            case ast.BinOp(left=ast.Constant(value=str() as form), op=ast.Mod(), right=right):
                return self.formatted(form, right.elts if isinstance(right, ast.Tuple) else [right])
            case ast.Attribute(attr="day", value=moved):
                return str(self.moved(moved).day), self.so()
            case ast.IfExp():
                return self.leap_year(ast.unparse(node))
        return plain(self.number(node)), self.so()

    def number(self, node: ast.expr) -> Fraction:
        match node:
            case ast.Attribute(attr="days", value=ast.BinOp(left=end, op=ast.Sub(), right=begin)):
                return Fraction(self.between(self.date(begin), self.date(end)))
        return super().number(node)

    def named(self, day: date) -> bool:
        return self.has(f"{MONTHS[day.month - 1]} {day.day}") or ((day.month, day.day) == (1, 1) and self.has("New Year's Day"))

    def date(self, node: ast.expr) -> date:
        match node:
            case ast.Call(func=ast.Name(id="date"), args=[_, _, _] as parts):
                return date(*(_literal(p) for p in parts))
        raise Unexplained

    def offset(self, node: ast.expr) -> tuple[date, str, int]:
        """Start, unit (`days` or `hours`) and signed amount of `date(...) + timedelta(...)`."""
        match node:
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op,
                           right=ast.Call(func=ast.Name(id="timedelta"),
                                          keywords=[ast.keyword(arg="days" | "hours" as unit, value=value)])):  # fmt: skip
                if isinstance(value, ast.Constant):
                    amount = _literal(value)
                    self.derive(amount, self.date(left))
                else:
                    amount = _whole(self.number(value))
                return self.date(left), unit, -amount if isinstance(op, ast.Sub) else amount
        raise Unexplained

    def derive(self, amount: int, start: date) -> None:
        """Where a number of days comes from that the question does not name: weeks, or the number of a day counted from 1."""
        weeks = amount // 7
        if str(amount) in self.named_numbers:
            return
        if amount % 7 == 0 and str(weeks) in self.named_numbers and self.has("weeks"):
            self.say(f"{weeks} weeks are {weeks} * 7 = {amount} days.")
        elif str(amount + 1) in self.named_numbers and self.has("day"):
            self.say(f"With {MONTHS[start.month - 1]} {start.day} as day 1, {amount + 1} - 1 = {amount} days follow it.")
        else:
            raise Unexplained

    def weekday(self, node: ast.expr) -> tuple[str, str]:
        if isinstance(node, ast.Call):
            name, days = self.since_named_day(self.date(node))
        else:
            start, unit, days = self.offset(node)
            name = WEEKDAYS[start.weekday()]
            if not self.has(name):
                raise Unexplained
            if unit == "hours":
                return self.by_hours(start, days)
        weeks, rest = divmod(abs(days), 7)
        way = "after" if days > 0 else "before"
        found = WEEKDAYS[(WEEKDAYS.index(name) + days) % 7]
        if not days:
            raise Unexplained
        if not rest:
            self.say(f"{abs(days)} / 7 = {weeks}, so only whole weeks pass and the day of the week stays the same.")
            return found, f"It is {'again' if days > 0 else 'also'} a {found}."
        if weeks:
            self.say(f"{weeks} full weeks are {weeks} * 7 = {7 * weeks} days." if weeks > 1 else "One full week is 7 days.")
            self.say(f"{abs(days)} - {7 * weeks} = {rest}.")
        elif not self.steps:
            step = 1 if days > 0 else -1
            passed = [WEEKDAYS[(WEEKDAYS.index(name) + step * i) % 7] for i in range(1, rest + 1)]
            self.say(f"Counting {'on' if days > 0 else 'back'} from {name} gives {', '.join(passed)}.")
        return found, f"{_COUNTS[rest].capitalize()} {'day' if rest == 1 else 'days'} {way} {name} is {found}."

    def by_hours(self, start: date, hours: int) -> tuple[str, str]:
        days, hour = divmod(hours, 24)
        name, found = WEEKDAYS[start.weekday()], WEEKDAYS[(start.weekday() + days) % 7]
        if days < 0:
            self.say(f"Before {name} begins, {-24 * days} - {-hours} = {hour}.")
        elif days:
            self.say(f"Counted from the start of {name}, {hours} - {24 * days} = {hour}.")
        return found, f"So the time is {hour}:00 on {found}."

    def since_named_day(self, target: date) -> tuple[str, int]:
        """The one weekday that the question names, with the days from the date that falls on it to `target`."""
        names = [n for n in WEEKDAYS if self.has(n)]
        dates = [(MONTHS.index(m) + 1, int(d)) for m, d in re.findall(rf"\b({'|'.join(MONTHS)}) (\d{{1,2}})\b", self.text)]
        dates += [(1, 1)] if self.has("New Year's Day") else []
        for month, day in dates:
            for year in (target.year, target.year - 1):
                begin = date(year, month, day)
                if begin < target and names == [WEEKDAYS[begin.weekday()]]:
                    if (month, day) == (target.month, target.day):
                        days = (target - begin).days
                        self.say(f"{'A leap' if days == 366 else 'A common'} year has {days} days.")
                        return names[0], days
                    return names[0], self.between(begin, target)
        raise Unexplained

    def between(self, begin: date, end: date) -> int:
        """Days from `begin` to `end`, month by month."""
        months = (end.year - begin.year) * 12 + end.month - begin.month
        total = _length(begin) - begin.day
        if not self.named(end) or not (self.named(begin) or total == 0) or begin >= end or months > 5:
            raise Unexplained
        if months == 0:
            self.say(f"{end.day} - {begin.day} = {end.day - begin.day}.")
        elif months == 1 and begin.day == end.day:
            self.say(f"From one to the other is one whole month, and {_month_has(begin)}.")
        else:
            if total:
                self.say(f"{_month_has(begin)}, so {_length(begin)} - {begin.day} = {total} days of it are left.")
            month = _next_month(begin)
            while (month.year, month.month) < (end.year, end.month):
                longer = total + _length(month)
                self.say(_month_has(month) + (f", and {total} + {_length(month)} = {longer}." if total else "."))
                total, month = longer, _next_month(month)
            if not total:
                raise Unexplained
            self.say(f"{total} + {end.day} = {total + end.day}.")
        return (end - begin).days

    def moved(self, node: ast.expr) -> date:
        """The date some days after or before another one, month by month."""
        start, unit, days = self.offset(node)
        if unit != "days" or not self.named(start):
            raise Unexplained
        if 1 <= start.day + days <= _length(start):
            self.say(f"{start.day} {'+' if days > 0 else '-'} {abs(days)} = {start.day + days}.")
        elif days > 0:
            left = _length(start) - start.day
            if left:
                self.say(f"{_month_has(start)}, so {_length(start)} - {start.day} = {left} days of it are left.")
                self.say(f"{days} - {left} = {days - left}.")
            rest, month = days - left, _next_month(start)
            while rest > _length(month):
                self.say(f"{_month_has(month)}, and {rest} - {_length(month)} = {rest - _length(month)}.")
                rest, month = rest - _length(month), _next_month(month)
        else:
            before = start.replace(day=1) - timedelta(days=1)
            rest = -days - start.day
            if rest >= before.day:
                raise Unexplained
            self.say(f"{start.day} days back is the last day of {MONTHS[before.month - 1]}, and {-days} - {start.day} = {rest}.")
            self.say(f"{_month_has(before)}, and {before.day} - {rest} = {before.day - rest}.")
        return start + timedelta(days=days)

    def month(self, node: ast.expr) -> tuple[str, str]:
        match node:
            case ast.BinOp(left=ast.BinOp(left=ast.BinOp(left=inner, op=ast.Sub(), right=ast.Constant(value=1)), op=ast.Mod(),
                                          right=ast.Constant(value=12)), op=ast.Add(), right=ast.Constant(value=1)):  # fmt: skip
                node = inner
        number = _whole(self.wrapped(self.number(node), 12, "A year has 12 months", 1))
        return MONTHS[number - 1], f"Month {number} of the year is {MONTHS[number - 1]}."

    def wrapped(self, value: Fraction, size: int, words: str, lowest: int) -> Fraction:
        """`value` brought into a cycle of `size` that begins with `lowest`."""
        turns = (value - lowest) // size
        if turns:
            sign, shift = ("-", turns * size) if turns > 0 else ("+", -turns * size)
            self.say(f"{words}, and {plain(value)} {sign} {shift} = {plain(value - turns * size)}.")
        return value - turns * size

    def formatted(self, form: str, parts: list[ast.expr]) -> tuple[str, str]:
        match form, parts:
            case "%s %d", [ast.Call(func=ast.Name(id="month_name"), args=[ast.Attribute(attr="month", value=a)]),
                           ast.Attribute(attr="day", value=b)] if ast.dump(a) == ast.dump(b):  # fmt: skip
                day = self.moved(a)
                return f"{MONTHS[day.month - 1]} {day.day}", f"So the date is {self.answer}."
            case "%dth century", [ast.BinOp(left=ast.BinOp(
                left=ast.BinOp(left=ast.Constant(value=int() as year)), op=ast.FloorDiv(), right=ast.Constant(value=100)))]:  # fmt: skip
                full = (year - 1) // 100
                self.say(f"The first {full} centuries end with the year {full} * 100 = {full * 100}.")
                self.say(f"The year {year} lies in the next one, and {full} + 1 = {full + 1}.")
                return f"{full + 1}th century", self.so()
            case "%d:%02d" | "%d hours %d minutes", [first, second]:
                hours, minutes = self.clock(first, second)
                return form % (hours, minutes), f"So the time is {self.answer}." if ":" in form else self.so()
        raise Unexplained

    def clock(self, first: ast.expr, second: ast.expr) -> tuple[int, int]:
        match first, second:
            case (ast.BinOp(left=a, op=ast.FloorDiv(), right=ast.Constant(value=60)),
                  ast.BinOp(left=b, op=ast.Mod(), right=ast.Constant(value=60))) if ast.dump(a) == ast.dump(b):  # fmt: skip
                total = _whole(self.number(a))
                hours, minutes = divmod(total, 60)
                full = hours * 60
                self.say(f"In {total} minutes there are {hours} full hours: {hours} * 60 = {full}.")
                self.say(f"{total} - {full} = {minutes}.")
                return hours, minutes
            case ast.BinOp(left=inner, op=ast.Mod(), right=ast.Constant(value=24)), ast.Constant(value=int() as minutes):
                return _whole(self.wrapped(self.number(inner), 24, "A day has 24 hours", 0)), minutes
            case _, ast.Constant(value=int() as minutes):
                return _whole(self.number(first)), minutes
        raise Unexplained

    def leap_year(self, rule: str) -> tuple[str, str]:
        found = _LEAP.fullmatch(re.sub(r" (%|==|!=) ", r"\1", rule))
        if not found:
            raise Unexplained
        year = int(found[1])
        size = 400 if year % 100 == 0 else 4
        whole_century = "Years ending in 00 are leap years only if 400 divides them."
        self.say(whole_century if size == 400 else "Leap years can be divided by 4.")
        q, rest = divmod(year, size)
        most = f"{q} * {size} = {q * size}"
        self.say(f"{most}, and {year} - {q * size} = {rest} is left over." if rest else f"{year} / {size} = {q}.")
        return ("No" if rest else "Yes"), self.so()
