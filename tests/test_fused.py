"""The fused layers compute what peft, transformers and bitsandbytes do; memory that is freed is kept only while training lasts."""

from __future__ import annotations

import platform

import pytest

from helpers import fused, models, profiles, prompts, runtime, training
from helpers.files import UserError


def model_and_inputs(name, pairs):
    import torch

    profile = profiles.choose(name)
    tokenizer = models.load_tokenizer(profile)
    model = models.add_adapter(models.load_base(profile), profile)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    for part in model.modules():
        if type(part).__name__ == "Gemma3RMSNorm":
            # Zero as initialised, which would hide a wrong scale.
            torch.nn.init.normal_(part.weight, std=0.3)
    examples = [prompts.encode_example(tokenizer, profile.model.prompt_style, "translate", r) for r in pairs[:3]]
    return model, training.collate(examples, tokenizer.pad_token_id)


def loss_and_gradients(model, inputs):
    import torch

    total, count = training.labelled_loss(model, inputs)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return total / count, dict(zip(weights, torch.autograd.grad(total / count, list(weights.values())), strict=True))


@pytest.mark.parametrize("name", ["tiny", "tiny-phi", "tiny-phi3"])
@pytest.mark.parametrize("written_out", [0, 2e9])
def test_fused_layers_give_the_loss_and_gradients_of_the_libraries(name, written_out, pairs, monkeypatch, fp32):
    import torch

    monkeypatch.setattr(fused, "MOST_WRITTEN_OUT", written_out)
    model, inputs = model_and_inputs(name, pairs)
    loss, gradients = loss_and_gradients(model, inputs)
    profile = profiles.choose(name)
    adapted = len(profile.model.lora_targets) * 2
    assert fused.install(model, runtime.device()) == adapted + (13 if name == "tiny" else 0)
    ours, our_gradients = loss_and_gradients(model, inputs)
    assert torch.allclose(ours, loss, atol=1e-5)
    for key, gradient in gradients.items():
        assert torch.allclose(our_gradients[key], gradient, atol=1e-6, rtol=2e-3), key
    assert max(g.abs().max() for g in gradients.values()) > 1e-3


def test_in_bf16_they_are_as_near_to_fp32_as_the_libraries_are(pairs, monkeypatch):
    """Casts come at other places, so that single values differ; the error against fp32 must not be larger."""
    import torch

    if not runtime.device().dtype_name == "bfloat16":
        pytest.skip("a processor without bf16")
    found = {}
    for kind in ("fp32", "libraries", "fused"):
        with monkeypatch.context() as patch:
            if kind == "fp32":
                patch.setattr(runtime, "_cpu_has_bf16", lambda: False)
            model, inputs = model_and_inputs("tiny", pairs)
            here = runtime.device()
            if kind == "fused":
                fused.install(model, here)
            with torch.autocast("cpu", here.dtype, enabled=kind != "fp32"):
                found[kind] = loss_and_gradients(model, inputs)[1]

    def error(kind):
        return sum(float((found[kind][k] - g).square().sum()) for k, g in found["fp32"].items())

    size = sum(float(g.square().sum()) for g in found["fp32"].values())
    assert error("fused") < 1.2 * error("libraries")
    assert error("fused") < 0.01 * size


@pytest.mark.parametrize("name", ["tiny", "tiny-phi", "tiny-phi3"])
def test_no_layer_sees_padding_or_what_rows_begin_alike_with_twice(name, pairs, fp32):
    model, inputs = model_and_inputs(name, pairs)
    fused.install(model, runtime.device())
    seen = []
    for block in model.get_base_model().model.layers:
        block.mlp.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[:2]))
    training.labelled_loss(model, inputs)
    rows = [row[:length] for row, length in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].sum(1).tolist(), strict=True)]
    beginnings = {tuple(row[: n + 1]) for row in rows for n in range(len(row))}
    assert len(beginnings) < sum(map(len, rows)) < inputs["input_ids"].numel() and seen == [(1, len(beginnings))] * 2


def test_a_model_that_keeps_the_rows_to_itself_is_not_trained(pairs, monkeypatch):
    """Rows would attend to each other."""
    import torch

    model, inputs = model_and_inputs("tiny", pairs)
    fused.install(model, runtime.device())
    layers = model.get_base_model().model.layers
    for block in layers:
        attend = block.self_attn.forward
        monkeypatch.setattr(block.self_attn, "forward", lambda *a, rows=None, attend=attend, **k: attend(*a, **k))
    with pytest.raises(UserError, match="does not hand its attention"), torch.no_grad():
        training.labelled_loss(model, inputs)


