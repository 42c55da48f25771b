"""The memory planner: counted parameters are the published ones, counted bytes those that the libraries keep, predictions near what is published.

Nothing here is measured on a T4. On any machine with a CUDA GPU: python -m helpers test --all, or pytest tests/test_memory.py -k cuda -s
"""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest

from helpers import __main__ as cli
from helpers import architectures, figure_style, memory, models, profiles, prompts, training
from helpers.activations import Step
from helpers.architectures import ARCHITECTURES, find
from helpers.files import UserError
from helpers.memory import GIB

ABLE = [name for name, a in ARCHITECTURES.items() if not a.why_not]


def allocated(plan: memory.Plan) -> int:
    """What `torch.cuda.max_memory_allocated()` is to say: without the context and what the allocator loses."""
    return plan.total - plan.overhead


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_counted_parameters_are_the_published_ones(name):
    shape = find(name)
    assert shape.parameters == pytest.approx(shape.published, rel=0.005)


@pytest.mark.parametrize("name", ABLE)
def test_parameters_and_adapter_are_those_of_the_library_s_model(name):
    from tests import meta_gpu

    shape = find(dict(ARCHITECTURES[name].config, num_hidden_layers=2))
    model = meta_gpu.build(shape.config, [x.name for x in shape.linears], 8, quantised=False)
    adapter = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapter == shape.adapter(8) > 0
    assert sum(p.numel() for p in model.parameters()) - adapter == shape.parameters


def test_an_adapter_on_some_layers_alone_and_on_one_that_is_not_there():
    shape = find("phi-2")
    assert shape.adapter(4, ("q_proj", "fc1")) == 32 * 4 * (2 * 2560 + 2560 + 10240)
    with pytest.raises(UserError, match="phi-2 has no layer 'o_proj'.*q_proj"):
        shape.adapter(4, ("o_proj",))


