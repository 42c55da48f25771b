"""The benchmark of training: real processes of both trainers on the same examples, and a table that says by how much."""

from __future__ import annotations

import platform

import pytest

from helpers import files, profiles, throughput, training


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_ours_trains_as_many_steps_as_were_asked_for(steps, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "train", lambda profile, order, *a, **k: asked.append(order))
    monkeypatch.setattr(throughput.checkpoints, "read_log", lambda path: [{"tokens_per_second": 1.0, "tokens_seen": n} for n in range(2)])
    throughput._ours(profiles.choose("tiny"), steps)
    assert asked[0].steps == steps and {stage for stage, _ in asked[0].items} == {"translate", "multistep"}


def test_one_step_is_too_few():
    with pytest.raises(files.UserError, match="expected 2 or more"):
        throughput.measure(1, "tiny")


@pytest.mark.slow
def test_each_trainer_is_measured_on_the_same_examples(tmp_path):
    result = throughput.measure(3, "tiny", folder=tmp_path, say=lambda text: None)
    rows = {r["name"]: r for r in result["rows"]}
    assert list(rows) == throughput.available()
    assert all(r["tokens"] > 200 and r["seconds"] > 0 and 0.1 < r["peak_gb"] < 4 for r in rows.values())
    # Two of three steps each, of the same texts in another order.
    assert 0.25 < rows["ours"]["tokens"] / rows["trl"]["tokens"] < 4
    page = (tmp_path / "training.md").read_text(encoding="utf-8")
    assert page == throughput.table(result) and " × |" in page
    assert not platform.node() or platform.node() not in page + (tmp_path / "training.json").read_text(encoding="utf-8")
