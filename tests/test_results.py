"""The tables and the verdict, from predictions whose truth is known."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from helpers import agreement, claims, evaluation, files, pipeline, report, results, runtime
from helpers.records import Record

STUDY = """[seeds]
plain = [0, 1]
reasoned-33 = [0, 1]
reasoned-100 = [0, 1]
[recipe]
control_test = 60
"""
AUTHORED, CONTROL = 40, 60


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
    asked = (False, True) if name == "base" or name.startswith("reasoned") else (False,)
    for record in data.questions["test"]:
        control, i = record.category.startswith("control"), int(record.id.split("-")[-1])
        for stage in ("S2", "S4") if control else ("S1", "S2", "S3", "S4", "S5"):
            for how in asked if stage in ("S2", "S3", "S4") else (False,):
                answer = record.answer if right(stage, how, i, control) else "Nothing"
                rows.append({"id": record.id, "stage": stage, "asked": how, "prompt_english": "", "text": "", "english": record.en,
                             "reasoning": "Because." if how else "", "answer": answer, "well_formed": True, "truncated": i == 0, "tokens": 5})  # fmt: skip
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
    assert stages["plain", "free", "authored", "S4"]["truncated"] == pytest.approx(100 / AUTHORED)
    assert {k for k, r in stages.items() if r["own"] and k[0] == "reasoned-33"} == {
        ("reasoned-33", "asked", s, st) for s in ("all", "authored", "control") for st in ("S2", "S3", "S4") if s == "authored" or st != "S3"
    } | {("reasoned-33", "free", "authored", "S5")}, "S5 has no asked form"
    broken = {(r["arm"], r["step"]): r["n"] for r in found.broken}
    # Over two seeds: S4 right 10, S2 wrong 20, S2 right and S3 wrong 10 of 40.
    assert [broken["plain", s] for s in ("right", "knowledge/reasoning", "translation", "chaining")] == [20, 40, 20, 0]
    groups = {(r["arm"], r["stage"], r["by"], r["group"]): r for r in found.groups}
    assert groups["reasoned-33", "S4", "category", "control-dates"]["value"] == pytest.approx(75)
    assert {g for _, _, by, g in groups if by == "difficulty"} == {"fact", "two-hop"}
    assert [r["percent"] for r in found.dose if r["stage"] == "S4" and r["set"] == "control"] == [0, 33, 100]


def test_the_verdict_follows_the_truth(run, data):
    study(run, data, gain=2)
    found = results.results(run, data)
    outcomes = {(r["a"], r["set"], r["stage"]): r["outcome"] for r in found.paired if r["b"] == "plain"}
    assert outcomes["reasoned-33", "control", "S4"] == "improves" and outcomes["reasoned-33", "authored", "S4"] == "no detectable difference"
    sentence = report.answer(found)
    assert "positive control" in sentence and "it improves the answers: +50.0" in sentence and "no detectable difference" in sentence
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
    agreement.write(run.path("judged.jsonl"), truth)
    judged = results.results(run, data)
    assert judged.agreement == found and "named the same step in 100 % of 20 wrong answers" in report.broken_step(judged)
    assert "knowledge/reasoning in " in report.broken_step(judged)
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