@pytest.mark.parametrize("name", ["tiny", "tiny-phi", "tiny-phi3"])
def test_the_bytes_of_a_loaded_nf4_model(name, fp32):
    from tests import meta_gpu

    profile = profiles.choose(name)
    model = models.load_base(profile)
    buffers = sum(b.nbytes for b in model.buffers())
    held = sum(t.nbytes for t in meta_gpu.tensors(model)) - buffers
    found = memory.plan(model.config.to_dict(), compute="float32")
    assert held == found.load
    adapted = models.add_adapter(model, profile)
    trained = sum(p.nbytes for p in adapted.parameters() if p.requires_grad)
    assert trained == memory.plan(model.config.to_dict(), rank=profile.recipe.rank).adapter


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["tiny", "tiny-phi", "tiny-phi3"])
def test_what_a_real_step_keeps_for_its_backward_pass(name, checkpointing, pairs, fp32):
    """The trainer's own step on a CPU in fp32: every tensor that autograd saves, each storage once."""
    import torch

    profile = profiles.choose(name)
    tokenizer = models.load_tokenizer(profile)
    model = models.add_adapter(models.load_base(profile), profile).train()
    if checkpointing:
        model.enable_input_require_grads()
        # The other kind keeps its inputs where the hooks below do not see them.
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": True})
    examples = [prompts.encode_example(tokenizer, profile.model.prompt_style, "translate", r) for r in pairs[:5]]
    inputs = training.collate(examples, tokenizer.pad_token_id)
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept, sizes = [], {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.append(storage)  # alive, so that its address is not used again
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        training.labelled_loss(model, inputs)
    batch, length = inputs["input_ids"].shape
    step = Step(find(model.config.to_dict()), length, batch, profile.recipe.rank, (), "nf4", mixed=False)
    layers = model.config.num_hidden_layers
    counted = layers * (step.stream if checkpointing else step.block) + step.outside
    # A mask that is an argument by name is held by the graph, not saved by autograd.
    counted -= batch * length * length if checkpointing else 0
    print(f"{name}, checkpointing {checkpointing}: {sum(sizes.values())} bytes kept, {counted} counted, {counted / sum(sizes.values()) - 1:+.1%}")
    assert counted == pytest.approx(sum(sizes.values()), rel=0.03)


SETTINGS = (
    {"batch": 4, "length": 512},
    {"batch": 2, "length": 1024},
    {"batch": 8, "length": 256},
    {"batch": 4, "length": 512, "checkpointing": False},
    {"batch": 4, "length": 512, "compute": "float32"},
    {"batch": 4, "length": 512, "logits": "all"},
    {"batch": 2, "length": 512, "weights": "float16"},
)


def on_meta(shape, *, batch, length, checkpointing=True, compute="float16", logits="labelled", weights="nf4"):
    """The plan, and the same step on the meta device with full-size modules."""
    import torch

    from tests import meta_gpu

    planned = memory.plan(shape, batch=batch, length=length, checkpointing=checkpointing, compute=compute, logits=logits, weights=weights)
    model = meta_gpu.build(shape.config, [x.name for x in shape.linears], 16, getattr(torch, compute), weights == "nf4")
    return planned, meta_gpu.step(model, batch, length, length // 2, checkpointing, compute != "float32", logits == "all")


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("name", ["phi-2", "phi-3-mini-4k", "phi-4-mini", "llama-3-8b", "qwen2.5-1.5b", "qwen3-1.7b", "gemma3-270m"])
def test_full_size_blocks_on_the_meta_device(name, setting):
    """Four blocks of full width: what a block adds weighs more than the embeddings, and a wrong term is seen."""
    planned, step = on_meta(find(dict(ARCHITECTURES[name].config, num_hidden_layers=4)), **setting)
    print(f"{name} {setting}: {step.peak / GIB:.3f} GiB, planned {allocated(planned) / GIB:.3f}, {allocated(planned) / step.peak - 1:+.1%}")
    assert planned.load + planned.adapter == pytest.approx(step.load, rel=1e-3)
    assert allocated(planned) == pytest.approx(step.peak, rel=0.05)


@pytest.mark.parametrize("setting", SETTINGS[:2], ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("name", ["phi-2", "phi-3-mini-4k"])
def test_two_blocks_on_the_meta_device(name, setting):
    planned, step = on_meta(find(dict(ARCHITECTURES[name].config, num_hidden_layers=2)), **setting)
    assert allocated(planned) == pytest.approx(step.peak, rel=0.05)


# In phi-2's first block nothing beside the adapters themselves has a gradient without checkpointing: a third of three blocks, 1/32 of all.
@pytest.mark.parametrize(("name", "checkpointing"), [("phi-2", True), ("llama-3-8b", True), ("llama-3-8b", False)])
def test_adapters_on_query_and_value_alone_keep_less(name, checkpointing):
    from tests import meta_gpu

    shape, targets = find(dict(ARCHITECTURES[name].config, num_hidden_layers=3)), ("q_proj", "v_proj")
    planned = memory.plan(shape, targets=targets, checkpointing=checkpointing)
    step = meta_gpu.step(meta_gpu.build(shape.config, targets, 16), 4, 512, 256, checkpointing)
    print(f"{name}, two targets: {step.peak / GIB:.3f} GiB, planned {allocated(planned) / GIB:.3f}, {allocated(planned) / step.peak - 1:+.1%}")
    assert allocated(planned) == pytest.approx(step.peak, rel=0.05)
    assert allocated(planned) < allocated(memory.plan(shape, checkpointing=checkpointing))


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("name", ["phi-2", "phi-3-mini-4k"])
def test_the_whole_model_on_the_meta_device(name, setting):
    planned, step = on_meta(find(name), **setting)
    print(f"{name} {setting}: {step.peak / GIB:.3f} GiB, planned {allocated(planned) / GIB:.3f}, {allocated(planned) / step.peak - 1:+.1%}")
    assert allocated(planned) == pytest.approx(step.peak, rel=0.05)


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, {}) for name in ABLE if name not in ("phi-3.5-mini", "qwen2.5-3b", "qwen3-4b")]
    + [("phi-2", {"compute": "float32"}), ("phi-2", {"weights": "float16"}), ("llama-3-8b", {"weights": "float16"}), ("phi-3-mini-4k", {"weights": "float16"})],
)
def test_an_evaluation_on_the_meta_device(name, setting):
    import inspect

    import torch

    from tests import meta_gpu

    assert inspect.signature(training.dev_loss).parameters["batch"].default == memory.EVALUATED
    shape = find(dict(ARCHITECTURES[name].config, num_hidden_layers=2))
    compute = setting.get("compute", "float32" if shape.family == "gemma3_text" else "float16")
    planned = memory.plan(shape, length=256, **setting)
    model = meta_gpu.build(shape.config, [x.name for x in shape.linears], 16, getattr(torch, compute), setting.get("weights", "nf4") == "nf4")
    held = meta_gpu.evaluation(model, memory.EVALUATED, 256, 128, compute != "float32") + planned.optimiser
    counted = (planned.evaluation - memory.CONTEXT) / (1 + memory.FRAGMENTATION)
    print(f"{name} {setting}: evaluation {held / GIB:.3f} GiB, planned {counted / GIB:.3f}, {counted / held - 1:+.1%}")
    assert counted == pytest.approx(held, rel=0.03)


