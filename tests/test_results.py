"""The tables and the verdict, from predictions whose truth is known."""

from __future__ import annotations

import dataclasses
import json
import re

import pandas as pd
import pytest

from helpers import agreement, claims, evaluation, files, pipeline, report, results, runtime, scoring, seeds
from helpers.records import Record

STUDY = """[seeds]
plain = [0, 1]
reasoned-33 = [0, 1]
reasoned-100 = [0, 1]
shuffled-33 = [0, 1]
plain-token-matched = [0, 1]
[recipe]
control_test = 60
"""
AUTHORED, CONTROL = 40, 60
# Questions whose answers are cut off, and whose texts repeat themselves: one of them is both.
CUT_OFF, LOOPS = (0, 1), (1, 2)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    (tmp_path / "s.toml").write_text(STUDY)
    return runtime.open_run("r", "tiny", study=str(tmp_path / "s.toml"))


@pytest.fixture
def data():
    def question(i, category):
        return Record(f"{category}-{i}", "qa", f"質問{i}は何ですか？", f"What is question {i}?", f"Word{i}", category=category, hops=1 + i % 2, split="test")

    questions = [question(i, "science") for i in range(AUTHORED)] + [question(i, "control-dates") for i in range(CONTROL)]
    pairs = [Record(f"p{i}", "translate", f"文{i}。", f"This is the sentence number {i} of the pairs.", split="test") for i in range(12)]
    return pipeline.Data({"test": pairs}, {"test": questions}, {"files": {}})


def write(run, data, name, seed, right, english="This is the sentence number {} of the pairs."):
    """Predictions of a system: `right(stage, asked, index, control)` says whether an answer is right."""
    folder = run.path("predictions", name, f"seed{seed}") if seed >= 0 else run.path("predictions", name)
    rows = []
    asked = (False, True) if name == "base" or name.startswith(("reasoned", "shuffled")) else (False,)
    for record in data.questions["test"]:
        control, i = record.category.startswith("control"), int(record.id.split("-")[-1])
        for stage in ("S2", "S4") if control else ("S1", "S2", "S3", "S4", "S5"):
            for how in asked if stage in ("S2", "S3", "S4") else (False,):
                answer = record.answer if right(stage, how, i, control) else "Nothing"
                rows.append({"id": record.id, "stage": stage, "asked": how, "prompt_english": "", "text": "and so " * 9 * (i in LOOPS), "english": record.en,
                             "reasoning": "Because." if how else "", "answer": answer, "well_formed": True, "truncated": i in CUT_OFF, "tokens": 5})  # fmt: skip
    systems = ("base zero-shot", "base few-shot") if name == "base" else (name,)
    pairs = [{"system": s, "id": p.id, "english": english.format(i), "truncated": False, "tokens": 4} for s in systems for i, p in enumerate(data.pairs["test"])]
    for file, content in (("questions.jsonl", rows), ("translation.jsonl", pairs)):
        files.write_text(folder / file, "".join(json.dumps(r) + "\n" for r in content))
    files.write_json(folder / "done.json", {"made_from": "test", "seconds": 1, "tokens": 1})


def study(run, data, gain):
    """Plain answers a quarter; with Reasoning the same on the authored set, and `gain` more on the control when it is asked for."""
    write(run, data, "base", -1, lambda stage, asked, i, control: False, "A {}.")
    for seed in (0, 1):
        write(run, data, "plain", seed, lambda stage, asked, i, control: i % 4 == 0 or (stage == "S2" and i % 4 == 1))
        for arm in ("reasoned-33", "reasoned-100"):
            write(run, data, arm, seed, lambda stage, asked, i, control: i % 4 == 0 or (control and asked and i % 4 in range(1, gain + 1)))


