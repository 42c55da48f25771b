"""A rationale passes every gate or is named by the first it fails, and every outcome is counted."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import gates
from helpers.corpora import QUESTIONS
from helpers.gates import HeldOut, acceptance, check, concludes, english, evaluate, gate, wrong_equations
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
BARE = SHOP.replace(aliases=())
FUJI = Record(
    "f", "qa", "一番高い山は？", "What is the highest mountain?", "Mount Fuji", ("Mt. Fuji",), category="geography"
)
SUN = Record("y", "qa", "太陽は星ですか？", "Is the Sun a star?", "Yes", category="science")
DAY = Record("d", "qa", "火曜の2日後は？", "What day is two days after Tuesday?", "Thursday", category="dates")
TAX = "The tax rate is 8 percent, that is 0.08. 1500 * 0.08 = 120. The tax is 120 yen."
PEAK = "The highest peak in Japan rises 3776 meters. That volcano is Mount Fuji."


def long(words: int) -> str:
    """A rationale of so many words."""
    return " ".join([*("The shop keeps adding some more of its small change until it comes to a sum of ".split() * 9)[1 - words :], "120"])


@pytest.mark.parametrize(
    ("record", "rationale", "why"),
    [
        (SHOP, TAX, ""),
        (SHOP, "", "missing"),
        (SHOP, " \n", "missing"),
        (SHOP, TAX + "\nAnswer: 120", "format"),
        (SHOP, "Reasoning: " + TAX, "format"),
        (SHOP, TAX + "<|endoftext|>", "format"),
        (SHOP, TAX + "</s>", "format"),
        (SHOP, TAX.replace("The tax is", "税は"), "not-english"),
        (SHOP, TAX.replace("rate", "レート"), "not-english"),
        (SHOP, TAX.replace("rate", "세율"), "not-english"),
        (SHOP, "La taxe est de 8 pour cent, soit 0.08. 1500 * 0.08 = 120. La taxe est de 120 yens.", "not-english"),
        (SHOP, long(7), "length"),
        (SHOP, long(8), ""),
        (SHOP, long(80), ""),
        (SHOP, long(81), "length"),
        (SHOP, TAX.replace("The tax is 120 yen.", "That is the tax to pay."), "wrong-conclusion"),
        (SHOP, TAX.replace("tax is 120 yen", "tax is 1,120 yen"), "wrong-conclusion"),
        (SHOP, TAX.replace("tax is 120 yen", "tax is 1200 yen"), "wrong-conclusion"),
        (SHOP, TAX.replace("tax is 120 yen", "tax is 120.5 yen"), "wrong-conclusion"),
        (SHOP, TAX.replace("tax is 120 yen", "tax is one hundred twenty yen"), ""),
        (SHOP, TAX.replace("= 120. The", "= 12. The"), "wrong-arithmetic"),
        (SHOP, "It comes to exactly 120 yen in all.", "restates-answer"),
        (FUJI, PEAK, ""),
        (FUJI, PEAK.replace("Mount Fuji.", "MOUNT FUJI!"), ""),
        (FUJI, "The highest peak in Japan rises 3776 meters. People know it as Mt. Fuji.", ""),
        (FUJI, "The highest peak in Japan is Mount Fuji. It rises 3776 meters.", "wrong-conclusion"),
        (FUJI, PEAK.replace("Mount Fuji", "Mount Fujiyama"), "wrong-conclusion"),
        (FUJI, "The highest mountain of all is Mount Fuji.", "restates-answer"),
    ],
)
def test_gates(record, rationale, why):
    assert gate(record, rationale) == why
    assert why in ("", *gates.REASONS)


@pytest.mark.parametrize(
    ("record", "rationale", "agrees"),
    [
        (SHOP, "The tax is not 120.", False),
        (SHOP, "The tax is 110 or 120.", False),
        (SHOP, "The tax is 120, not 130.", True),
        (SHOP, "From the bill it is 120 - 20 = 100.", False),
        (BARE, "1500 * 0.08 = 120. So 120 yen go to the state within 30 days.", True),
        (BARE, "1500 * 0.02 = 30. So 120 yen go to the state within 30 days.", False),
        (FUJI, "It is Mount Fuji or Mount Kita.", False),
        (SUN, "It burns hydrogen. So the answer is Yes.", True),
        (SUN, "There is no doubt that it burns: yes.", True),
        (SUN, "Yes, it shines, but the answer is No.", False),
        (DAY, "Two days after Tuesday is Thursday.", True),
        (DAY, "Two days before Thursday is Tuesday.", False),
        (FUJI.replace(answer="St. Petersburg", aliases=()), "Peter founded it in 1703. It is St. Petersburg.", True),
        (FUJI.replace(answer="St. Petersburg", aliases=()), "Peter founded it in 1703. It is not St. Petersburg.", False),
        (FUJI.replace(answer="…", aliases=("",)), "Nobody knows what it is.", False),
    ],
)
def test_conclusions(record, rationale, agrees):
    assert concludes(record, rationale) is agrees


def test_a_restated_answer_is_no_rationale():
    record = FUJI.replace(answer="the Battle of the Plains of Abraham", aliases=())
    assert gate(record, "That was the Battle of the Plains of Abraham.") == "restates-answer"
    assert gate(record, "Wolfe beat Montcalm in 1759: that was the Battle of the Plains of Abraham.") == ""


def test_an_empty_alias_opens_no_gate():
    assert gate(SHOP.replace(aliases=("",)), "Nobody knows what the tax could possibly be here.") == "wrong-conclusion"


@pytest.mark.parametrize(("tokens", "why"), [(9, "length"), (10, ""), (120, ""), (121, "length")])
def test_a_tokenizer_decides_the_length_where_there_is_one(tokens, why):
    assert gate(SHOP, TAX, count_tokens=lambda text: tokens) == why
    assert gate(SHOP, long(81), count_tokens=lambda text: 90) == ""


FOREIGN = [
    "Le plus haut sommet du Japon s'élève à 3776 mètres. Ce volcan est le Mount Fuji.",
    "Shikoku a quatre provinces: Awa, Sanuki, Iyo et Tosa. Awa est devenue Tokushima.",
    "Der hoechste Berg Japans ist 3776 Meter hoch. Dieser Vulkan ist Mount Fuji.",
    "Mozart nació en Salzburgo. La capital de Austria es Vienna.",
    "La montagna piu alta del Giappone misura 3776 metri. Quel vulcano e Mount Fuji.",
    "A taxa de imposto e de 8 por cento. 1500 * 0.08 = 120. O imposto e 120 ienes.",
    "De belasting is 8 procent. 1500 * 0.08 = 120. De belasting is 120 yen.",
    "Skatten är 8 procent. 1500 * 0.08 = 120. Skatten är 120 yen.",
    "Gunung tertinggi di Jepang memiliki ketinggian 3776 meter. Gunung itu adalah Mount Fuji.",
    "Ngọn núi cao nhất Nhật Bản cao 3776 mét. Đó là Mount Fuji.",
    "Zeiritsu wa 8 paasento desu. 1500 * 0.08 = 120. Zei wa 120 yen desu.",
    "Самая высокая гора Японии - Mount Fuji.",
    "日本最高的山是 Mount Fuji。",
    "일본에서 가장 높은 산은 Mount Fuji.",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_other_languages_are_not_english(text):
    assert not english(text)


def test_english_with_names_formulas_and_few_words_is_english(questions):
    assert [r.en for r in questions if not english(r.en)] == []
    for text in (
        "The café on Ōmuro-yama lies at the angle α = 30° and 25 ℃.",
        "Shikoku had four provinces: Awa, Sanuki, Iyo and Tosa. Awa became Tokushima.",
        "4 * 1000 = 4000.",
        "",
    ):
        assert english(text), text


def test_every_authored_rationale_passes_every_gate(questions):
    everything = {r.id: r.reasoning for r in questions}
    accepted, outcomes = check(questions, everything)
    assert set(outcomes.values()) == {"accepted"} and accepted == everything
    training = [r for r in questions if r.split == "train"]
    held = [r for r in questions if r.split != "train"]
    accepted, outcomes = check(training, everything, held)
    assert list(accepted) == [r.id for r in training] and set(outcomes.values()) == {"accepted"}


TEST_QUESTION = Record(
    "t", "qa", "湖の北の城は誰が？", "Which lord built the small white castle that stands north of the lake in 1580?", "Oda",
    reasoning="A carpenter from Gifu drew its plans in the spring, and the lord who paid him for the work was Oda.",
    split="test",
)  # fmt: skip
TEST_PAIR = Record("p", "translate", "駅前の本屋は九時に開く。", "The bookshop near our station opens early.", split="dev")


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("Long ago one lord built the small white castle that stands on a hill of its own. It is Mount Fuji.", True),
        ("Then a carpenter from gifu drew its plans in the autumn, and not there. It is Mount Fuji.", True),
        ("A carpenter from Gifu drew plans for another castle than that one. It is Mount Fuji.", False),
        ("A castle stands north of the lake in the snow, and behind it rises a volcano, Mount Fuji.", False),
        ("As everybody knows, the bookshop near our station opens early today. It shows a picture of Mount Fuji.", True),
        ("As everybody knows, the bookshop near our station closes early. It shows a picture of Mount Fuji.", False),
        (PEAK, False),
    ],
)
def test_text_of_dev_and_test_is_refused(text, leaks):
    _, outcomes = check([FUJI], {"f": text}, [TEST_QUESTION, TEST_PAIR])
    assert outcomes == {"f": "held-out-text" if leaks else "accepted"}


def test_what_the_own_question_says_is_no_leak():
    record = FUJI.replace(en=f"Near it one lord {TEST_QUESTION.en[11:]} What is the mountain?")
    text = "One lord built the small white castle that stands north of the lake. The mountain behind it is Mount Fuji."
    held = HeldOut([TEST_QUESTION])
    assert held.passage(FUJI, text) == "built the small white castle that stands north" and held.passage(record, text) == ""


@pytest.mark.parametrize(("records", "leaks"), [(1, True), (2, True), (3, False)])
def test_a_passage_of_many_held_out_records_gives_none_away(records, leaks):
    held = [TEST_PAIR.replace(id=f"p{i}", en=f"In town {i} the bookshop near our station opens at nine every working day.") for i in range(records)]
    text = "In town 7 the bookshop near our station opens at nine every day. Its window shows Mount Fuji."
    assert bool(HeldOut(held).passage(FUJI, text)) is leaks


def test_of_near_copies_the_first_stays():
    other = FUJI.replace(id="g")
    near = PEAK.replace("3776 meters", "3776 meters above it")
    far = "A sacred volcano stands between Shizuoka and Yamanashi, and no other one in Japan is as tall. It is Mount Fuji."
    accepted, outcomes = check([FUJI, other, other.replace(id="h")], {"f": PEAK, "g": near, "h": far})
    assert outcomes == {"f": "accepted", "g": "near-copy", "h": "accepted"} and list(accepted) == ["f", "h"]
    _, outcomes = check([FUJI, other], {"f": PEAK + "\nAnswer: x", "g": PEAK})
    assert outcomes == {"f": "format", "g": "accepted"}, "a refused rationale does not stand in the way of a good one"


def test_two_words_changed_are_a_near_copy_and_a_template_with_another_fact_is_none():
    first = "A sacred volcano stands between Shizuoka and Yamanashi, and no other one in all of Japan is nearly as tall. It is Mount Fuji."
    second = "In ISO 3166-1 every country has a code of two letters. The code AZ goes together with AZE. Both stand for Azerbaijan."
    training = [FUJI, FUJI.replace(id="g"), FUJI.replace(id="x", answer="Azerbaijan"), FUJI.replace(id="y", answer="Belgium")]
    third = second.replace("AZE", "BEL").replace("AZ ", "BE ").replace("Azerbaijan", "Belgium")
    texts = {"f": first, "g": first.replace("sacred", "holy").replace("tall", "high"), "x": second, "y": third}
    assert check(training, texts)[1] == {"f": "accepted", "g": "near-copy", "x": "accepted", "y": "accepted"}


def test_the_same_sum_with_other_numbers_is_no_near_copy():
    pens = "Six pens at 80 yen cost 6 * 80 = 480. With the note it is 480 + 150 = 630. The change is 1000 - 630 = 370."
    cups = "Nine cups at 45 yen cost 9 * 45 = 405. With the note it is 405 + 260 = 665. The change is 2000 - 665 = 1335."
    training = [SHOP.replace(id="1", answer="370"), SHOP.replace(id="2", answer="1335")]
    assert set(check(training, {"1": pens, "2": cups})[1].values()) == {"accepted"}


def test_acceptance_table():
    training = [SHOP, FUJI, SHOP.replace(id="none"), FUJI.replace(id="g")]
    accepted, outcomes = check(training, {"s": TAX.replace("= 120.", "= 121."), "f": PEAK, "g": "Mount Fuji."})
    assert outcomes == {"s": "wrong-arithmetic", "f": "accepted", "none": "missing", "g": "length"} and accepted == {"f": PEAK}
    rows = acceptance(training, outcomes, {"s": "teacher", "f": "authored", "g": "teacher"})
    assert [(r["teacher"], r["category"], r["n"], r["accepted"]) for r in rows] == [
        ("authored", "geography", 1, 1), ("teacher", "arithmetic", 1, 0), ("teacher", "geography", 1, 0), ("–", "arithmetic", 1, 0)
    ]  # fmt: skip
    assert all(sum(r[code] for code in ("accepted", *gates.REASONS)) == r["n"] for r in rows)
    assert [(r["teacher"], r["n"]) for r in acceptance(training, outcomes, "one")] == [("one", 2), ("one", 2)]


def test_import_is_light():
    code = "import sys, helpers.gates, helpers.reasoning, helpers.review, helpers.edits; print(sorted({'torch', 'numpy', 'scipy', 'py3langid', 'ipywidgets', 'filelock'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=QUESTIONS.parents[1])
    assert done.stdout.strip() == "[]"


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


def test_generated_drills_may_repeat_their_form_and_their_arithmetic_is_still_checked():
    from helpers import controls

    made = controls.generate(train=60, test=120)
    train, held = [r for r in made if r.split == "train"], [r for r in made if r.split == "test"]
    wrong = train[0].replace(reasoning=train[0].reasoning.replace("=", "= 1", 1))
    rationales = {r.id: r.reasoning for r in train} | {wrong.id: wrong.reasoning}
    accepted, outcomes = gates.check(train, rationales, held)
    assert outcomes.pop(train[0].id) == "wrong-arithmetic" and set(outcomes.values()) == {gates.ACCEPTED} and len(accepted) == 59
    own = [r.replace(source="own") for r in train]
    assert "near-copy" in gates.check(own, {r.id: r.reasoning for r in own})[1].values() or "held-out-text" in gates.check(own, rationales, held)[1].values()