def test_published_marks():
    """DESIGN.md 7.10. Other trainers, whose lengths are not stated exactly: bounds where that is all there is, and the deviation is printed.

    unsloth prints reserved memory in GiB as "GB"; litgpt prints allocated memory in 10⁹ bytes.
    """
    found = {}
    mini = memory.plan("phi-3.5-mini", batch=2, length=1024)
    found["Phi-3.5-mini loaded with its adapter, unsloth"] = (2.285, (mini.load + mini.adapter) / GIB, 0.05)
    # Batches are padded to their longest example, of which only "at most 2,048 tokens" is known.
    for name, mark in (("phi-3.5-mini", 3.342), ("llama-3-8b", 7.5)):
        low, middle, high = (allocated(memory.plan(name, batch=2, length=n)) / GIB for n in (256, 1024, 2048))
        assert low < mark < high
        found[f"{name} peak at 2 × ≤2,048, unsloth (planned for 1,024)"] = (mark, middle, 0.1)
    # Pure bf16, so that gelu_new keeps a quarter of what it keeps under autocast; dropout, a head with an adapter, no checkpointing.
    litgpt = memory.plan("phi-2", batch=4, length=512, rank=8, checkpointing=False, logits="all")
    found["phi-2 QLoRA 4 × 512 without checkpointing, litgpt"] = (14.27, allocated(litgpt) / 1e9, 0.35)
    llama2 = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "max_position_embeddings": 4096}  # fmt: skip
    smallest = allocated(memory.plan(llama2, batch=1, length=512, checkpointing=False, logits="all")) / GIB
    found["Llama-2-7B QLoRA 7.3 to 14 (planned for 1 × 512 without checkpointing)"] = (7.3, smallest, 0.1)
    for what, (mark, planned, tolerance) in found.items():
        print(f"{what}: published {mark}, planned {planned:.2f}, {planned / mark - 1:+.1%} (tolerance {tolerance:.0%})")
        assert planned == pytest.approx(mark, rel=tolerance), what
    assert allocated(memory.plan(llama2, batch=1, length=1024, checkpointing=False, logits="all")) / GIB < 14


