"""A run's stages: made when missing, found when there, made again when what they come from has changed."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from helpers import corpora, evaluation, files, pipeline, records, report, runtime
from helpers.records import Record


@pytest.fixture
def run(tmp_path, monkeypatch, pairs):
    """A tiny run on sentence pairs of the tests instead of the corpus."""
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    many = [p.replace(id=f"{p.id}-{n}", ja=f"{n}番目の話。{p.ja}", en=f"Story {n}. {p.en}") for n in range(6) for p in pairs]
    monkeypatch.setattr(corpora, "tatoeba", lambda say=print: many)
    return runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8)


def test_curated_data_is_made_once_and_split_cleanly(run):
    said = []
    data = pipeline.curate(run, said.append)
    again = pipeline.curate(run, said.append)
    assert "none for these settings" in said[0] and "found in" in said[-1] and data == again
    assert {s: len(data.pairs[s]) for s in pipeline.SPLITS} == {"train": 16, "dev": 2, "test": 4}
    assert all(r.split == s for s in pipeline.SPLITS for r in (*data.pairs[s], *data.questions[s]))
    assert not any(r.reasoning for r in data.questions["train"]), "rationales are put on by notebook 02"
    assert set(data.manifest["files"]) == {"train.jsonl", "dev.jsonl", "test.jsonl"}
    dropped = [json.loads(line) for line in run.path("data", "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter(d["reason"] for d in dropped) == data.manifest["dropped"] and all(d["step"] and d["source"] for d in dropped)


def test_own_records_are_kept_by_later_stages_and_bad_ones_named(run, tmp_path):
    mine = Record("mine-1", "qa", "盆栽の鉢の底にある穴は何のためですか？", "What is the hole in a bonsai pot for?", "Drainage",
                  reasoning="Roots rot in standing water, so water must run out of the pot. The hole is for drainage.")  # fmt: skip
    path = records.write(tmp_path / "mine.jsonl", [mine])
    data = pipeline.curate(run, user_file=str(path))
    assert data.questions["train"][-1] == mine.replace(split="train", reasoning="", source="own")
    assert pipeline.curate(run) == data, "a later notebook does not name the file and still finds its records"
    pipeline.augment(run, data)
    assert json.loads(run.path("reasoning", "accepted.json").read_text())["mine-1"] == mine.reasoning

    copy = data.questions["test"][0].replace(id="sly", split="train")
    path = records.write(tmp_path / "copy.jsonl", [copy])
    data = pipeline.curate(run, user_file=str(path))
    assert all(r.id != "sly" for r in data.questions["train"])
    dropped = [json.loads(line) for line in run.path("data", "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"id": "sly", "source": "own", "step": "not in the held-out sets", "reason": "ja side is in a held-out set"} in dropped

    path = records.write(tmp_path / "same.jsonl", [mine.replace(id=data.questions["test"][0].id)])
    with pytest.raises(records.RecordError, match="same.jsonl.*field 'id'"):
        pipeline.curate(run, user_file=str(path))


def test_a_third_of_the_questions_gets_reasoning_and_arms_share_everything_else(run):
    data = pipeline.curate(run)
    manifest = pipeline.augment(run, data)
    assert manifest["with_reasoning"] == round(0.33 * manifest["questions"])
    arms = {a: pipeline.arm_questions(run, data, a) for a in ("plain", "reasoned-33", "reasoned-67", "reasoned-100")}
    chosen = {a: {r.id for r in rs if r.reasoning} for a, rs in arms.items()}
    assert chosen["plain"] < chosen["reasoned-33"] < chosen["reasoned-67"] < chosen["reasoned-100"]
    bare = [[r.replace(reasoning="") for r in rs] for rs in arms.values()]
    assert all(b == bare[0] for b in bare)
    assert records.read(run.path("data", "train_reasoned.jsonl")) == arms["reasoned-33"]
    for name in ("reasoned-0", "reasoned-101", "../plain"):
        with pytest.raises(files.UserError, match="Unknown arm"):
            pipeline.arm_questions(run, data, name)


@pytest.mark.slow
def test_train_predict_and_report_from_results_only(run):
    data = pipeline.ensure(run, train=True)
    said = []
    pipeline.ensure(run, train=True, say=said.append)
    assert sum("found trained" in s for s in said) == 2
    assert pipeline.export_log(run).read_text().splitlines()[0].startswith("step,")

    evaluation.predict(run, data, say=said.append)
    evaluation.predict(run, data, say=said.append)
    assert sum("Predictions of" in s and "found" in s for s in said) == 3
    results = evaluation.results(run, data)
    assert [t["system"] for t in results.translation] == ["base zero-shot", "base few-shot", "plain", "reasoned-33"]
    n = len(data.questions["test"])
    assert all(r["n"] == n for r in (*results.stages, *results.paired))
    for arm in ("base", "plain", "reasoned-33"):
        assert sum(b["n"] for b in results.broken if b["arm"] == arm) == n

    bad = results.examples[0] | {"question": "<script>alert(1)</script>|x", "answer": "<img onerror=1>"}
    results.examples[0].update(bad)
    folder = report.write(run, results, report.figures(run, results))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<img onerror" not in page and "&lt;script&gt;" in page
    assert "\\|x" in (folder / "report.md").read_text(encoding="utf-8")
    numbers = json.loads((folder / "headline.json").read_text(encoding="utf-8"))
    assert any(k.startswith("Does Reasoning help?") for k in numbers) and all("n=" in v for v in numbers.values())


@pytest.mark.slow
def test_an_arm_is_trained_again_when_its_data_changes(run):
    data = pipeline.ensure(run)
    folder = pipeline.train_arm(run, data, "plain")
    before = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    changed = pipeline.Data(data.pairs, data.questions | {"train": data.questions["train"][:-2]}, data.manifest | {"files": {"train.jsonl": "other"}})
    pipeline.train_arm(run, changed, "plain")
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() != before