def test_tokens_that_cannot_matter_are_left_out_of_the_gradient_not_of_the_loss(monkeypatch):
    import torch

    torch.manual_seed(0)
    weight, hidden = torch.randn(6000, 32).bfloat16(), (2 * torch.randn(40, 32)).bfloat16()
    targets = torch.randint(0, 6000, (40,))
    exact = hidden.float().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(exact @ weight.float().T, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, exact)
    multiply, used, error = torch.mm, [], {}
    monkeypatch.setattr(torch, "mm", lambda a, b, **k: used.append(len(b)) or multiply(a, b, **k))
    for least in (0.0, fused.NEGLIGIBLE):
        monkeypatch.setattr(fused, "NEGLIGIBLE", least)
        given = hidden.clone().requires_grad_(True)
        found = fused.head_loss()(given, weight, None, targets)
        (ours,) = torch.autograd.grad(found, given)
        error[least] = float((ours.float() - gradient).norm() / gradient.norm())
        assert abs(found.item() / loss.item() - 1) < 1e-3
    assert used[1] == 6000 and 40 <= used[3] < 3000
    flat = (0.01 * hidden).requires_grad_(True)
    fused.head_loss()(flat, weight, None, targets)
    assert used[5] == 6000, "where nearly all matter none is left out"
    fused.head_loss()(hidden.float().requires_grad_(True), weight.float(), None, targets)
    assert used[7] == 6000, "in fp32"
    assert error[fused.NEGLIGIBLE] < 1.1 * error[0.0] < 0.03


def test_dropout_and_gpus_are_left_to_the_libraries(pairs):
    import torch

    model, _ = model_and_inputs("tiny", pairs)
    assert fused.install(model, runtime.Device("cuda", "a GPU", (7, 5))) == 0
    for part in model.modules():
        if hasattr(part, "lora_dropout"):
            part.lora_dropout["default"] = torch.nn.Dropout(0.1)
    assert fused.install(model, runtime.device()) == 13, "the norms alone"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_while_it_lasts_and_given_back_afterwards():
    import resource

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            block = bytearray(64 << 20)
            block[:: 1 << 12] = bytes(1 << 14)
            del block
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    outside = faults()
    with fused.freed_memory_kept():
        faults()
        inside = faults()
    assert inside < outside / 3
    assert faults() > outside / 2


def test_another_libc_is_left_alone(monkeypatch):
    monkeypatch.setattr(fused.ctypes, "CDLL", lambda name: object())
    with fused.freed_memory_kept():
        pass


@pytest.mark.slow
def test_steps_of_the_real_model_lose_what_the_libraries_steps_do(questions):
    """Three optimiser steps of the default recipe's arithmetic, in NF4 and this processor's precision, from the same adapter: within 1 % at each."""
    import torch

    profile, here = profiles.choose("gemma3-270m"), runtime.device()
    tokenizer = models.load_tokenizer(profile)
    reasoned = sorted((q for q in questions if q.reasoning), key=lambda q: len(q.ja))
    # Rows of unlike length, all three kinds of prompt.
    items = [(stage, q) for q in (*reasoned[:2], *reasoned[-2:]) for stage in ("translate", "answer", "multistep")]
    batches = [training.collate(training.encode(tokenizer, profile, items[n::3]), tokenizer.pad_token_id) for n in range(3)]
    found = {}
    for kind in ("libraries", "ours"):
        model = models.add_adapter(models.load_base(profile, here), profile).train()
        if kind == "ours":
            fused.install(model, here)
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=profile.recipe.learning_rate)
        found[kind] = []
        for inputs in batches:
            with torch.autocast("cpu", here.dtype, enabled=here.dtype_name != "float32"):
                if kind == "ours":
                    total, count = training.labelled_loss(model, inputs)
                    loss = total / count
                else:
                    loss = model(**inputs).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            found[kind].append(loss.item())
        del model, optimiser
    assert found["ours"] == pytest.approx(found["libraries"], rel=0.01)
    assert len({round(x, 3) for x in found["ours"]}) == 3