def test_parts_follow_what_is_asked_for():
    base = memory.plan("phi-2")
    assert base.total == sum(getattr(base, part) for part in memory.PARTS)
    assert base.optimiser == 2 * base.adapter == 2 * base.gradients
    twice = memory.plan("phi-2", rank=32)
    assert (twice.adapter, twice.weights) == (2 * base.adapter, base.weights)
    assert memory.plan("phi-2", weights="float16").weights > 3.8 * base.weights
    assert memory.plan("phi-2", checkpointing=False).activations > 8 * base.activations
    everywhere = memory.plan("phi-2", logits="all")
    assert everywhere.logits == 12 * 4 * 512 * 51200 > 10 * base.logits
    assert memory.plan("gemma3-1b") == memory.plan("gemma3-1b", compute="float32"), "fp16 overflows in Gemma 3"
    # An example alone has no padding, and the attention matrix of shared heads is held whole on a T4, three times; phi-2 shares none.
    for name, matrix in (("llama-3-8b", 4 * 32 * 512**2), ("phi-2", 0)):
        one, two, three = (memory.plan(name, batch=n).activations for n in (1, 2, 3))
        assert one - (2 * two - three) == 3 * matrix


@pytest.mark.parametrize("fixed", [{"batch": 1}, {"batch": 4}, {"length": 256}, {"length": 64}])
@pytest.mark.parametrize("name", ["phi-2", "llama-3-8b"])
def test_the_largest_that_fits_fits_and_one_more_does_not(name, fixed):
    most = memory.largest(name, 9.0, checkpointing=False, **fixed)
    free = "length" if "batch" in fixed else "batch"
    assert most > 0 and memory.plan(name, checkpointing=False, **fixed, **{free: most}).fits(9.0)
    assert not memory.plan(name, checkpointing=False, **fixed, **{free: most + 1}).fits(9.0)
    assert memory.largest(name, 1.0, **fixed) == 0


def test_verdicts():
    assert memory.verdict("phi-2").startswith("phi-2 (2.78 B parameters) fits: ")
    assert "2,048 tokens (all that it was made for)" in memory.verdict("phi-2")
    assert "does not fit at 4 × 2048" in memory.verdict("phi-2", length=2048, checkpointing=False)
    assert "does not fit at any length" in memory.verdict("llama-3-8b", 6.0)
    assert "Dev examples as long as that need" in memory.verdict("phi-2", length=2048) and "Dev" not in memory.verdict("phi-2")
    small = memory.verdict("microsoft/Phi-3-small-8k-instruct")
    assert all(word in small for word in ("cannot be trained on a T4", "trust_remote_code", "flash-attention", "take phi-3.5-mini instead"))
    with pytest.raises(UserError, match="phi-3-small-8k cannot be trained here: .*Take phi-3.5-mini"):
        memory.plan("phi-3-small-8k")


def test_every_profile_of_the_hub_fits_a_t4_with_its_recipe():
    for profile in profiles.PROFILES.values():
        if profile.model.source != "random":
            said = memory.advice(profile)
            assert " fits: " in said and f" at {profile.recipe.batch_size} × {profile.recipe.max_length} tokens" in said
    gemma = profiles.choose("gemma3-270m")
    options = {"batch": 16, "length": 384, "checkpointing": False}
    assert memory.advice(gemma) == memory.verdict("gemma3-270m", compute="float32", **options) != memory.verdict("gemma3-270m", compute="float16", **options)
    assert "No configuration of 'me/mine'" in memory.advice(profiles.choose("phi-2", model_id="me/mine"))


