"""What only a GPU can show: phi-2 whole, with random weights, through the real trainer and the real decoder, within a T4's limits.

On any machine with a CUDA GPU of 16 GiB or more: python -m helpers test --all -k gpu
"""

from __future__ import annotations

import dataclasses
import math
import statistics

import pytest

from helpers import (
    checkpoints,
    corpora,
    files,
    memory,
    models,
    pipeline,
    profiles,
    throughput,
    training,
)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


pytestmark = [pytest.mark.slow, pytest.mark.skipif("not _cuda()", reason="no CUDA device: phi-2 is not trained here")]


@pytest.fixture(scope="module")
def phi2():
    chosen = profiles.choose("phi-2")
    return profiles.choose("phi-2", model_id=str(throughput._random_model(chosen)))


def _trained(profile, steps: int, folder, fit: bool = False):
    order = throughput._order(profile, steps - throughput.WARM_GPU)
    profile = pipeline.fitted(profile, order, lambda text: None) if fit else profile
    dev = {kind: [next(r for stage, r in order.items if (stage == "translate") == (kind == "pairs"))] for kind in ("pairs", "questions")}
    said = []
    training.train(profile.replace(evaluations=1), order, dev, folder, say=said.append)
    rows = [r for r in checkpoints.read_log(folder / "log.jsonl") if "loss" in r]
    return rows, said, files.read_json(folder / "done.json")


def test_fifty_steps_of_the_trainer_stay_finite_within_a_t4_s_memory(phi2, t4, tmp_path):
    """The loss of every step, and the gradient once the scaler has found its scale; fp16 and fp32 come to the same loss."""
    last = []
    for compute in ("float16", "float32"):
        profile = dataclasses.replace(phi2, model=dataclasses.replace(phi2.model, fp16_safe=compute == "float16"))
        rows, said, done = _trained(profile, 50, tmp_path / compute, fit=True)
        assert not said and done["precision"] == compute
        assert [r["step"] for r in rows] == list(range(1, 51))
        assert all(math.isfinite(r["loss"]) for r in rows) and all(math.isfinite(r["grad_norm"]) for r in rows[20:])
        last.append(sum(r["loss"] for r in rows[-5:]) / 5)
        assert last[-1] < sum(r["loss"] for r in rows[:5]) / 5
        skipped = sum(not math.isfinite(r["grad_norm"]) for r in rows)
        rate = statistics.median(r["tokens_per_second"] for r in rows)
        print(f"{done['device']}, phi-2 in {compute}: loss {rows[0]['loss']:.3f} -> {rows[-1]['loss']:.3f}, {skipped} steps skipped by the scaler, peak {done['peak_memory_gb']:.2f} GB, {rate:.0f} tokens/s")
    assert last[0] == pytest.approx(last[1], rel=0.02)


def test_a_step_that_does_not_fit_is_halved_and_goes_on(phi2, t4, tmp_path):
    """Sixteen examples at once with every activation kept: predicted to need more than a T4 has."""
    rows, said, done = _trained(phi2.replace(batch_size=16, accumulation=1, gradient_checkpointing=False), 8, tmp_path / "run")
    assert [r["step"] for r in rows] == list(range(1, 9)) and done["steps"] == 8
    assert any("Memory ran out. Going on from step" in text for text in said)
    print(said)


def test_the_batch_that_is_chosen_fits(phi2, t4, tmp_path):
    order = throughput._order(phi2, 4)
    chosen = pipeline.fitted(phi2, order, lambda text: None)
    longest = max(len(e["input_ids"]) for e in training.encode(models.load_tokenizer(phi2), phi2, order.items))
    assert chosen.recipe.batch_size > phi2.recipe.batch_size
    rows, said, done = _trained(chosen, 8, tmp_path / "run")
    assert not said, "nothing was halved"
    planned = memory.plan(phi2.model.identifier, length=longest, batch=chosen.recipe.batch_size, checkpointing=chosen.recipe.gradient_checkpointing)
    counted = (planned.total - memory.CONTEXT) / (1 + memory.FRAGMENTATION)
    print(f"{chosen.recipe.batch_size} at once, longest {longest}: peak {done['peak_memory_gb']:.2f} GB, planned {counted / 1e9:.2f} GB")
    assert done["peak_memory_gb"] * 1e9 <= 1.1 * counted


@pytest.mark.parametrize("merge", [True, False])
def test_it_generates_within_a_t4_s_memory(merge, phi2, t4):
    import torch

    from helpers import inference

    model, tokenizer = models.load_for_inference(phi2, merge=merge), models.load_tokenizer(phi2)
    questions = [r for r in corpora.questions() if r.split == "test"][:32]
    found = inference.stage(model, tokenizer, phi2, "S4", questions, asked=True)
    alone = inference.stage(model, tokenizer, phi2, "S4", questions[:2], asked=True)
    assert len(found) == 32 and all(p.tokens > 20 for p in found)
    assert sum(a.text == b.text for a, b in zip(found, alone, strict=False)) >= 1, "of two, one at least: in fp16 the order of sums may turn a token of a random model"
    peak = torch.cuda.max_memory_allocated() / memory.GIB
    print(f"phi-2, merged {merge}: peak {peak:.2f} GiB")
    assert peak < (11 if merge else 6)
