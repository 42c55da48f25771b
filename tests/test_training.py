"""Same prompts in the same order, logits only where there is a label, fp32 adapters, and a resume that changes nothing."""

from __future__ import annotations

import json

import pytest

from helpers import checkpoints, files, fused, models, profiles, prompts, training
from helpers.records import Record


@pytest.fixture(scope="module")
def setting(questions):
    from tests.conftest import PAIRS

    profile = profiles.choose("tiny").replace(replay_pairs=8, batch_size=4, accumulation=1, evaluations=2)
    pairs = [Record(f"p{i}", "translate", ja, en) for i, (ja, en) in enumerate(PAIRS * 2)]
    train = [q.replace(reasoning="") for q in questions if q.split == "train"][:6]
    dev = {"pairs": pairs[:2], "questions": [q for q in questions if q.split == "dev"][:3]}
    return profile, pairs, train, dev


def prompts_of(plan):
    return [prompts.prompt("text", stage, ja=r.ja, en=r.en) for stage, r in plan.items]


def test_plan_has_the_same_prompts_in_the_same_order_for_every_arm(setting, questions):
    profile, pairs, train, _ = setting
    reasons = {q.id: q.reasoning for q in questions}
    reasoned = [r.replace(reasoning=reasons[r.id]) for r in train]
    a, b = (training.plan(profile.recipe, pairs, qs) for qs in (train, reasoned))
    assert prompts_of(a) == prompts_of(b)
    assert a.shared_steps == b.shared_steps == 2
    assert all(stage == "translate" for stage, _ in a.items[: a.shared_steps * a.batch])
    assert len(a.items) == a.steps * a.batch
    assert prompts_of(a) != prompts_of(training.plan(profile.replace(seed=1).recipe, pairs, train))


@pytest.mark.parametrize("name", [n for n, p in profiles.PROFILES.items() if p.model.source != "random"])
def test_by_default_pairs_and_questions_are_mixed_from_the_start(name, questions):
    recipe = profiles.choose(name).recipe
    # A user's own pairs may be more than `train_pairs`: all are kept, and mixed.
    for count in (recipe.train_pairs, recipe.train_pairs + 500):
        found = training.plan(recipe, [Record(f"p{i}", "translate", "雨", "Rain") for i in range(count)], [q for q in questions if q.split == "train"])
        assert found.shared_steps == 0
        stages = [stage for stage, _ in found.items]
        share, half = stages.count("translate") / len(stages), stages[: len(stages) // 2]
        assert abs(half.count("translate") / len(half) - share) < 0.1, "as many in the first half as in the second"
        assert stages.count("translate") > count - found.batch


def test_an_arm_trains_mixed_from_the_start(setting, tmp_path):
    profile, pairs, train, dev = setting
    profile = profile.replace(train_pairs=len(pairs), replay_pairs=len(pairs))
    order = training.plan(profile.recipe, pairs, train)
    folder = training.train(profile, order, dev, tmp_path / "mixed", say=lambda text: None)
    rows = checkpoints.read_log(folder / "log.jsonl")
    assert [r["phase"] for r in rows] == ["start"] + ["questions"] * order.steps and (folder / "adapter").exists()


def test_plan_shows_each_question_once_an_epoch_in_one_call_and_once_alone(setting):
    profile, _, train, _ = setting
    recipe = profile.replace(question_epochs=2, batch_size=1).recipe
    items = training.plan(recipe, [], train).items
    for record in train:
        assert sorted(s for s, r in items if r.id == record.id) == ["answer", "direct", "multistep", "multistep"]


def test_collate_masks_padding_by_position():
    batch = training.collate([{"input_ids": [5, 1], "labels": [-100, 1]}, {"input_ids": [5, 6, 1], "labels": [-100, 6, 1]}], pad_id=1)
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 1, -100], [-100, 6, 1]], "an end token equal to the pad token stays supervised"


@pytest.mark.parametrize("name", ["tiny", "tiny-phi", "tiny-phi3"])
@pytest.mark.parametrize("held", [7, 4096])
def test_labelled_loss_equals_the_library_s(name, held, pairs, monkeypatch, fp32):
    import torch

    monkeypatch.setattr(fused, "LOGIT_ROWS", held)
    monkeypatch.setattr(fused, "LOGIT_TOKENS", 100 * held)
    profile = profiles.choose(name)
    tokenizer = models.load_tokenizer(profile)
    model = models.add_adapter(models.load_base(profile), profile)
    examples = [prompts.encode_example(tokenizer, profile.model.prompt_style, "translate", r) for r in pairs[:3]]
    inputs = training.collate(examples, tokenizer.pad_token_id)
    total, count = training.labelled_loss(model, inputs)
    reference = model(**inputs).loss
    assert count == sum(t != -100 for e in examples for t in e["labels"])
    assert torch.allclose(total / count, reference.float(), atol=1e-5)
    weights = [p for p in model.parameters() if p.requires_grad]
    for weight in weights:
        torch.nn.init.normal_(weight, std=0.05)
    ours = torch.autograd.grad(training.labelled_loss(model, inputs)[0] / count, weights)
    theirs = torch.autograd.grad(model(**inputs).loss, weights)
    assert all(torch.allclose(a, b, atol=1e-6, rtol=1e-3) for a, b in zip(ours, theirs, strict=True))
    assert max(g.abs().max() for g in ours) > 1e-4


