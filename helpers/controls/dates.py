"""Problems about weekdays, dates, months, years and clock times for the positive control: two or three steps, one answer each."""

from __future__ import annotations

import calendar
from itertools import product

from .parts import MONTHS, WEEKDAYS, Structure, Word, words

_JAPANESE = "月火水木金土日"
_ALL_MONTHS = [Word(f"{i}月", "", name, "") for i, name in enumerate(MONTHS, 1) if name != "February"]
_ALL_DAYS = [Word(f"{ja}曜日", "", name, "") for ja, name in zip(_JAPANESE, WEEKDAYS, strict=True)]
WORDS = {
    "event": (words("発表会||recital\n試合||match\n面接||interview"), words("試験||exam\n演奏会||concert\n結婚式||wedding")),
    "ordered": (words("自転車||bicycle\nカメラ||camera\n本棚||bookcase"), words("ギター||guitar\n掃除機||vacuum cleaner\n望遠鏡||telescope")),
    "chore": (words("宿題||homework\n掃除||cleaning\n料理||cooking"), words("洗濯||the laundry\n草取り||weeding\nピアノの練習||piano practice")),
    "city": (words("大阪||Osaka\n仙台||Sendai\n名古屋||Nagoya"), words("金沢||Kanazawa\n広島||Hiroshima\n京都||Kyoto")),
    "place": (words("図書館||library\n市役所||city hall\n駅||station"), words("病院||hospital\n体育館||gym\n郵便局||post office")),
    "season": (words("夏休み||summer vacation\n研修||training course"), words("展覧会||exhibition\n春休み||spring vacation")),
    "fair": (words("フリーマーケット||flea market\n写真展||photo show"), words("古本市||used book fair\n朝市||morning market")),
    "month": (_ALL_MONTHS, _ALL_MONTHS),
    "weekday": (_ALL_DAYS, _ALL_DAYS),
}  # fmt: skip
HOURS = range(8, 20)
FIVES = range(5, 60, 5)


def _weekday(a: int, b: int, sign: int) -> dict[str, object]:
    """The weekday `b` days after (`sign` 1) or before (-1) weekday `a`, Monday being 0, and the days that are counted."""
    rest = b % 7
    passed = [WEEKDAYS[(a + sign * i) % 7] for i in range(1, rest + 1)]
    count = f"{rest} {'day' if rest == 1 else 'days'}"
    return {"w": (f"{_JAPANESE[a]}曜日", WEEKDAYS[a]), "m": b - rest, "r": rest, "n": count, "days": ", ".join(passed), "answer": passed[-1], "i": a + 1}


def _weekdays():
    return ((a, b) for a, b in product(range(7), range(8, 28)) if b % 7)


def _month(a: int, b: int) -> dict[str, object]:
    """The month `b` months after month `a` (before it for b < 0), and the equations that lead there."""
    end = (a + b - 1) % 12 + 1
    if b > 0:
        work = f"{a} + {b} = {a + b}" + (f", and {a + b} - 12 = {end}" if a + b > 12 else "")
    else:
        work = f"{a} - {-b} = {end}" if a + b > 0 else f"{a} + 12 = {a + 12}, and {a + 12} - {-b} = {end}"
    return {"M": (f"{a}月", MONTHS[a - 1]), "work": work, "e": end, "answer": MONTHS[end - 1]}


def _time(hour: int, minute: int) -> tuple[str, str]:
    return f"{hour}時{minute}分", f"{hour}:{minute:02d}"