def test_tables_hold_what_the_predictions_say(run, data):
    study(run, data, gain=2)
    found = results.results(run, data)
    stages = {(r["arm"], r["decoding"], r["set"], r["stage"]): r for r in found.stages}
    assert stages["plain", "free", "authored", "S4"]["value"] == pytest.approx(25) and stages["plain", "free", "authored", "S2"]["value"] == pytest.approx(50)
    assert stages["reasoned-33", "asked", "control", "S4"]["value"] == pytest.approx(75)
    assert stages["reasoned-33", "free", "control", "S4"]["value"] == pytest.approx(25), "left alone it does not"
    assert stages["plain", "free", "all", "S4"]["n"] == AUTHORED + CONTROL
    assert stages["plain", "free", "authored", "S4"]["truncated"] == pytest.approx(100 * 2 / AUTHORED)
    assert stages["plain", "free", "authored", "S4"]["looped"] == pytest.approx(100 / AUTHORED), "cut off in a loop: one of two"
    assert {k for k, r in stages.items() if r["own"] and k[0] == "reasoned-33"} == {
        ("reasoned-33", "asked", s, st) for s in ("all", "authored", "control") for st in ("S2", "S3", "S4") if s == "authored" or st != "S3"
    } | {("reasoned-33", "free", "authored", "S5")}, "S5 has no asked form"
    broken = {(r["arm"], r["step"]): r["n"] for r in found.broken}
    # Over two seeds: S4 right 10, S2 wrong 20, S2 right and S3 wrong 10 of 40.
    assert [broken["plain", s] for s in ("right", "knowledge/reasoning", "translation", "chaining")] == [20, 40, 20, 0]
    groups = {(r["arm"], r["stage"], r["by"], r["group"]): r for r in found.groups}
    assert groups["reasoned-33", "S4", "category", "control-dates"]["value"] == pytest.approx(75)
    assert {g for _, _, by, g in groups if by == "difficulty"} == {"fact", "two-hop"}
    assert {r["n"] for k, r in groups.items() if k[2] == "difficulty"} == {AUTHORED // 2}, "the control's are not among them"
    assert {r["system"]: (r["value"], r["bleu"], r["seeds"]) for r in found.question_translation}["plain"] == pytest.approx((100, 100, 2))
    assert [r["percent"] for r in found.dose if r["stage"] == "S4" and r["set"] == "control"] == [0, 33, 100]


def test_the_verdict_follows_the_truth(run, data):
    study(run, data, gain=2)
    found = results.results(run, data)
    outcomes = {(r["a"], r["set"], r["stage"]): r["outcome"] for r in found.paired if r["b"] == "plain"}
    assert outcomes["reasoned-33", "control", "S4"] == "improves" and outcomes["reasoned-33", "authored", "S4"] == "no detectable difference"
    sentence = report.answer(found)
    assert "on the 40 questions" in sentence and "+0.0 points" in sentence and "no detectable difference (in a single comparison at 5 %, " in sentence
    assert "on the 60 problems of the positive control" in sentence and "+50.0 points" in sentence and "in one call (S4): improves" in sentence
    assert [r["label"] for r in report.primary(found)][:2] == ["reasoned-33, S2, authored", "reasoned-100, S2, authored"]

    study(run, data, gain=0)
    found = results.results(run, data)
    assert {r["outcome"] for r in found.paired if r["b"] == "plain" and r["stage"] == "S4"} == {"no detectable difference"}
    assert all(r["p_holm"] >= r["p"] for r in found.paired)


def test_a_study_in_parts_is_scored_with_what_is_there(run, data):
    study(run, data, gain=1)
    for seed in (0, 1):
        run.path("predictions", "reasoned-100", f"seed{seed}", "done.json").unlink()
    run.path("predictions", "reasoned-33", "seed1", "done.json").unlink()
    found = results.results(run, data)
    assert {r["a"] for r in found.paired} == {"plain", "reasoned-33"} and {r["seeds"] for r in found.paired if r["b"] == "plain"} == {1}
    run.path("predictions", "plain", "seed0", "done.json").unlink()
    run.path("predictions", "plain", "seed1", "done.json").unlink()
    with pytest.raises(files.UserError, match="no predictions of base and plain"):
        results.results(run, data)


def test_the_three_claims(run, data):
    study(run, data, gain=1)
    found = results.results(run, data)
    steps = range(1, 41)

    def log(extra):
        rows = [{"arm": a, "seed": 0, "step": s, "phase": "questions", "loss": 2 - s / 40 + (extra + 0.01 * (s % 3)) * (a != "plain")} for a in ("plain", "reasoned-33") for s in steps]
        return pd.DataFrame(rows)

    worse, better = claims.claims(found, log(0.3)), claims.claims(found, log(-0.3))
    assert [c["status"] for c in worse] == ["confirmed", "confirmed", "confirmed"], worse
    assert better[0]["status"] == "refuted" and "+0.31 nats" in worse[0]["number"]
    assert "by seed" not in worse[0]["number"] and "steps only" in worse[0]["number"] and "mix of tasks" in worse[0]["number"]
    two = pd.concat([log(0.3), log(0.1).assign(seed=1)])
    assert "+0.21 nats" in (number := claims.claims(found, two)[0]["number"]) and "steps; by seed +0.31, +0.11)" in number and "last half of training (n=20 steps" in number
    phased = pd.concat([two, two.assign(step=two["step"] - 40, phase="pairs", loss=9.0)])
    assert claims.claims(found, phased)[0]["number"] == number.replace("last half of training", "last half of the question phase")
    assert "25.0 % right in one call (S4) against 50.0 %" in worse[2]["number"] or "reasoned" in worse[2]["number"]


def test_rule_and_reader_are_compared_on_the_same_answers(run, data, tmp_path):
    study(run, data, gain=1)
    drawn = agreement.sample(run, data, count=20, seed=1)
    assert len({(r["arm"], r["seed"], r["id"]) for r in drawn}) == 20 and agreement.sample(run, data, count=20, seed=1) == drawn
    assert all(not r["id"].startswith("control") and r["gold"] and "step" not in r for r in drawn)
    # In `study` plain fails at S3 where i % 4 == 1 and at S2 where i % 4 > 1; the reasoned arms at S2.
    truth = [{k: r[k] for k in ("arm", "seed", "id")} | {"step": "translation" if r["arm"] == "plain" and int(r["id"][8:]) % 4 == 1 else "knowledge/reasoning"} for r in drawn]
    path = agreement.write(tmp_path / "judged.jsonl", truth)
    found = agreement.measure(run, data, agreement.read(path))
    assert found["n"] == 20 and found["agree"] == 100 and found["kappa"] == 1
    assert (found["low"], found["high"]) == pytest.approx((83.9, 100), abs=0.05), "Wilson, 20 of 20"
    assert sum(s["n"] for s in found["systems"]) == 20 and {(s["arm"], s["seed"]) for s in found["systems"]} == {(r["arm"], r["seed"]) for r in drawn}
    agreement.write(run.path("judged.jsonl"), truth)
    judged = results.results(run, data)
    assert judged.agreement == found and "named the same step in 100 % of 20 wrong answers" in report.broken_step(judged)
    assert "knowledge/reasoning in " in report.broken_step(judged) and "[84, 100]" in report.broken_step(judged)
    one = found["systems"][0]
    assert f"{one['n']} of {one['arm']} seed {one['seed']}" in report.broken_step(judged)
    other = [r | {"step": "chaining"} for r in truth]
    found = agreement.measure(run, data, other)
    assert found["agree"] == 0 and found["kappa"] == 0 and sum(r["n"] for r in found["confusion"]) == 20
    path.write_text('{"arm": "plain", "seed": 0, "id": "science-1", "step": "fate"}\n')
    with pytest.raises(files.UserError, match="line 1, field 'step'"):
        agreement.read(path)
    with pytest.raises(files.UserError, match="not among the predictions"):
        agreement.measure(run, data, [{"arm": "plain", "seed": 9, "id": "science-1", "step": "chaining"}])
    with pytest.raises(files.UserError, match="wrong answers"):
        agreement.sample(run, data, count=10_000)


def test_predictions_made_from_something_else_are_named_even_where_the_adapter_is_gone(run, data):
    write(run, data, "base", -1, lambda *a: False)
    write(run, data, "plain", 1, lambda *a: True)
    assert evaluation.stale(run, data) == ["base", "plain seed 1"]


def test_outcomes_are_corrected_over_arms_and_stages_and_shown_over_arms_alone():
    """R: p.adjust(c(.01, .04, .03, .005), "holm") gives .03 .06 .06 .02; of the pairs .02 .04 and .03 .01."""
    def found(p):
        return seeds.SeedDifference(5.0, 1.0, 9.0, p, 100, 3, (5.0, 4.0, 6.0), (p, p, p), 30, 15, 6.0)

    rows = results._family({("x", "plain", "S2"): found(0.01), ("y", "plain", "S2"): found(0.04), ("x", "plain", "S4"): found(0.03), ("y", "plain", "S4"): found(0.005)}, "authored")
    assert [r["p_holm"] for r in rows] == pytest.approx([0.03, 0.06, 0.06, 0.02]) and [r["p_arms"] for r in rows] == pytest.approx([0.02, 0.04, 0.03, 0.01])
    no = "no detectable difference"
    assert [r["outcome"] for r in rows] == ["improves", no, no, "improves"] and {r["outcome_arms"] for r in rows} == {"improves"}
    assert results._family({}, "authored") == []


def test_a_difference_whose_interval_leaves_out_zero_is_not_called_none_without_a_reason(run, data):
    study(run, data, gain=2)
    found = results.results(run, data)
    beside = {"value": 23.2, "low": 12.6, "high": 33.8, "p_holm": 0.0557, "p_arms": 0.033, "outcome": "no detectable difference", "outcome_arms": "improves"}
    few = {"value": 0.0, "low": -9.0, "high": 9.0, "outcome": "no detectable difference", "outcome_arms": "no detectable difference", "mde": float("inf")}
    changed = [r | (beside if (r["set"], r["stage"]) == ("control", "S4") else few if (r["set"], r["stage"]) == ("authored", "S4") else {}) if r["a"] == "reasoned-33" else r for r in found.paired]
    found = dataclasses.replace(found, paired=changed)
    sentence = report.answer(found)
    assert "+23.2 points [+12.6, +33.8] in one call (S4): not significant after correction (p = 0.056), so by the preset rule no detectable difference" in sentence
    assert "too few to detect any" in sentence and "inf" not in sentence
    numbers = report.headline(run, found)
    assert "no detectable difference (not significant after correction): +23.2" in numbers["Does Reasoning help? S4, control questions, reasoned-33 against plain"]
    trained = [("plain", 0), ("plain", 1), ("reasoned-33", 0)]
    assert "over arms alone reasoned-33, S4, control would be “improves” (p = 0.033)" in report._limits(run, found, trained)
    assert "between 1 and 2 of them" in report._limits(run, found, trained) and "chrF++ cover sentences only" in report._limits(run, found, trained)
    same = dataclasses.replace(found, paired=[r | {"outcome_arms": r["outcome"]} for r in found.paired])
    assert "over arms alone all would be the same" in report._limits(run, same, trained)
    rates = {"plain": (0.5, 1.0, 0.7, 0.3), "plain-token-matched": (0.5, 1.0, 0.7, 0.8, 0.3)}
    for arm, values in rates.items():
        rows = [{"step": i, "tokens_seen": i, "learning_rate": rate} for i, rate in enumerate(values)]
        files.write_text(run.path("arms", arm, "seed0", "log.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
    assert "The learning rate of plain-token-matched rises again" in report._limits(run, found, trained)


def test_the_page_shows_how_answers_to_the_authored_questions_are_formed(run, data):
    study(run, data, gain=1)
    head, rows = report._overview(results.results(run, data))
    # Of each set two answers are cut off, one of them in a loop: 2 and 1 in 40.
    assert head[-1].startswith("S4 cut off") and {r[-1] for r in rows} == {"5.0 % (2.5 %)"} and "S4, control (n=60)" in head


def controlled(run, data, shuffled_gain):
    study(run, data, gain=2)
    for seed in (0, 1):
        write(run, data, "shuffled-33", seed, lambda stage, asked, i, control: i % 4 == 0 or (control and asked and i % 4 in range(1, shuffled_gain + 1)))
        write(run, data, "plain-token-matched", seed, lambda stage, asked, i, control: i % 4 == 0)
    return results.results(run, data)


def test_what_the_rationales_say_is_told_from_their_length(run, data):
    found = controlled(run, data, shuffled_gain=0)
    rows = {(r["b"], r["stage"], r["set"]): r for r in found.controls}
    assert len(rows) == 12 and {b for b, _, _ in rows} == {"shuffled-33", "plain-token-matched"}
    assert all(r["value"] == pytest.approx(50 if which == "control" else 0) and r["outcome"] == "improves" for (_, _, which), r in rows.items() if which == "control")
    assert all(r["p_holm"] == 1 for (_, _, which), r in rows.items() if which == "authored")
    sentence = report._not_length(found)
    assert sentence.startswith("What is said in the rationales helps, not their length: reasoned-33 on the positive control over shuffled-33 (rationales of other records) +50.0 points [")
    assert "n=60; 4 of 4 improve" in sentence and "none of the 4 differences is detectable" in sentence
    # A gain over one of the controls alone shows nothing.
    sentence = report._not_length(controlled(run, data, shuffled_gain=2))
    assert "is not shown" in sentence and "2 of 4 improve" in sentence
    run.path("predictions", "plain-token-matched", "seed0", "done.json").unlink()
    run.path("predictions", "plain-token-matched", "seed1", "done.json").unlink()
    found = results.results(run, data)
    assert {r["b"] for r in found.controls} == {"shuffled-33"} and report._not_length(found) == ""


def test_harm_that_comes_of_asking_is_told_from_harm_of_the_training(run, data):
    study(run, data, gain=2)
    found = {(r["a"], r["b"], r["stage"], r["set"]): r for r in results.results(run, data).left_alone}
    # In `study` the arm left alone loses every fourth question at S2 to plain; asked it does better on the control alone.
    assert found["reasoned-33", "plain", "S2", "control"]["value"] == pytest.approx(-25) and found["reasoned-33", "plain", "S4", "control"]["value"] == 0
    assert found["reasoned-33", "reasoned-33", "S4", "control"]["value"] == pytest.approx(50) and found["reasoned-33", "reasoned-33", "S4", "authored"]["value"] == 0
    assert found["reasoned-33", "reasoned-33", "S4", "control"]["label"] == "reasoned-33 asked − reasoned-33 left alone, S4, control"
    for seed in (0, 1):
        write(run, data, "reasoned-33", seed, lambda stage, asked, i, control: not asked and (i % 4 == 0 or (stage == "S2" and i % 4 == 1)))
    sentence = report._alone(results.results(run, data))
    assert "+0.0 points" in sentence and "in S2 (no detectable difference; n=40). Asked against left alone, the same adapters: -50.0 points [" in sentence
    assert sentence.endswith("in S4 (harms), so the harm is an effect of asking.")
    for seed in (0, 1):
        write(run, data, "reasoned-33", seed, lambda *a: False)
    assert "effect of asking" not in report._alone(results.results(run, data)), "left alone it is as bad"


def test_chrf_of_each_arm_against_plain(run, data):
    study(run, data, gain=1)
    for seed, english in enumerate(("This is the sentence number {} of the pairs.", "The sentence {}.")):
        write(run, data, "reasoned-33", seed, lambda *a: True, english)
    found = {r["a"]: r for r in results.results(run, data).translation_paired}
    references = [p.en for p in data.pairs["test"]]
    low = scoring.corpus_scores([f"The sentence {i}." for i in range(12)], references)["chrf"]
    assert set(found) == {"reasoned-33", "reasoned-100"} and found["reasoned-100"]["value"] == 0 and found["reasoned-100"]["p_holm"] == 1
    assert found["reasoned-33"]["value"] == pytest.approx((100 + low) / 2 - 100) and found["reasoned-33"]["high"] < 0
    assert found["reasoned-33"]["p_holm"] == pytest.approx(2 * found["reasoned-33"]["p"]) and found["reasoned-33"]["seeds"] == 2
    run.path("predictions", "plain", "seed1", "done.json").unlink()
    found = {r["a"]: r for r in results.results(run, data).translation_paired}
    assert found["reasoned-33"]["value"] == 0 and found["reasoned-33"]["seeds"] == 1, "the seed that both have"


def test_examples_of_each_broken_step(run, data):
    study(run, data, gain=1)
    first = {"S1": 0, "S2": 1, "S3": 2, "S4": 3, "S5": 0}
    for seed in (0, 1):
        write(run, data, "reasoned-33", seed, lambda stage, asked, i, control: i % 4 >= first[stage])
    found = results.results(run, data).broken_examples
    assert [r["step"] for r in found] == [s for s in agreement.STEPS for _ in range(2)]
    assert [int(r["id"].split("-")[1]) % 4 for r in found] == [0, 0, 1, 1, 2, 2] and all(r["id"].startswith("science") for r in found)
    translation = next(r for r in found if r["step"] == "translation")
    assert (translation["S2"], translation["S3"], translation["S4"]) == (translation["gold"], "Nothing", "Nothing")


def test_the_command_is_that_of_the_study(run, tmp_path, monkeypatch):
    device = {"device": "CPU"}
    monkeypatch.setattr(report, "_trained_with", lambda run: device)
    made = {name: report.command(runtime.open_run(name, **o)) for name, o in {
        "default": {"profile": "gemma3-270m"}, "quick": {"profile": "gemma3-270m"}, "other": {"profile": "tiny"}, "full": {"profile": "gemma3-270m", "study": "full"}}.items()}  # fmt: skip
    assert made == {"default": "python3 -m helpers run", "quick": "python3 -m helpers study quick", "other": "python3 -m helpers run --profile tiny",
                    "full": "python3 -m helpers study full"}  # fmt: skip
    assert report.command(run) == "python3 -m helpers study s.toml --profile tiny"
    device["device"] = "Tesla T4"
    assert report.command(runtime.open_run("full", study="full")) == "python3 -m helpers study full --profile gemma3-270m", "a GPU picks another"
    assert report.command(runtime.open_run("changed", "tiny", rank=3)) == "", "no command has this setting"


def test_the_forest_of_the_page_keeps_the_arms_with_the_most_seeds():
    rows = [{"label": f"{seeds} {i}", "seeds": seeds} for seeds in (3, 1) for i in range(8)]
    assert report._most_seeds(rows) == rows[:8] and report._most_seeds(rows[4:12]) == rows[4:12]


@pytest.mark.parametrize("control", [True, False])
def test_the_report_says_what_the_tables_hold_and_shows_text(run, data, control):
    if not control:
        data = dataclasses.replace(data, questions={"test": data.questions["test"][:AUTHORED]})
    study(run, data, gain=2)
    controlled(run, data, shuffled_gain=0)
    files.write_json(run.path("reasoning", "augmentation.json"), {"questions": 30})
    for arm, seed in run.study.jobs:
        folder = pipeline.arm_folder(run.with_seed(seed), arm)
        files.write_json(folder / "done.json", {"steps": 8, "device": "CPU", "precision": "float32"})
        rows = [{"step": s, "phase": "questions", "loss": 2 - s / 9 + seed / 5, "dev_answer_loss": 2.0, "tokens_seen": 9 * s, "target_tokens_seen": s} for s in range(1, 9)]
        files.write_text(folder / "log.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    found = results.results(run, data)
    found.broken_examples[0].update(question="<script>alert(1)</script>|x", S4="<img src=x onerror=1>")
    folder = report.write(run, found, report.figures(run, found))
    page, details, shown = ((folder / name).read_text(encoding="utf-8") for name in ("report.md", "details.md", "report.html"))
    assert "Made with `python3 -m helpers study s.toml --profile tiny`." in page and "Made with: python3 -m helpers study s.toml --profile tiny<" in shown
    assert "<script>" not in shown + details and "<img src=x" not in shown + details and "&lt;script&gt;alert(1)&lt;/script&gt;\\|x" in details
    assert ("What is said in the rationales helps, not their length" in page) == control and "Left alone, not asked for Reasoning" in page
    for heading in ("Every arm against plain", "Is it what the rationales say", "Left alone: the arms", "Translation of the authored questions (S1)", "Examples of each broken step"):
        assert f"## {heading}" in details
    assert "| Against plain | chrF++ points | p | p (Holm) | Seeds |" in details and "S2, fact (n=20)" in details and "| reasoned-33 | 100.0 [100.0, 100.0] n=12 | 100.0 |" in details
    assert "forest.png" in page and "forest_all.png" not in details, "16 rows, of two seeds each: all are on the page"
    alts = {name: alt for alt, name in re.findall(r"!\[(.*?)\]\(figures/(\w+)\.png\)", page + details)}
    s4 = next(r["value"] for r in found.stages if r["arm"] == "plain" and r["stage"] == "S4" and r["set"] == "authored")
    assert f"plain, S4: {s4:.1f} %" in alts["stages"] and f"plain, S4: {s4:.1f} %" in shown, "a figure says its numbers to who cannot see it"
    assert alts["forest"].startswith("Paired differences") and f"{report.primary(found)[0]['value']:+.1f}".replace("-", "\N{MINUS SIGN}") in alts["forest"]
    assert len(alts) == page.count("![") + details.count("![") and not any("[" in alt for alt in alts.values())