def test_a_folder_s_own_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dict(ARCHITECTURES["qwen3-4b"].config)))
    assert find(tmp_path).parameters == find("Qwen/Qwen3-4B").parameters == find("Qwen/Qwen3-4B-Base").parameters
    both = {"model_type": "gemma3", "text_config": {k: v for k, v in ARCHITECTURES["gemma3-4b"].config.items() if k != "tie_word_embeddings"}}
    (tmp_path / "config.json").write_text(json.dumps(both))
    assert find(str(tmp_path)).parameters == find("gemma3-4b").parameters


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected one JSON object"),
        ('{"model_type": "mamba"}', "model_type: found 'mamba', expected one of phi, phi3"),
        ('{"model_type": "phi", "vocab_size": 10}', "hidden_size: expected a whole number from 1, found None"),
        ('{"model_type": "llama", "vocab_size": 9, "hidden_size": 10, "intermediate_size": 9, "num_hidden_layers": 1, "num_attention_heads": 3}',
         "expected a divisor of hidden_size 10"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, content, said):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        find(tmp_path)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"length": 0}, "length: expected a whole number"), ({"batch": -1}, "batch"), ({"rank": 1.5}, "rank"), ({"weights": "int8"}, "weights: expected one of nf4"),
        ({"compute": "half"}, "compute"), ({"logits": "some"}, "logits"), ({"targets": ("x",)}, "no layer 'x'"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_said(wrong, said):
    with pytest.raises(UserError, match=said):
        memory.plan("phi-2", **wrong)
    with pytest.raises(UserError, match="either length or batch"):
        memory.largest("phi-2", batch=1, length=2)


def test_the_command_prints_table_and_verdicts(capsys):
    assert cli.dispatch(["plan", "phi-2", "phi-3-small-8k", "--length", "1024"]) == 0
    out = capsys.readouterr().out
    found = memory.plan("phi-2", length=1024)
    assert f"| phi-2 | {found.load / GIB:.2f} |" in out and f"| {found.total / GIB:.2f} |" in out
    assert "4 × 1024 tokens" in out and "take phi-3.5-mini instead" in out and "not measured on a T4" in out


def test_the_figure_shows_every_model_against_the_line():
    from tests.test_plots import _cut, _texts

    rows = memory.compare()
    drawn = memory.figure(rows)
    assert drawn.get_suptitle().replace("\n", " ").startswith(f"{len(ABLE)} of {len(ARCHITECTURES)} models can be trained within 14.74 GiB at 4 × 512")
    assert _cut(drawn) == [] and "T4: 14.74" in _texts(drawn)
    assert all(name in figure_style.alt_text(drawn) for name in ARCHITECTURES)
    widths = [bar.get_width() for bars in drawn.axes[0].containers for bar in bars]
    assert sum(widths) == pytest.approx(sum(row.get("total", 0) for row in rows))
    over = memory.figure(memory.compare(["llama-3-8b"], length=4096, checkpointing=False))
    assert over.get_suptitle().startswith("0 of 1 models") and _cut(over) == []
    assert "no data" in _texts(memory.figure([]))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def real_steps(shape, device: str, *, batch, length, checkpointing=True, compute="float16", logits="labelled", weights="nf4", steps=3) -> int:
    """Peak bytes of `steps` optimiser steps of two micro-batches with random weights; 0 on a CPU, where nobody counts.

    The loss must be finite in every step, the gradients once the scaler has found its scale.
    """
    import torch

    from tests import meta_gpu

    dtype = getattr(torch, compute)
    model = meta_gpu.build(shape.config, [x.name for x in shape.linears], 16, dtype, weights == "nf4", attention="sdpa")
    meta_gpu.materialise(model, device)
    if checkpointing:
        model.enable_input_require_grads()
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=compute == "float16" and device == "cuda")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, shape.config["vocab_size"], (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0  # one example is shorter, as in nearly every batch
    labels = ids.clone()
    labels[:, : length - length // 2] = prompts.IGNORED
    inputs = {k: v.to(device) for k, v in {"input_ids": ids, "attention_mask": mask, "labels": labels}.items()}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(steps):
        for _ in range(2):
            with torch.autocast(device, dtype) if compute != "float32" else nullcontext():
                if logits == "all":
                    loss = model(**inputs).loss
                else:
                    total, count = training.labelled_loss(model, inputs)
                    loss = total / count
            scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        assert torch.isfinite(loss) and (torch.isfinite(norm) or scaler.is_enabled() and step < 20), step
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=False)
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


@pytest.mark.parametrize("name", ["phi-2", "phi-3-mini-4k"])
def test_the_cuda_check_itself_runs_with_small_models_on_a_cpu(name):
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 256}
    small |= {"pad_token_id": 0}
    for setting in ({}, {"checkpointing": False, "logits": "all"}):
        assert real_steps(find(dict(ARCHITECTURES[name].config, **small)), "cpu", batch=2, length=16, compute="float32", steps=1, **setting) == 0


