"""The benchmark of training: real processes of both trainers on the same examples, and a table that says by how much."""

from __future__ import annotations

import dataclasses
import platform

import pytest

from helpers import files, profiles, throughput, training


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_ours_trains_as_many_steps_as_were_asked_for(steps, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "train", lambda profile, order, *a, **k: asked.append(order))
    monkeypatch.setattr(throughput.checkpoints, "read_log", lambda path: [{"step": n, "tokens_per_second": 1.0, "tokens_seen": n, "target_tokens_seen": n} for n in range(1, 3)])
    monkeypatch.setattr(throughput, "_warm", lambda: throughput.WARM)
    profile = profiles.choose("gemma3-270m").replace(batch_size=4, accumulation=2)
    tiny = dataclasses.replace(profile, model=profiles.choose("tiny").model)
    throughput._ours(tiny, steps)
    assert asked[0].steps == steps + throughput.WARM and len(asked[0].items) == asked[0].steps * asked[0].batch
    stages = [stage for stage, _ in asked[0].items]
    questions = sum(r.split == "train" for r in throughput.corpora.questions())
    share = profile.recipe.train_pairs / (profile.recipe.train_pairs + 2 * questions)
    assert abs(stages.count("translate") - share * len(stages)) <= 1.5, "of the default run's examples, 54 % are sentence pairs"
    asked_once = {r.id: bool(r.reasoning) for stage, r in asked[0].items if stage != "translate"}
    assert abs(sum(asked_once.values()) - profile.recipe.reasoning_fraction * len(asked_once)) <= 1.5


def test_no_step_is_too_few():
    with pytest.raises(files.UserError, match="expected 1 or more"):
        throughput.measure(0, "tiny")


def test_of_several_rounds_the_fastest_counts(monkeypatch):
    """Taking turns, so that a busy minute of the machine hits all alike; the ceiling too is the best that was seen."""
    speeds = {"gflops": iter([400.0, 424.0, 410.0]), "trl": iter([30.0, 34.0, 33.0]), "ours": iter([300.0, 340.0, 350.0])}
    asked = []

    def apart(module, name, *words):
        asked.append(name)
        value = next(speeds[name])
        return {"gflops": value} if name == "gflops" else {"tokens": 1000, "labelled": 400, "tokens_per_second": value, "peak_gb": 5.0, "precision": "bfloat16"}

    monkeypatch.setattr(throughput.scale, "apart", apart)
    result = throughput.measure(2, variants=("trl", "ours"), say=lambda text: None, rounds=3)
    assert asked == ["gflops", "trl", "ours"] * 3 and result["gflops"] == 424.0
    assert [(r["name"], r["tokens_per_second"], r["slowest"]) for r in result["rows"]] == [("trl", 34.0, 30.0), ("ours", 350.0, 300.0)]
    page = throughput.table(result)
    assert "the fastest of 3 rounds" in page and "| 34 (slowest round: 30) | 10.3 × |" in page
    with pytest.raises(files.UserError, match="--rounds 0"):
        throughput.measure(2, "tiny", rounds=0)


def test_the_ceiling_counts_the_linear_layers_and_the_head_where_it_is_used():
    ours = {"name": "ours", "tokens": 1000, "labelled": 400, "tokens_per_second": 600.0, "peak_gb": 3.0, "precision": "bfloat16"}
    result = {"machine": throughput.scale.machine(), "profile": "gemma3-270m", "steps": 8, "gflops": 795.0, "rows": [ours]}
    # 4 FLOP for each of 100.3 M weights in the linear layers and of 0.4 × 167.8 M in the head: 0.67 GFLOP a token.
    assert "that would be 1187 tokens/s; this project reaches 51 % of it" in throughput.table(result)
    assert "reaches 51 % of it, where products" in throughput.table(result) and "where products" not in throughput.table(result | {"device": "a GPU"})
    assert "GFLOP" not in throughput.table(result | {"profile": "tiny"})


def test_a_variant_that_fails_is_a_row_with_its_reason(tmp_path, monkeypatch):
    def apart(module, name, *words):
        if name == "gflops":
            return {"gflops": 876_980.0, "device": "NVIDIA H200"}
        if name == "trl":
            raise files.UserError("measuring trl failed: ValueError: a | b")
        return {"tokens": 1000, "labelled": 400, "seconds": 1.0, "tokens_per_second": 1000.0, "peak_gb": 5.0, "precision": "float16", "at_once": "16 × 1"}

    monkeypatch.setattr(throughput.scale, "apart", apart)
    result = throughput.measure(2, "phi-2", ("trl", "ours"), tmp_path, lambda text: None, t4=True)
    page = (tmp_path / "training-phi-2-as-t4.md").read_text(encoding="utf-8")
    assert page == throughput.table(result) and "| did not run: ValueError: a \\| b |" in page and "877 TFLOP/s" in page
    assert "on one NVIDIA H200" in page and "a T4's limits" in page and result["versions"]["transformers"] in page
    on_cpu = {k: v for k, v in result.items() if k != "device"}
    assert "T4" not in throughput.table(on_cpu), "no GPU was held to anything"
    monkeypatch.setattr(throughput.scale, "apart", lambda module, name, *words: apart(module, "trl"))
    with pytest.raises(files.UserError, match="a | b"):
        throughput.measure(2, "phi-2", ("ours",), say=lambda text: None)


@pytest.mark.slow
def test_each_trainer_is_measured_on_the_same_examples(tmp_path):
    result = throughput.measure(2, "tiny", folder=tmp_path, say=lambda text: None)
    rows = {r["name"]: r for r in result["rows"]}
    assert list(rows) == throughput.available() and result["gflops"] > 1
    assert all(r["tokens"] > 200 and r["seconds"] > 0 and 0.1 < r["peak_gb"] < 4 for r in rows.values())
    # Two steps each, of the same texts in another order.
    assert 0.25 < rows["ours"]["tokens"] / rows["trl"]["tokens"] < 4
    page = (tmp_path / "training-tiny.md").read_text(encoding="utf-8")
    assert page == throughput.table(result) and " × |" in page
    assert not platform.node() or platform.node() not in page + (tmp_path / "training-tiny.json").read_text(encoding="utf-8")
