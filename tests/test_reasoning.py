"""A rationale passes every gate or is named by the first it fails; the mix changes rationales and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import reasoning
from helpers.files import UserError
from helpers.reasoning import evaluate, gate, mix, ranking, wrong_equations
from helpers.records import Record

SHOP = Record(
    "s",
    "qa",
    "1500円の税は？",
    "What is the tax on 1500 yen?",
    "120",
    ("120 yen", "one hundred twenty"),
    category="arithmetic",
    hops=2,
)
FUJI = Record(
    "f", "qa", "一番高い山は？", "What is the highest mountain?", "Mount Fuji", ("Mt. Fuji",), category="geography"
)
TAX = "The tax rate is 8 percent, that is 0.08. 1500 * 0.08 = 120. The tax is 120 yen."


def long(words: int) -> str:
    return " ".join(["so"] * (words - 1) + ["120"])


@pytest.mark.parametrize(
    ("record", "rationale", "why"),
    [
        (SHOP, TAX, ""),
        (SHOP, TAX.replace("The tax is", "税は"), "not English"),
        (SHOP, TAX.replace("rate", "レート"), "not English"),
        (SHOP, "It comes to exactly 120 yen in all.", ""),
        (SHOP, "It comes to exactly 120 yen.", "too short or too long"),
        (SHOP, "", "too short or too long"),
        (SHOP, long(7), "too short or too long"),
        (SHOP, long(8), ""),
        (SHOP, long(80), ""),
        (SHOP, long(81), "too short or too long"),
        (SHOP, TAX.replace("The tax is 120 yen.", "That is the tax to pay."), "does not end in the gold answer"),
        (SHOP, TAX.replace("tax is 120 yen", "tax is 1,120 yen"), "does not end in the gold answer"),
        (SHOP, TAX.replace("tax is 120 yen", "tax is 1200 yen"), "does not end in the gold answer"),
        (SHOP, TAX.replace("tax is 120 yen", "tax is 120.5 yen"), "does not end in the gold answer"),
        (SHOP, TAX.replace("tax is 120 yen", "tax is one hundred twenty yen"), ""),
        (SHOP, TAX.replace("= 120. The", "= 12. The"), "wrong arithmetic"),
        (FUJI, "The highest peak in Japan rises 3776 meters. That volcano is Mount Fuji.", ""),
        (FUJI, "The highest peak in Japan rises 3776 meters. That volcano is MOUNT FUJI!", ""),
        (FUJI, "The highest peak in Japan rises 3776 meters. People know it as Mt. Fuji.", ""),
        (FUJI, "The highest peak in Japan is Mount Fuji. It rises 3776 meters.", "does not end in the gold answer"),
        (
            FUJI,
            "The highest peak rises 3776 meters. That volcano is Mount Fujiyama.",
            "does not end in the gold answer",
        ),
        (FUJI, "The highest mountain of all is Mount Fuji.", ""),
    ],
)
def test_gates(record, rationale, why):
    assert gate(record, rationale) == why


def test_a_restated_answer_is_no_rationale():
    record = FUJI.replace(answer="the Battle of the Plains of Abraham", aliases=())
    assert gate(record, "That was the Battle of the Plains of Abraham.") == "only restates the answer"
    assert gate(record, "Wolfe beat Montcalm in 1759: that was the Battle of the Plains of Abraham.") == ""


def test_an_empty_alias_opens_no_gate():
    assert (
        gate(SHOP.replace(aliases=("",)), "Nobody knows what the tax could possibly be here.")
        == "does not end in the gold answer"
    )


def test_every_authored_rationale_passes(questions):
    accepted, outcomes = reasoning.check(questions, reasoning.authored(questions, questions))
    assert outcomes == {"accepted": len(questions)} and accepted.keys() == {r.id for r in questions}


def test_outcomes_are_counted():
    texts = {"s": TAX.replace("= 120.", "= 121."), "f": "Mount Fuji."}
    training = [SHOP, FUJI, SHOP.replace(id="none")]
    accepted, outcomes = reasoning.check(training, texts)
    assert accepted == {} and outcomes == {"wrong arithmetic": 1, "too short or too long": 1, "missing": 1}
    assert reasoning.check(training, {"s": TAX})[0] == {"s": TAX}


def test_authored_rationales_come_from_the_library_by_id():
    library = [SHOP.replace(reasoning=TAX), FUJI, SHOP.replace(id="other", reasoning="x")]
    assert reasoning.authored([SHOP, FUJI], library) == {"s": TAX}


@pytest.mark.parametrize(
    "text",
    [
        "1500 * 0.08 = 120",
        "1500 * 0.08 = 120.",
        "0.1 + 0.2 = 0.3, so",
        "6 / 4 = 1.5 each",
        "007 + 1 = 08",
        "100 - 05 = 95",
        "12,500 + 1,500 = 14,000.",
        "1,000,000 / 8 = 125,000",
        "3 + 4 * 2 = 11",
        "(3 + 4) * 2 = 14",
        "it is ( 3 + 4 ) * 2 = 14 in all",
        "(so 3 + 4 = 7)",
        "(3 + 4) * (2 + 1) = 21 = 3 * 7",
        "3 - 10 = -7",
        "-3 + 10 = 7",
        "3 × 4 = 12, 12 ÷ 6 = 2, 12 − 2 = 10",
        "$3 + $4 = $7 and 2 * ¥500 = ¥1,000",
        "15 = 3 * 5",
        "First 3 + 4 = 7.\n- 7 * 2 = 14\n- 14 - 4 = 10",
        "In 2020, 3 + 4 = 7, and 7 - 2 = 5.",
        "5:00 - 2 = 3:00, x = 5, a = b, 2^3 * 4 = 32 and 3 km * 4 = 12 km are not read",
    ],
)
def test_equations_that_hold(text):
    assert wrong_equations(text) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1500 * 0.08 = 12", ["1500 * 0.08 = 12"]),
        ("3 + 4 = 8, and 7 - 2 = 5", ["3 + 4 = 8,"]),
        ("3 + 4 * 2 = 14", ["3 + 4 * 2 = 14"]),
        ("(3 + 4) * 2 = 15", ["(3 + 4) * 2 = 15"]),
        ("10 - 3 = 7 - 2 = 5", ["10 - 3 = 7 - 2 = 5"]),
        ("16 = 3 * 5", ["16 = 3 * 5"]),
        ("3 × 4 = 13", ["3 * 4 = 13"]),
        ("$3 + $4 = $8", ["3 + 4 = 8"]),
        ("12,500 + 1,500 = 15,000", ["12,500 + 1,500 = 15,000"]),
        ("10 / 3 = 3.33", ["10 / 3 = 3.33"]),
        ("1 / 0 = 0", ["1 / 0 = 0"]),
        ("3 - 10 = 7", ["3 - 10 = 7"]),
        ("3 + 4 = 8\n- 7 * 2 = 15", ["3 + 4 = 8", "7 * 2 = 15"]),
        ("1.2.3 + 1 = 2", ["1.2.3 + 1 = 2"]),
    ],
)
def test_equations_that_do_not_hold(text, wrong):
    assert wrong_equations(text) == wrong


def test_monstrous_numbers_and_runs_are_wrong_not_a_crash():
    for text in (
        "9" * 400 + " / 2 = 3",
        "9" * 5000 + " + 1 = 3",
        "1 + " * 2000 + "1 = 3",
        "(" * 1000 + "1 + 1" + ")" * 1000 + " = 3",
    ):
        assert len(wrong_equations(text)) == 1
    assert wrong_equations("1" + " " * 3000 + "((((" * 500) == []


numbers = st.integers(0, 10**6)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(numbers, st.sampled_from("+-*"), numbers, st.integers(-3, 3))
def test_any_equation(a, sign, b, off):
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    for form in ("{} {} {} = {}.", "{:,} {} {:,} = {:,},", "({}{}{}) = {}"):
        assert bool(wrong_equations(form.format(a, sign, b, result + off))) == bool(off)


@pytest.mark.parametrize(
    ("text", "value"), [("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("-2 - -3", 1), ("1 / 4", 0.25), ("1e3", 1000)]
)
def test_plain_arithmetic(text, value):
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "a", "True", "None", "...", "'a'", "1j", "abs(1)", "__import__('os')", "(1).real", "2 ** 3", "9 ** 9 ** 9",
        "7 // 2", "7 % 2", "1 << 9",
        "~1", "not 1", "1 < 2", "1 and 2", "1 if 1 else 2",
        "[1][0]", "lambda: 1", "(x := 1)", "f'{1}'", "1; 2", "x = 1",
        "", " 1", "1 +", "\0",
        "1 / 0", "9" * 400 + " / 2", "-" * 5000 + "1", "1 + " * 5000 + "1", "(" * 500 + "1" + ")" * 500,
    ],
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="not plain arithmetic|null bytes"):
        evaluate(text)


@pytest.fixture(scope="module")
def training(questions) -> list[Record]:
    return [r.replace(reasoning="") for r in questions if r.split == "train"]


@pytest.fixture(scope="module")
def rationales(questions) -> dict[str, str]:
    return {r.id: r.reasoning for r in questions if r.split == "train"}


def test_every_prefix_of_the_ranking_is_balanced(training):
    order = ranking(training)
    assert sorted(order) == sorted(r.id for r in training)
    stratum = {r.id: (r.category, r.hops) for r in training}
    for kind in (stratum, {i: s[0] for i, s in stratum.items()}):
        totals, seen = Counter(kind.values()), Counter()
        for n, record_id in enumerate(order, 1):
            seen[kind[record_id]] += 1
            assert all(abs(seen[s] - n / len(order) * total) <= 2.5 for s, total in totals.items()), n


def test_the_ranking_depends_on_the_seed_and_not_on_the_order(training):
    assert ranking(training) == ranking(training[::-1]) != ranking(training, seed=1)


def test_shares_of_rationales_are_nested(training, rationales):
    with_reasoning = [{r.id for r in mix(training, rationales, f / 100) if r.reasoning} for f in (0, 20, 33, 67, 100)]
    for smaller, larger in zip(with_reasoning, with_reasoning[1:], strict=False):
        assert smaller < larger
    assert [len(s) for s in with_reasoning] == [round(f * len(training)) for f in (0, 0.2, 0.33, 0.67, 1)]


@pytest.mark.parametrize("fraction", [0, 0.33, 1])
def test_the_mix_keeps_order_and_everything_else(training, rationales, fraction):
    mixed = mix([r.replace(reasoning="left over") for r in training], rationales, fraction)
    assert [r.replace(reasoning="") for r in mixed] == training
    assert all(r.reasoning in ("", rationales[r.id]) for r in mixed), "what was there before does not stay"


def test_the_share_is_of_all_records_where_some_have_no_rationale(training, rationales):
    half = {i: text for n, (i, text) in enumerate(rationales.items()) if n % 2}
    assert sum(bool(r.reasoning) for r in mix(training, half, 0.33)) == round(0.33 * len(training))
    assert {r.id for r in mix(training, half, 1) if r.reasoning} == half.keys()


@pytest.mark.parametrize("fraction", [-0.01, 1.01, 33, float("nan")])
def test_a_fraction_out_of_range_is_refused(training, rationales, fraction):
    with pytest.raises(UserError, match="from 0 to 1"):
        mix(training, rationales, fraction)
