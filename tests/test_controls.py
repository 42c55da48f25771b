"""The positive control: true, explained, said alike in both languages, and nothing of dev and test in training."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
from test_data import NOT_ENGLISH, compute

from helpers import controls, reasoning, records
from helpers.answers import exact_match
from helpers.controls import CATEGORIES, parts
from helpers.files import UserError
from helpers.gates import _equations

ASKED = {"train": 450, "dev": 60, "test": 700}


@pytest.fixture(scope="module")
def generated():
    return controls.generate(**ASKED)


def kind(record):
    return re.sub(rf"^{record.category}-|-{record.split}-\d+$", "", record.id)


def test_contract(generated):
    assert len({r.id for r in generated}) == len(generated)
    for r in generated:
        assert records.problem(r.to_dict()) is None
        assert r.task == "qa" and r.category in CATEGORIES and r.hops in (2, 3) and r.difficulty == "calculation", r.id
        assert (r.source, r.license) == ("generated", "CC BY 4.0") and len(r.entities) == 1, r.id
        accepted = [r.answer, *r.aliases]
        assert len(set(accepted)) == len(accepted) and all(exact_match(a, r.answer, r.aliases) for a in accepted), r.id


def test_rationales_pass_the_gates_and_are_short(generated):
    assert {r.id: why for r in generated if (why := reasoning.gate(r, r.reasoning))} == {}
    steps = {r.id: len(re.findall(r"[.!?](?:\s|$)", r.reasoning)) for r in generated}
    assert {i: n for i, n in steps.items() if not 2 <= n <= 4} == {}
    assert all("\n" not in r.reasoning and len(r.reasoning.split()) <= 45 for r in generated)


def test_every_rationale_computes_and_is_true(generated):
    found = {r.id: _equations(r.reasoning) for r in generated}
    assert [i for i, equations in found.items() if not equations or not all(holds for _, holds in equations)] == []


def test_answers_are_what_their_checks_compute(generated):
    assert {r.id: (compute(r.check), r.answer) for r in generated if compute(r.check) != r.answer} == {}


def test_counts_and_balance(generated):
    assert Counter(r.split for r in generated) == ASKED
    for split, n in ASKED.items():
        by_category = defaultdict(Counter)
        for r in generated:
            if r.split == split:
                by_category[r.category][kind(r)] += 1
        for category, module in CATEGORIES.items():
            assert by_category[category].total() == n // 2
            assert set(by_category[category]) == {s.kind for s in module.STRUCTURES}
            assert max(by_category[category].values()) - min(by_category[category].values()) <= 1
    assert Counter(r.category for r in controls.generate(7, 0, 1)) == {"control-arithmetic": 5, "control-dates": 3}


def test_enough_structures_and_records():
    assert len(controls.arithmetic.STRUCTURES) >= 14 and len(controls.dates.STRUCTURES) >= 10
    kinds = [s.kind for module in CATEGORIES.values() for s in module.STRUCTURES]
    assert len(set(kinds)) == len(kinds)
    for split, least in (("train", 600), ("dev", 100), ("test", 900)):
        assert controls.available(split) >= least
        assert len(controls.generate(**{split: controls.available(split)})) == controls.available(split)


@pytest.mark.parametrize("asked", [{"train": 10_000}, {"dev": 5_000}, {"test": -1}])
def test_more_than_there_are(asked):
    with pytest.raises(UserError, match=f"{next(iter(asked))} is .*0 to \\d+"):
        controls.generate(**asked)


def test_the_same_again_and_a_larger_number_begins_with_a_smaller_one(generated):
    controls._pool.cache_clear()
    assert controls.generate(**ASKED) == generated
    for split, n in ASKED.items():
        whole = [r for r in generated if r.split == split]
        assert controls.generate(**{split: n // 3}) == whole[: n // 3]
    assert controls.generate(5, seed=1) != generated[:5]


@pytest.mark.parametrize("seed", [0, 1])
def test_no_question_and_no_numbers_twice(seed):
    every = controls.generate(*(controls.available(s, seed) for s in ("train", "dev", "test")), seed=seed)
    for key in (lambda r: r.en, lambda r: r.ja, lambda r: r.entities):
        assert [k for k, n in Counter(map(key, every)).items() if n > 1] == []


def test_held_out_words_are_not_in_training(generated):
    halves = [parts.PEOPLE]
    halves += [h for m in CATEGORIES.values() for name, h in m.WORDS.items() if name not in ("month", "weekday", "first_day")]
    for said in (lambda w: w.ja, lambda w: w.one):
        train, held = ({said(w) for half in halves for w in half[i]} for i in (0, 1))
        assert train.isdisjoint(held)
    names = [{w.one for w in half} for half in parts.PEOPLE]
    for r in generated:
        assert names[r.split == "train"].isdisjoint(re.findall(r"\w+", r.en)), r.id


def test_answers_are_spread(generated):
    for split in ("train", "test"):
        for category in CATEGORIES:
            answers = Counter(r.answer for r in generated if r.category == category and r.split == split)
            most = {a: n for a, n in answers.items() if a not in parts.WEEKDAYS and n > 0.06 * answers.total()}
            assert most == {} and max(answers.values()) < 0.08 * answers.total()
            assert len(answers) > 60


def test_both_languages_say_the_same_numbers(generated):
    for r in generated:
        assert r.ja[-1] in "。？" and r.en[-1] in ".?" and (r.en[0].isupper() or r.en[0].isdigit()), r.id
        assert not NOT_ENGLISH.search(r.en + r.reasoning) and "{" not in r.ja + r.en + r.reasoning, r.id
        months = " ".join(str(parts.MONTHS.index(w) + 1) for w in re.findall(r"[A-Z]\w+", r.en) if w in parts.MONTHS)
        # "1個" is "each" or "one" in English.
        ja, en = ({int(n) for n in re.findall(r"\d+", text)} - {1} for text in (r.ja, f"{r.en} {months}"))
        assert ja == en, r.id


def test_kinds_that_are_named_are_the_only_ones_and_keep_their_splits():
    kinds = ["gave", "ages", "weeks"]
    made = controls.generate(train=40, dev=8, test=40, kinds=kinds)
    found = Counter((r.split, r.entities[0].split()[0]) for r in made)
    assert found == {
        ("train", "gave"): 10, ("train", "ages"): 10, ("train", "weeks"): 20, ("dev", "gave"): 2, ("dev", "ages"): 2, ("dev", "weeks"): 4,
        ("test", "gave"): 10, ("test", "ages"): 10, ("test", "weeks"): 20,
    }  # fmt: skip
    asked = {split: {r.entities for r in made if r.split == split} for split in ("train", "dev", "test")}
    assert not asked["train"] & asked["test"] and not asked["train"] & asked["dev"]


@pytest.mark.parametrize("kinds, says", [(["gone", "weeks"], "Unknown kind 'gone'"), (["gave"], "needs a kind of control-dates")])
def test_kinds_that_cannot_be_had_are_refused(kinds, says):
    with pytest.raises(UserError, match=says):
        controls.generate(train=2, kinds=kinds)
