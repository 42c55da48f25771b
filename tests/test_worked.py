"""Rationales by program: they pass the gates, end in the gold answer, and are absent where the program does not understand."""

from __future__ import annotations

import datetime
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import worked
from helpers.gates import evaluate, gate, wrong_equations
from helpers.records import Record

HERE = settings(derandomize=True, deadline=None, max_examples=200)


def record(en: str, check: str, answer: str, category: str = "arithmetic") -> Record:
    return Record("own-1", "qa", "問題です。", en, answer=answer, check=check, category=category)


@pytest.mark.parametrize("category, least", [("arithmetic", 0.9), ("dates", 0.7)])
def test_most_authored_records_are_explained_and_every_explanation_passes_the_gates(questions, category, least):
    mine = [r for r in questions if r.category == category]
    texts = worked.rationales(mine)
    refused = {r.id: why for r in mine if r.id in texts and (why := gate(r, texts[r.id]))}
    assert refused == {}
    assert len(texts) / len(mine) >= least


def test_every_explanation_of_any_authored_record_passes_the_gates(questions):
    texts = worked.rationales(questions)
    assert {r.id: why for r in questions if r.id in texts and (why := gate(r, texts[r.id]))} == {}
    assert all(r.check for r in questions if r.id in texts)


def test_the_authored_steps_are_one_equation_each_in_order_of_evaluation():
    text = worked.rationale(record("It costs 400 yen first, then 250 yen for each of 4 hours but one.", "400+(4-1)*250", "1150"))
    assert text == "4 - 1 = 3. 3 * 250 = 750. 400 + 750 = 1150. So the answer is 1150."


def test_a_factor_that_the_question_does_not_name_is_explained():
    text = worked.rationale(record("A penguin eats 14 fish a day. How many fish does it eat in one week?", "14*7", "98"))
    assert text == "A week has 7 days. 14 * 7 = 98. So the answer is 98."


def test_a_number_that_comes_from_other_knowledge_is_not_explained():
    assert worked.rationale(record("How many legs do a spider and a beetle have together?", "8+6", "14")) == ""


def test_an_expression_that_disagrees_with_the_gold_answer_is_not_explained():
    assert worked.rationale(record("There are 3 bags of 140 grams each.", "3*140", "421")) == ""


@pytest.mark.parametrize(
    "check",
    ["", "__import__('os').getcwd()", "open('x')", "3*", "(lambda: 3)()", "3/0", "3 if True else 4", "'3'*3", "date(3,3,3)", "3**3**9"],
)
def test_what_is_not_such_an_expression_is_not_explained(check):
    assert worked.rationale(record("There are 3 and 9.", check, "3")) == ""


def test_division_with_a_rest_says_what_fits():
    assert "5 * 9 = 45 fits into 47, but 5 * 10 = 50 does not." in worked.rationale(record("47 people, 5 seats.", "47//5", "9"))
    assert worked.rationale(record("47 people at tables of 5. How many tables?", "(47+5-1)//5", "10")) == (
        "9 * 5 = 45 is not enough, for 47 - 45 = 2 is left. So one more is needed: 9 + 1 = 10. So the answer is 10."
    )
    assert "47 - 45 = 2." in worked.rationale(record("47 people, groups of 5. How many are left over?", "47%5", "2"))


def test_a_weekday_is_counted_in_whole_weeks_and_the_rest():
    question = "Today is Monday. What day of the week is it 100 days from today?"
    text = worked.rationale(record(question, "weekday(date(2025,1,6)+timedelta(days=100))", "Wednesday", "dates"))
    assert text == "14 full weeks are 14 * 7 = 98 days. 100 - 98 = 2. Two days after Monday is Wednesday."
    elsewhere = question.replace("Monday", "Friday")  # the expression starts from a Monday
    assert worked.rationale(record(elsewhere, "weekday(date(2025,1,6)+timedelta(days=100))", "Wednesday", "dates")) == ""


numbers = st.integers(1, 9999)
trees = st.recursive(numbers.map(str), lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
                     max_leaves=5)  # fmt: skip


@HERE
@given(trees)
def test_any_expression_of_named_numbers_is_explained_with_right_equations(check):
    named = " ".join(re.findall(r"\d+", check))
    value = int(evaluate(check))
    text = worked.rationale(record(f"Numbers: {named}.", check, str(value)))
    if check.isdigit():
        assert text == ""
    else:
        assert text.endswith(f"So the answer is {value}.")
        assert wrong_equations(text) == []


@HERE
@given(st.dates(datetime.date(2000, 1, 1), datetime.date(2060, 1, 1)), st.integers(1, 400), st.sampled_from("+-"))
def test_any_weekday_is_right(start, days, sign):
    end = start + datetime.timedelta(days=days if sign == "+" else -days)
    answer, name = worked.WEEKDAYS[end.weekday()], worked.WEEKDAYS[start.weekday()]
    check = f"weekday(date({start.year},{start.month},{start.day}){sign}timedelta(days={days}))"
    mine = record(f"One day is a {name}. Which day of the week is {days} days away?", check, answer, "dates")
    text = worked.rationale(mine)
    assert gate(mine, text) == "", text
    assert wrong_equations(text) == []
    counted = re.search(rf"(\w+) days? (after|before) {name} is {answer}\.$", text)
    rest = "zero one two three four five six".split().index(counted[1].lower()) if counted else 0
    assert rest == days % 7 and (not counted or counted[2] == ("after" if sign == "+" else "before"))


@HERE
@given(st.dates(datetime.date(2000, 1, 1), datetime.date(2060, 1, 1)), st.integers(1, 120))
def test_any_number_of_days_between_two_dates_is_right(begin, days):
    end = begin + datetime.timedelta(days=days)

    def say(day):
        return f"{worked.MONTHS[day.month - 1]} {day.day}"

    check = f"(date({end.year},{end.month},{end.day})-date({begin.year},{begin.month},{begin.day})).days"
    mine = record(f"In {begin.year}, how many days are there from {say(begin)} to {say(end)}?", check, str(days), "dates")
    text = worked.rationale(mine)
    assert wrong_equations(text) == []
    # The last equation comes to the number of days: the steps lead there, and are not only right by themselves.
    results = re.findall(r"= (\d+)", text) or re.findall(r"has (\d+) days", text)
    assert not text or int(results[-1]) == days
