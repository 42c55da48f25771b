"""Generated facts on months and weekdays, under their CLDR names; what can be computed carries a `check`."""

from __future__ import annotations

import calendar
from collections.abc import Iterator

from .names import NUMBERS, ORDERS, Fact, locales


def facts() -> Iterator[Fact]:
    """All facts of this module, in a fixed order."""
    yield from _months()
    yield from _month_steps()
    yield from _month_lengths()
    yield from _weekday_steps()
    japanese, english = _names("days")
    for i, name in enumerate(english):
        end, to = english[(i + 1) % 7], english[(i + 2) % 7]
        known = {"d": japanese[i], "D": name, "d2": japanese[(i + 2) % 7], "D2": to, "end": end}
        yield Fact("weekday-between", _short(name), known, end, (end[:3],), (f"between {name} and {to}".lower(),))


def _names(kind: str) -> tuple[list[str], list[str]]:
    japanese, english = (getattr(locale, kind)["format"]["wide"] for locale in locales())
    return [japanese[k] for k in sorted(japanese)], [english[k] for k in sorted(english)]


def _short(name: str) -> str:
    return name[:3].lower()


def _abbreviation(name: str) -> tuple[str, ...]:
    return (name[:3],) if name != "May" else ()


def _months() -> Iterator[Fact]:
    _, english = _names("months")
    # Not January: there is nothing to count.
    for n, name in enumerate(english[1:], 2):
        known = {"n": n, "O": ORDERS[n], "D": name, "before": english[n - 2], "after": english[n % 12], "p": n - 1}
        about = (f"number of {name}".lower(),)
        yield Fact("month-name", f"{n:02d}", known, name, _abbreviation(name), about)
        yield Fact("month-number", f"{n:02d}", known, str(n), (NUMBERS[n],), about)


def _month_steps() -> Iterator[Fact]:
    japanese, english = _names("months")
    for i, name in enumerate(english):
        for kind, sign, step in (("month-later", 1, 2 + (5 * i) % 9), ("month-earlier", -1, 2 + (7 * i + 3) % 9)):
            to, over = (i + sign * step) % 12, not 0 <= i + sign * step < 12
            if sign > 0:
                work = f"{i + 1} + {step} = {i + 1 + step}" + (f", and {i + 1 + step} - 12 = {to + 1}" if over else "")
            elif over:
                work = f"{i + 1} + 12 = {i + 13}, and {i + 13} - {step} = {to + 1}"
            else:
                work = f"{i + 1} - {step} = {to + 1}"
            known = {
                "d": japanese[i], "D": name, "n": step, "O": NUMBERS[step], "n1": i + 1, "n2": to + 1, "end": english[to],
                "past": " This passes the turn of the year." if over else "", "work": work,
            }  # fmt: skip
            check = f"month_name(({i + 1}{'+' if sign > 0 else '-'}{step}-1)%12+1)"
            first, last = (name, english[to]) if sign > 0 else (english[to], name)
            about = (f"from {first} to {last}".lower(),)
            yield Fact(kind, f"{_short(name)}{step}", known, english[to], _abbreviation(english[to]), about, 2, check)


def _month_lengths() -> Iterator[Fact]:
    japanese, english = _names("months")
    # February is left out: its length depends on the year.
    for i, name in enumerate(english):
        days = calendar.mdays[i + 1]
        if i != 1:
            known = {"d": japanese[i], "D": name, "days": days, "before": english[i - 1]}
            yield Fact("month-days", _short(name), known, str(days), (), (f"length of {name}".lower(),), way=f"month-days-{days}")
    for i in range(2, 11):
        one, two = calendar.mdays[i + 1], calendar.mdays[i + 2]
        known = {"d": japanese[i], "D": english[i], "d2": japanese[i + 1], "D2": english[i + 1], "one": one, "two": two, "sum": one + two}
        about = (f"lengths of {english[i]} and {english[i + 1]}".lower(),)
        yield Fact("two-months", _short(english[i]), known, str(one + two), (), about, 2, f"{one}+{two}")


def _weekday_steps() -> Iterator[Fact]:
    japanese, english = _names("days")
    for i, name in enumerate(english):
        for kind, sign, steps in (("weekday-later", 1, (2 + i % 3, 8 + i % 5)), ("weekday-earlier", -1, (3 + i % 3, 9 + i % 4))):
            for step in steps:
                end, rest = english[(i + sign * step) % 7], step % 7
                passed = ", ".join(english[(i + sign * k) % 7] for k in range(1, min(step, 7)))
                known = {
                    "d": japanese[i], "D": name, "n": step, "O": NUMBERS[step], "end": end, "rest": rest, "order": ORDERS[rest],
                    "near": f"{NUMBERS[rest]} {'day' if rest == 1 else 'days'}", "way": "on" if sign > 0 else "back",
                    "side": "after" if sign > 0 else "before", "passed": " and ".join(passed.rsplit(", ", 1)),
                }  # fmt: skip
                check = f"weekday(date(2024,1,{i + 15}){'+' if sign > 0 else '-'}timedelta(days={step}))"
                first, last = (name, end) if sign > 0 else (end, name)
                about = (f"{step} days from {first} to {last}".lower(),)
                way = "weekday-near" if step < 7 else "weekday-far"
                yield Fact(kind, f"{_short(name)}{step}", known, end, (end[:3],), about, 1 + (step > 7), check, way)