@pytest.mark.slow
@pytest.mark.skipif("not _cuda()", reason="no CUDA device: the plan is not measured here")
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("name", ["phi-2", "phi-3-mini-4k"])
def test_cuda_peak_is_within_ten_percent_of_the_plan(name, setting, t4):
    """The whole architecture with random weights, with no more memory than a T4 has."""
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()
    card = torch.cuda.get_device_properties(0)
    planned = memory.plan(name, **setting)
    if not planned.fits():
        pytest.skip(f"planned to need {planned.total / GIB:.1f} GiB, more than a T4 has")
    peak = real_steps(find(name), "cuda", **setting)
    print(f"{card.name}, {name} {setting}: {peak / GIB:.3f} GiB, planned {allocated(planned) / GIB:.3f}, {allocated(planned) / peak - 1:+.1%}")
    assert allocated(planned) == pytest.approx(peak, rel=0.1)


def test_names_are_those_of_the_profiles():
    for name, profile in profiles.PROFILES.items():
        if name in ARCHITECTURES:
            assert tuple(profile.model.lora_targets) == architectures.TARGETS[find(name).family]
            assert profile.model.source == "package" or profile.model.identifier == find(name).source
        elif profile.model.source == "hub":
            assert find(name) is find(profile.model.identifier) is ARCHITECTURES[name.rpartition("-")[0]], "a chat model of known sizes"
            assert memory.advice(profile).startswith(f"{find(name).name} (")


def test_a_profile_is_advised_with_its_own_recipe():
    assert "fits" in memory.advice(profiles.choose("phi-2")) and "4 × 512" in memory.advice(profiles.choose("phi-2"))
    assert "does not fit" in memory.advice(profiles.choose("phi-2"), budget=2.0)
    assert memory.advice(profiles.choose("tiny")).startswith("tiny: no prediction (")
    assert "no prediction" in memory.advice(profiles.choose("phi-2", model_id="somebody/unknown-7b"))


def test_the_largest_micro_batch_that_fits_is_taken():
    """The step, batch × accumulation, stays; activations are kept where that fits as well, as the plan has it."""
    phi2 = profiles.choose("phi-2")
    for budget in (3.2, 4, 6, 14.74, 24, 80):
        found = memory.fitted(phi2, 290, budget).recipe
        assert found.batch_size * found.accumulation == 16
        planned = memory.plan("phi-2", length=290, batch=found.batch_size, checkpointing=found.gradient_checkpointing)
        assert planned.fits(memory.ROOM * budget)
        if found.batch_size < 16:
            assert not memory.plan("phi-2", length=290, batch=2 * found.batch_size).fits(memory.ROOM * budget), "twice as many do not fit even with checkpointing"
        if found.gradient_checkpointing:
            assert not memory.plan("phi-2", length=290, batch=found.batch_size, checkpointing=False).fits(memory.ROOM * budget)
    assert memory.fitted(phi2, 290, 1.0) == phi2, "nothing fits: the recipe is left to halve its batch"
    unknown = profiles.choose("phi-2", model_id="somebody/something-else")
    assert memory.fitted(unknown, 290, 80) == unknown
    small = memory.fitted(profiles.choose("gemma3-270m"), 290, 14.74).recipe
    assert (small.batch_size, small.gradient_checkpointing) == (16, False)
