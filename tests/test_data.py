"""The shipped questions keep what their card (data/README.md) promises."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections import Counter, defaultdict
from datetime import date, timedelta
from itertools import combinations
from statistics import median

import pytest

from helpers import corpora, reasoning, records
from helpers.curation import ngrams, normalise
from helpers.records import Record

CARD = (corpora.QUESTIONS.parent / "README.md").read_text(encoding="utf-8")
NOT_ENGLISH = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")
SPLITS = ("train", "dev", "test")


def english(record: Record) -> list[str]:
    return [record.id, record.en, record.answer, record.reasoning, record.category, *record.aliases, *record.entities]


def test_contract(questions):
    assert len(questions) >= 800 and sum(r.split == "test" for r in questions) >= 250
    assert len({r.id for r in questions}) == len(questions)
    for r in questions:
        assert records.problem(r.to_dict()) is None
        assert r.task == "qa" and r.split in SPLITS and r.entities and r.reasoning, r.id
        assert (r.source, r.license) == ("bonsai", "CC BY 4.0"), r.id
        assert re.fullmatch(rf"{r.category}-\d{{3}}", r.id), r.id
        accepted = [r.answer, *r.aliases]
        assert len(set(accepted)) == len(accepted) and all(a.strip() for a in accepted), r.id


def test_categories_are_in_every_split(questions):
    counts = Counter((r.category, r.split) for r in questions)
    categories = {c for c, _ in counts}
    assert len(categories) >= 8
    assert all(counts[c, s] >= 8 for c in categories for s in SPLITS), counts


def test_the_three_levels_of_difficulty_are_balanced_in_every_split(questions):
    counts = Counter((r.difficulty, r.split) for r in questions)
    for split in SPLITS:
        shares = [counts[level, split] / sum(r.split == split for r in questions) for level in ("fact", "two-hop", "calculation")]
        assert min(shares) > 0.25, (split, shares)


def test_a_rationale_has_one_to_four_steps(questions):
    steps = {r.id: len(re.split(r"(?<=[.!?])\s+(?=[A-Z0-9(\"])", r.reasoning)) for r in questions}
    assert {i: n for i, n in steps.items() if n > 4} == {}


def test_no_entity_in_two_splits(questions):
    splits: dict[str, set[str]] = defaultdict(set)
    for r in questions:
        for entity in r.entities:
            splits[normalise(entity)].add(r.split)
    assert {e: s for e, s in splits.items() if len(s) > 1} == {}


def test_no_name_answers_a_test_and_a_training_question(questions):
    names: dict[str, set[str]] = defaultdict(set)
    for r in questions:
        if not re.fullmatch(r"[\d.:,]+|Yes|No|\w+day", r.answer):
            names[normalise(r.answer)].add(r.split)
    assert [n for n, s in names.items() if {"train", "test"} <= s] == []


def test_rationales_pass_the_gates(questions):
    assert {r.id: why for r in questions if (why := reasoning.gate(r, r.reasoning))} == {}


NAMES = {
    "date": date,
    "timedelta": timedelta,
    "weekday": lambda d: ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")[d.weekday()],
    "clock": lambda minutes: f"{minutes // 60}:{minutes % 60:02d}",
    "month_name": lambda n: (
        "January", "February", "March", "April", "May", "June", "July",
        "August", "September", "October", "November", "December",
    )[n - 1],
}  # fmt: skip


def compute(expression: str) -> str:
    """The value of a `check`, which may use numbers, texts, comparisons and the functions in `NAMES` alone."""
    tree = ast.parse(expression, mode="eval")
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Name) or node.id in NAMES, expression
        assert not isinstance(node, ast.Attribute) or node.attr in ("days", "day", "month", "year", "count", "index"), (
            expression
        )
    return str(eval(compile(tree, "check", "eval"), {"__builtins__": {}}, NAMES))


def test_answers_are_what_their_checks_compute(questions):
    checked = [r for r in questions if r.check]
    assert {r.id: (compute(r.check), r.answer) for r in checked if compute(r.check) != r.answer} == {}


def test_checks_compute_and_do_not_repeat_the_answer(questions):
    def computes(expression: str) -> bool:
        return any(
            isinstance(n, (ast.BinOp, ast.Call, ast.Compare)) for n in ast.walk(ast.parse(expression, mode="eval"))
        )

    assert [r.id for r in questions if r.check and not computes(r.check)] == []


def test_all_of_arithmetic_and_dates_is_checked(questions):
    assert [r.id for r in questions if r.category in ("arithmetic", "dates") and not r.check] == []


def test_a_check_cannot_reach_beyond_its_names():
    for expression in ("__import__('os')", "().__class__", "open('x')", "date.today.__globals__"):
        with pytest.raises(AssertionError):
            compute(expression)


@pytest.mark.parametrize("side", ["ja", "en"])
def test_no_question_is_repeated(questions, side):
    keys = Counter(normalise(getattr(r, side)) for r in questions)
    assert [k for k, n in keys.items() if n > 1] == []


@pytest.mark.parametrize("side", ["ja", "en"])
def test_no_near_copy_in_another_split(questions, side):
    grams = [ngrams(getattr(r, side), 6) for r in questions]
    where: dict[str, list[int]] = defaultdict(list)
    for i, own in enumerate(grams):
        for gram in own:
            where[gram].append(i)
    shared = Counter(pair for found in where.values() for pair in combinations(found, 2))
    near = {
        (questions[i].id, questions[j].id): n / len(grams[i] | grams[j])
        for (i, j), n in shared.items()
        if questions[i].split != questions[j].split and n / len(grams[i] | grams[j]) >= 0.6
    }
    assert shared and near == {}


def test_typography(questions):
    for r in questions:
        assert not re.search(r"[?!０-９Ａ-Ｚａ-ｚ\uff61-\uff9f]", r.ja), r.id
        assert re.search(r"[\u3040-\u30ff]", r.ja) and r.ja.endswith(("？", "。")), r.id
        for text in english(r):
            assert not NOT_ENGLISH.search(text), (r.id, text)
        assert r.en.endswith(("?", ".")), r.id
        for text in (r.ja, *english(r)):
            assert text == " ".join(text.split()) == unicodedata.normalize("NFC", text), (r.id, text)


def rows(head: str) -> dict[str, tuple[int, ...]]:
    """The rows of the card's table whose first cell is `head`."""
    table = re.search(rf"^\| {head} \| train .*\n\|[-| :]+\n((?:\|.*\n)+)", CARD, re.MULTILINE)
    assert table, f"the card has no table by {head}"
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in table[1].splitlines()]
    return {first: tuple(map(int, rest)) for first, *rest in cells}


