"""The benchmark of generation: real processes on the same prompts, the same texts where the sums are the same, and a table that says by how much."""

from __future__ import annotations

import platform

import pytest

from helpers import files, generation_speed, pipeline, runtime
from tests import killing


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    monkeypatch.setattr("helpers.corpora.tatoeba", killing.corpus)
    return runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8, questions=12, test_questions=4)


@pytest.mark.slow
def test_each_way_is_measured_on_the_same_prompts(run, tmp_path):
    pipeline.train_arm(run, pipeline.ensure(run, say=lambda text: None), "plain", say=lambda text: None)
    result = generation_speed.measure(run, "plain", 0, 4, folder=tmp_path / "bench", say=lambda text: None)
    rows = {r["name"]: r for r in result["rows"]}
    assert rows.keys() == generation_speed.VARIANTS.keys() and all(r["prompts"] == 8 and r["tokens"] > 8 and r["peak_gb"] > 0.1 for r in rows.values())
    assert rows["ours"]["same"] == 100 and (result["sentences"], result["questions"]) == (4, 4)
    # A random model goes on to the budget, which is one for both instructions in transformers and each its own here.
    assert rows["single-merged"]["tokens"] >= rows["ours"]["tokens"]
    page = (tmp_path / "bench" / "generation.md").read_text(encoding="utf-8")
    assert page == generation_speed.table(result) and page.count(" × |") == 3
    assert not platform.node() or platform.node() not in page + (tmp_path / "bench" / "generation.json").read_text(encoding="utf-8")


def test_an_arm_that_is_not_trained_is_named(run):
    with pytest.raises(files.UserError, match="reasoned-33.*no adapter. Train this arm first"):
        generation_speed.measure(run, "reasoned-33", 0)