STRUCTURES = (
    Structure(
        "weekday-later", _weekdays, lambda a, b: _weekday(a, b, 1), "weekday(date(2024,1,{i})+timedelta(days={b}))",
        "{b} = {m} + {r}, so count {n} on from {w}: {days}. It is {answer}.",
        (
            ("今日は{w}です。{p}の{x}は今日から{b}日後です。{x}は何曜日ですか？",
             "Today is {w}. {p}'s {x} is {b} days from today. What day of the week is the {x}?"),
            ("{p}は{w}に本を借り、その{b}日後に返しました。本を返したのは何曜日ですか？",
             "{p} borrowed a book on a {w} and returned it {b} days later. On what day of the week did {p} return the book?"),
        ), "x=event",
    ),
    Structure(
        "weekday-earlier", _weekdays, lambda a, b: _weekday(a, b, -1), "weekday(date(2024,3,{i}+3)-timedelta(days={b}))",
        "{b} = {m} + {r}, so count {n} back from {w}: {days}. It is {answer}.",
        (
            ("{p}の{x}は{w}で、準備はその{b}日前に始めます。準備を始めるのは何曜日ですか？",
             "{p}'s {x} is on a {w}, and {p} starts preparing {b} days before it. On what day of the week does {p} start preparing?"),
            ("今日は{w}です。{p}は{b}日前に手紙を出しました。手紙を出したのは何曜日ですか？",
             "Today is {w}. {p} mailed a letter {b} days ago. On what day of the week did {p} mail the letter?"),
        ), "x=event",
    ),
    Structure(
        "day-later", lambda: ((a, b, c) for a, b, c in product(range(2, 16), range(2, 16), range(2, 16)) if a + b + c <= 30 and b != c),
        lambda a, b, c: {"s": a + b, "answer": a + b + c}, "{a}+{b}+{c}",
        "The first step leads to day {a} + {b} = {s}. The second leads to day {s} + {c} = {answer}. It was {m} {answer}.",
        (
            ("{p}は{m}{a}日に{x}を注文しました。{x}は{b}日後に届き、{p}はその{c}日後に使い始めました。使い始めたのは{m}何日ですか？",
             "{p} ordered {ax} on {m} {a}. The {x} arrived {b} days later, and {p} started using it {c} days after that. On what day of {m} did {p} start using it?"),
            ("{p}は{m}{a}日に旅行に出かけ、{b}日後に次の町に移り、その{c}日後に家に帰りました。家に帰ったのは{m}何日ですか？",
             "{p} left on a trip on {m} {a}, moved on to the next town {b} days later and came home {c} days after that. On what day of {m} did {p} come home?"),
        ), "x=ordered m=month",
    ),
    Structure(
        "weeks", lambda: ((a, b, c) for a, b, c in product(range(2, 8), range(2, 7), range(3, 30)) if 2 <= a * 7 + b - c),
        lambda a, b, c: {"s": a * 7, "u": a * 7 + b, "answer": a * 7 + b - c}, "{a}*7+{b}-{c}",
        "{a} weeks are {a} * 7 = {s} days. Altogether there are {s} + {b} = {u}. Then {u} - {c} = {answer}. The rest is {answer} days.",
        (
            ("{x}は全部で{a}週間と{b}日です。今日までに{c}日が過ぎました。残りは何日ですか？",
             "The {x} is {a} weeks and {b} days long in all. So far, {c} days have passed. How many days are left?"),
            ("{p}は{a}週間と{b}日の旅行をしていて、これまでに{c}日が過ぎました。旅行の残りは何日ですか？",
             "{p} is on a trip of {a} weeks and {b} days, and {c} days have passed so far. How many days of the trip are left?"),
        ), "x=season", 3,
    ),
    Structure(
        "duration", lambda: product(HOURS, FIVES, FIVES),
        lambda a, b, c: {"t": _time(a, b), "u": _time(a + 1, c), "h": a + 1, "s": 60 - b, "answer": 60 - b + c},
        "({h}*60+{c})-({a}*60+{b})",
        "From {t} to {h}:00 there are 60 - {b} = {s} minutes. With those up to {u}, {s} + {c} = {answer}. It took {answer} minutes.",
        (
            ("{p}は{x}を{t}に始めて、{u}に終えました。何分かかりましたか？",
             "{p} started {x} at {t} and finished at {u}. How many minutes did it take?"),
            ("{p}は{t}に電車に乗り、{u}に降りました。電車に乗っていたのは何分ですか？",
             "{p} got on a train at {t} and got off at {u}. For how many minutes was {p} on the train?"),
        ), "x=chore",
    ),
    Structure(
        "clock", lambda: ((a, b, c) for a, b, c in product(HOURS, FIVES, range(15, 60, 5)) if b + c > 60),
        lambda a, b, c: {"t": _time(a, b), "s": b + c, "r": b + c - 60, "h": a + 1, "answer": _time(a + 1, b + c - 60)[1]},
        "'%d:%02d' % ({a}+1, {b}+{c}-60)",
        "{b} + {c} = {s}, and {s} - 60 = {r}, so the hour goes on from {a} to {h}. The time is {answer}.",
        (
            ("{p}は{t}に{x}を始め、終えるのに{c}分かかりました。終わったのは何時何分ですか？",
             "{p} started {x} at {t} and took {c} minutes to finish. At what time did {p} finish?"),
            ("{p}は{t}に友だちと会う約束でしたが、友だちは{c}分遅れて来ました。友だちが来たのは何時何分ですか？",
             "{p} was to meet a friend at {t}, but the friend came {c} minutes late. At what time did the friend come?"),
        ), "x=chore",
    ),
    Structure(
        "arrive", lambda: ((a, b, c, d) for a, b, c, d in product(HOURS, FIVES, (2, 3, 4), FIVES) if b + d < 60),
        lambda a, b, c, d: {"t": _time(a, b), "s": a + c, "r": b + d, "answer": _time(a + c, b + d)[1]},
        "'%d:%02d' % ({a}+{c}, {b}+{d})",
        "The hours are {a} + {c} = {s}, and the minutes are {b} + {d} = {r}. The time is {answer}.",
        (
            ("{x}行きの電車は{t}に発車し、{c}時間{d}分で{x}に着きます。{x}に着くのは何時何分ですか？",
             "The train for {x} leaves at {t} and takes {c} hours and {d} minutes to get there. At what time does it arrive in {x}?"),
            ("{p}は{t}に家を出て、{c}時間{d}分後に{x}に着きました。{x}に着いたのは何時何分ですか？",
             "{p} left home at {t} and arrived in {x} {c} hours and {d} minutes later. At what time did {p} arrive in {x}?"),
        ), "x=city",
    ),
    Structure(
        "leave", lambda: ((a, b, c) for a, b, c in product(range(9, 21), range(5, 30, 5), range(10, 60, 5)) if c > b),
        lambda a, b, c: {"t": _time(a, b), "s": c - b, "r": 60 - c + b, "answer": _time(a - 1, 60 - c + b)[1]},
        "'%d:%02d' % ({a}-1, 60-({c}-{b}))",
        "Back to {a}:00 it is {b} minutes, and {c} - {b} = {s} more. In the hour before, 60 - {s} = {r}. The time is {answer}.",
        (
            ("{p}は{t}に{x}に着きました。家から{x}までは{c}分かかりました。{p}が家を出たのは何時何分ですか？",
             "{p} arrived at the {x} at {t}. It took {c} minutes to get there from home. At what time did {p} leave home?"),
            ("{p}は{t}ちょうどに{x}に着きたいと思っています。家から{x}までは{c}分かかります。{p}は何時何分に家を出ればよいですか？",
             "{p} wants to arrive at the {x} at exactly {t}. It takes {c} minutes to get there from home. At what time should {p} leave home?"),
        ), "x=place",
    ),
    Structure(
        "month-later", lambda: product(range(1, 13), range(2, 12)), lambda a, b: _month(a, b), "month_name(({a}+{b}-1)%12+1)",
        "{M} is month {a} of the year. {work}. Month {e} is {answer}.",
        (
            ("今は{M}です。{p}の{x}は今から{b}か月後です。{x}は何月ですか？",
             "It is {M} now. {p}'s {x} is {b} months from now. In what month is the {x}?"),
            ("{p}は{M}に引っ越し、その{b}か月後に新しい仕事を始めました。新しい仕事を始めたのは何月ですか？",
             "{p} moved in {M} and started a new job {b} months after that. In what month did {p} start the new job?"),
        ), "x=event",
    ),
    Structure(
        "month-earlier", lambda: product(range(1, 13), range(2, 12)), lambda a, b: _month(a, -b), "month_name(({a}-{b}-1)%12+1)",
        "{M} is month {a} of the year. {work}. Month {e} is {answer}.",
        (
            ("{p}の{x}は{M}で、準備はその{b}か月前に始めます。準備を始めるのは何月ですか？",
             "{p}'s {x} is in {M}, and {p} starts preparing {b} months before it. In what month does {p} start preparing?"),
            ("今は{M}です。{p}は{b}か月前に{y}に引っ越しました。{p}が引っ越したのは何月ですか？",
             "It is {M} now. {p} moved to {y} {b} months ago. In what month did {p} move?"),
        ), "x=event y=city",
    ),
    Structure(
        "years", lambda: ((a, b, a + b + t) for a, b, t in product(range(1960, 2001, 2), range(5, 31), range(6, 40, 3)) if a + b + t <= 2030),
        lambda a, b, c: {"s": a + b, "answer": c - a - b}, "{c}-({a}+{b})",
        "{b} years after {a} is {a} + {b} = {s}. From then on, {c} - {s} = {answer}. It is {answer} years.",
        (
            ("ある{x}は{a}年に建てられ、その{b}年後に建て替えられました。{c}年は建て替えの何年後ですか？",
             "{ax} was built in {a} and rebuilt {b} years after that. How many years after the rebuilding is {c}?"),
            ("{p}は{a}年に生まれ、その{b}年後に{y}に引っ越しました。引っ越した年から{c}年までは何年ですか？",
             "{p} was born in {a} and moved to {y} {b} years after that. How many years is it from the year of the move to {c}?"),
        ), "x=place y=city",
    ),
    Structure(
        "nth-weekday", lambda: ((a, b, c) for a, b, c in product(range(1, 8), range(2, 5), range(2, 7)) if a + 7 * (b - 1) + c <= 30),
        lambda a, b, c: {"k": b - 1, "s": 7 * (b - 1), "u": a + 7 * (b - 1), "answer": a + 7 * (b - 1) + c, "n": f"{b}{'ndrdth'[2 * b - 4 :][:2]}"},
        "{a}+7*({b}-1)+{c}",
        "From the first {w} to the {n} it is {k} * 7 = {s} days, and {a} + {s} = {u}. Then {u} + {c} = {answer}. It is {m} {answer}.",
        (
            ("{m}の最初の{w}は{m}{a}日です。{p}の{x}は{m}の第{b}{w}の{c}日後です。{x}は{m}何日ですか？",
             "The first {w} of {m} is {m} {a}. {p}'s {x} is {c} days after the {n} {w} of {m}. What day of {m} is the {x}?"),
            ("{m}{a}日は、その月の最初の{w}です。同じ月の第{b}{w}の{c}日後は、{m}何日ですか？",
             "{m} {a} is the first {w} of the month. What day of {m} is {c} days after the {n} {w} of the same month?"),
        ), "x=event m=month w=weekday", 3,
    ),
    Structure(
        "both-days", lambda: ((a, a + t) for a, t in product(range(1, 26), range(2, 28)) if a + t <= 30),
        lambda a, b: {"s": b - a, "answer": b - a + 1}, "{b}-{a}+1",
        "From {m} {a} to {m} {b} it is {b} - {a} = {s} days. The first day counts too, so {s} + 1 = {answer}. That makes {answer} days.",
        (
            ("{p}は{m}{a}日に旅行に出発し、{m}{b}日に帰りました。出発した日と帰った日も数えると、旅行は何日間でしたか？",
             "{p} left on a trip on {m} {a} and came back on {m} {b}. Counting both the day of leaving and the day of coming back, how many days was the trip?"),
            ("{x}は、{m}{a}日から{m}{b}日まで毎日開かれます。最初の日と最後の日も数えると、全部で何日間開かれますか？",
             "The {x} is held every day from {m} {a} to {m} {b}. Counting both the first and the last day, for how many days is it held in all?"),
        ), "x=fair m=month",
    ),
    Structure(
        "month-end",
        lambda: ((a, b, calendar.mdays[a] - b + t) for a, b, t in product((1, 3, 4, 5, 6, 7, 8, 9, 10, 11), range(17, 29), range(2, 16))),
        lambda a, b, c: {
            "M": (f"{a}月", MONTHS[a - 1]), "N": (f"{a + 1}月", MONTHS[a]), "l": calendar.mdays[a], "s": calendar.mdays[a] - b,
            "answer": c - calendar.mdays[a] + b,
        }, "(date(2023,{a},{b})+timedelta(days={c})).day",
        "After {M} {b} there are {l} - {b} = {s} days left in {M}. Then {c} - {s} = {answer}. It is {N} {answer}.",
        (
            ("{M}は{l}日まであります。{p}の{x}は{M}{b}日の{c}日後です。{x}は{N}何日ですか？",
             "{M} has {l} days. {p}'s {x} is {c} days after {M} {b}. What day of {N} is the {x}?"),
            ("{p}は{M}{b}日に本を借り、その{c}日後に返しました。{M}は{l}日まであります。本を返したのは{N}何日ですか？",
             "{p} borrowed a book on {M} {b} and returned it {c} days later. {M} has {l} days. On what day of {N} did {p} return the book?"),
        ), "x=event",
    ),
    Structure(
        "every", lambda: ((a, b, c, d) for a, b, c, d in product(HOURS, FIVES, (5, 6, 8, 10, 12, 15), range(3, 8)) if b + c * (d - 1) < 60),
        lambda a, b, c, d: {
            "t": _time(a, b), "k": d - 1, "s": c * (d - 1), "r": b + c * (d - 1), "answer": _time(a, b + c * (d - 1))[1],
        }, "'%d:%02d' % ({a}, {b}+{c}*({d}-1))",
        "Up to number {d} there are {d} - 1 = {k} intervals, and {k} * {c} = {s} minutes. Then {b} + {s} = {r}. The time is {answer}.",
        (
            ("{x}行きのバスは{t}から{c}分ごとに出ます。{t}のバスを1本目とすると、{d}本目のバスが出るのは何時何分ですか？",
             "Buses to the {x} leave every {c} minutes from {t} on. If the {t} bus is number 1, at what time does bus number {d} leave?"),
            ("{p}は{t}から{c}分ごとに空の写真を撮りました。{t}の写真を1枚目とすると、{d}枚目を撮ったのは何時何分ですか？",
             "{p} took a photo of the sky every {c} minutes from {t} on. If the {t} photo is number 1, at what time did {p} take photo number {d}?"),
        ), "x=place", 3,
    ),
)  # fmt: skip