@pytest.mark.parametrize("head", ["category", "hops", "difficulty"])
def test_the_tables_of_the_card_agree_with_the_file(questions, head):
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for r in questions:
        for key in (str(getattr(r, head)), "all"):
            counts[key][r.split] += 1
    assert rows(head) == {key: (*(n[s] for s in SPLITS), n.total()) for key, n in counts.items()}


def test_the_words_of_the_card_agree_with_the_file(questions):
    words = sorted(len(r.reasoning.split()) for r in questions)
    test = sum(r.split == "test" for r in questions)
    text = " ".join(CARD.split())
    for claim in (
        f"問題 {len(questions)} 問",
        f"{len(questions)} records in UTF-8 JSONL",
        f"{words[0]} to {words[-1]} words, median {median(words):g}",
        f"in {sum(bool(r.check) for r in questions)} records (all of arithmetic and dates)",
        f"The {test} test questions",
    ):
        assert claim in text, claim


def test_the_card_names_every_field(questions):
    named = set(re.findall(r"`(\w+)`", CARD[CARD.index("| field |") : CARD.index("| category |")]))
    assert questions[0].to_dict().keys() <= named


def test_the_card_names_both_licences():
    assert "CC BY 4.0" in CARD and "license: cc-by-4.0" in CARD
    assert corpora.TATOEBA.license in CARD and corpora.TATOEBA.distributions[0].replace("==", " ") in CARD