def test_an_evaluation_leaves_the_gradient_what_it_was(setting):
    """bitsandbytes repacks weights in an evaluation on some CPUs, and no gradient passes through them afterwards."""
    import torch

    from helpers.runtime import device

    profile, pairs, _, _ = setting
    tokenizer, here = models.load_tokenizer(profile), device()
    model = models.add_adapter(models.load_base(profile), profile).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    for weight in weights:
        torch.nn.init.normal_(weight, std=0.05)
    examples = [prompts.encode_example(tokenizer, "text", "translate", r) for r in pairs[:3]]

    def gradient():
        with torch.autocast(here.kind, here.dtype, enabled=here.dtype_name != "float32"):
            total, _ = training.labelled_loss(model, training.collate(examples, tokenizer.pad_token_id))
        return torch.autograd.grad(total, weights)

    before = gradient()
    training.dev_loss(model, examples, tokenizer.pad_token_id, here)
    assert all(torch.equal(a, b) for a, b in zip(before, gradient(), strict=True))


def test_too_long_a_record_is_named(setting, tiny):
    _, pairs, _, _ = setting
    tokenizer = models.load_tokenizer(tiny)
    with pytest.raises(files.UserError, match="'p0'.*max_length=10"):
        training.encode(tokenizer, tiny.replace(max_length=10), [("translate", pairs[0])])


WHOLE = {"adapter_model.safetensors": "x", "optimizer.pt": "x", "scheduler.pt": "x", "trainer_state.json": "{}"}


def checkpoint(folder, step, **changed):
    """The files of a checkpoint, small ones."""
    for name, text in (WHOLE | changed).items():
        files.write_text(folder / f"checkpoint-{step}" / name, text)


def adapter_bytes(folder):
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def log_rows(folder):
    timing = ("tokens_per_second", "peak_memory_gb")
    return [{k: v for k, v in r.items() if k not in timing} for r in checkpoints.read_log(folder / "log.jsonl")]


@pytest.mark.slow
def test_shared_start_and_resume_equal_training_whole_bit_by_bit(setting, tmp_path):
    profile, pairs, train, dev = setting
    order = training.plan(profile.recipe, pairs, train)
    whole = training.train(profile, order, dev, tmp_path / "whole")

    shared = training.train(profile, order, dev, tmp_path / "shared", stop_after=order.shared_steps)
    assert not (shared / "adapter").exists()
    checkpoints.begin_from(shared, tmp_path / "arm")
    said = []
    arm = training.train(profile, order, dev, tmp_path / "arm", say=said.append)
    assert any(f"step {order.shared_steps} of {order.steps}" in s for s in said)
    assert adapter_bytes(arm) == adapter_bytes(whole)
    assert log_rows(arm) == log_rows(whole)
    assert [r["step"] for r in log_rows(arm)] == list(range(order.steps + 1)), "no gap and no repeat"

    class Interrupted(Exception):
        pass

    def interrupt(row):
        if row["step"] == order.shared_steps + 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        training.train(profile, order, dev, tmp_path / "cut", progress=interrupt)
    training.train(profile, order, dev, tmp_path / "cut")
    assert adapter_bytes(tmp_path / "cut") == adapter_bytes(whole)
    assert log_rows(tmp_path / "cut") == log_rows(whole)


@pytest.mark.slow
def test_training_logs_every_field_and_lowers_the_loss_with_fp32_adapters(setting, tmp_path):
    from safetensors import safe_open

    profile, pairs, train, dev = setting
    profile = profile.replace(learning_rate=1e-2, question_epochs=6)
    folder = training.train(profile, training.plan(profile.recipe, pairs, train), dev, tmp_path / "arm")
    rows = checkpoints.read_log(folder / "log.jsonl")
    assert set(rows[-1]) == set(checkpoints.LOG_FIELDS)
    assert rows[-1]["dev_translation_loss"] < rows[0]["dev_translation_loss"] - 0.05
    assert json.loads((folder / "done.json").read_text())["tokens_seen"] == rows[-1]["tokens_seen"]
    with safe_open(folder / "adapter" / "adapter_model.safetensors", "pt") as f:
        assert {str(f.get_tensor(k).dtype) for k in f.keys()} == {"torch.float32"}


def test_a_damaged_log_names_the_line(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "tokens_seen": 3}\n{"step": \n')
    with pytest.raises(files.UserError, match="log.jsonl, line 2"):
        checkpoints.read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("how", ["missing", "empty"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_checkpoint_without_one_of_its_files_is_not_taken(tmp_path, name, how):
    """Drive may have taken any of them before the VM went away; the trainer says nothing of an optimizer or a schedule that is not there."""
    for step in (5, 10):
        checkpoint(tmp_path, step)
    assert checkpoints.last_checkpoint(tmp_path).name == "checkpoint-10"
    file = tmp_path / "checkpoint-10" / name
    file.unlink()
    if how == "empty":
        file.touch()
    assert checkpoints.last_checkpoint(tmp_path).name == "checkpoint-5"
