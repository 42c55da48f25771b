"""Every model family with a tiny random model: adapters where they belong, a step trains, generation stops at the style's end, saved is loaded."""

from __future__ import annotations

import pytest

from helpers import architectures, inference, models, profiles, prompts, runtime, training
from helpers.profiles import PROFILES, Model, Profile
from tests import chat_tokenizers

# Of each family what sets its members apart: shared key and value heads, a tied head, partial rotation, a head width of its own.
SHARED = {"num_key_value_heads": 1}
FAMILIES = {
    "phi-2": ("phi", "phi-2", {"hidden_act": "gelu_new", "partial_rotary_factor": 0.4}),
    "phi-3-mini": ("phi3", "phi-3", {}),
    "phi-4-mini": ("phi3", "phi-4", SHARED | {"tie_word_embeddings": True, "partial_rotary_factor": 0.75}),
    "llama-3": ("llama", "text", SHARED),
    "gemma-3": ("gemma3_text", "text", SHARED | {"head_dim": 32, "tie_word_embeddings": True}),
    # With a vision tower, which is left out.
    "gemma-3-images": ("gemma3", "gemma", SHARED | {"head_dim": 32}),
    "qwen2.5": ("qwen2", "text", SHARED | {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", "text", SHARED | {"head_dim": 64, "tie_word_embeddings": True}),
}
CHAT = {"llama-3": "llama-3", "gemma-3": "gemma", "qwen2.5": "qwen-2.5", "qwen3": "qwen-3"}
FAMILIES |= {f"{name}-chat": (FAMILIES[name][0], style, FAMILIES[name][2]) for name, style in CHAT.items()}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Profile:
    """A profile whose model is a folder, as a user's own is; weights large enough for answers to differ."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, style, more = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = chat_tokenizers.make(style) if style in chat_tokenizers.FAMILIES else models.load_tokenizer(profiles.choose("tiny"))
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2}
    sizes |= {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("pad", "eos", "bos")}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes | more) if kind != "gemma3" else with_images(sizes | more)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    family = "gemma3_text" if kind == "gemma3" else kind
    model = Model("hub", str(folder), style, architectures.TARGETS[family], "Apache-2.0", fp16_safe=family != "gemma3_text")
    return Profile(request.param, model, profiles.choose("tiny").recipe)


def with_images(text: dict):
    from transformers import AutoConfig

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    return AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, image_token_id=text["vocab_size"] - 1, initializer_range=0.2)


def examples(profile: Profile, pairs):
    tokenizer = models.load_tokenizer(profile)
    return [prompts.encode_example(tokenizer, profile.model.prompt_style, "translate", r) for r in pairs[:4]], tokenizer.pad_token_id


def test_adapters_are_on_every_linear_layer_of_the_blocks_and_nowhere_else(family):
    import torch

    base = models.load_base(family)
    linear = {n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear) and ".layers." in n}
    assert {n.split(".")[-1] for n in linear} == set(family.model.lora_targets)
    model = models.add_adapter(base, family)
    adapted = {n.split(".lora_A")[0].removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad and "lora_A" in n}
    assert adapted == linear
    shape = architectures.find(family.model.identifier)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == shape.adapter(family.recipe.rank)


def test_steps_give_finite_gradients_to_every_adapter_and_lower_the_loss(family, pairs, fp32):
    import torch

    rows, pad = examples(family, pairs)
    model = models.add_adapter(models.load_base(family), family).train()
    inputs = training.collate(rows, pad)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=5e-3)
    losses = []
    for step in range(6):
        total, count = training.labelled_loss(model, inputs)
        loss = total / count
        loss.backward()
        losses.append(loss.item())
        missing = [n for n, p in trained.items() if p.grad is None or not torch.isfinite(p.grad).all()]
        assert torch.isfinite(loss) and not missing
        # A starts against a B of zeros, and has no gradient in the first step.
        still = [n for n, p in trained.items() if not p.grad.any() and (step or "lora_B" in n)]
        assert not still
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < losses[0] - 0.05, losses


def test_generation_stops_at_the_end_of_the_style(family):
    import torch

    tokenizer, model = models.load_tokenizer(family), models.load_for_inference(family)
    end = prompts.end_id(tokenizer, family.model.prompt_style)
    assert end == tokenizer.convert_tokens_to_ids(prompts.STYLES[family.model.prompt_style].end or tokenizer.eos_token)

    def always(token: int):
        model.lm_head = torch.nn.Linear(model.lm_head.in_features, model.config.vocab_size, dtype=model.dtype)
        torch.nn.init.zeros_(model.lm_head.weight)
        torch.nn.init.zeros_(model.lm_head.bias)
        model.lm_head.bias.data[token] = 1
        return inference.generate(model, tokenizer, family, ["水", "山と川"], 5)

    stopped = always(end)
    assert [c.tokens for c in stopped] == [1, 1] and not any(c.truncated or c.text for c in stopped)
    assert all(c.tokens == 5 and c.truncated for c in always(tokenizer.convert_tokens_to_ids("a")))


def test_a_saved_adapter_is_loaded_with_the_same_logits(family, tmp_path, pairs, fp32):
    import torch
    from peft import PeftModel

    rows, pad = examples(family, pairs)
    inputs = {k: v for k, v in training.collate(rows, pad).items() if k != "labels"}
    model = models.add_adapter(models.load_base(family), family).eval()
    with torch.no_grad():
        without = model(**inputs).logits
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        expected = model(**inputs).logits
    model.save_pretrained(tmp_path / "adapter")
    found = PeftModel.from_pretrained(models.load_base(family), str(tmp_path / "adapter")).eval()
    merged = models.load_for_inference(family, tmp_path / "adapter")
    merged.save_pretrained(tmp_path / "merged")
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(found(**inputs).logits, expected)
        real = inputs["attention_mask"].bool()
        one, two = merged(**inputs).logits[real], again(**inputs).logits[real]
    assert (one - expected[real]).abs().max() < 1e-3 * expected.abs().max(), "merged"
    assert (two - one).abs().max() < 1e-4 * one.abs().max(), "merged, saved and loaded"
    assert (without - expected).abs().max() > 0.05 * expected.abs().max(), "the adapter matters"


def test_every_profile_of_the_hub_has_the_family_s_targets_and_a_style_for_its_kind():
    styles = {"phi": "phi-2", "phi3": "phi-3", "llama": "llama-3", "gemma3_text": "gemma", "qwen2": "qwen-2.5", "qwen3": "qwen-3"}
    for name, profile in PROFILES.items():
        model = profile.model
        if model.source != "random":
            shape = architectures.find(name)
            assert model.lora_targets == architectures.TARGETS[shape.family], name
            # Of Qwen3 it is the pretrained models that are marked.
            chat = "-Base" not in model.identifier if shape.family == "qwen3" else model.identifier.lower().endswith(("-instruct", "-it"))
            style = styles[shape.family] if chat or shape.family == "phi" else "text"
            assert model.prompt_style == ("phi-4" if name == "phi-4-mini" else style), name
            assert model.fp16_safe == (shape.family != "gemma3_text"), name
            assert runtime.Device("cuda", "Tesla T4", (7, 5), model.fp16_safe).dtype_name == ("float16" if model.fp16_safe else "float32")


def test_of_gemma_3_with_images_the_language_model_alone_is_loaded_with_its_weights(tmp_path, fp32):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    text = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(with_images(text | {"head_dim": 32, "pad_token_id": 0, "initializer_range": 0.2})).eval()
    reached = {n for n, m in whole.named_modules() if isinstance(m, torch.nn.Linear) and n.split(".")[-1] in architectures.TARGETS["gemma3_text"]}
    assert any("vision_tower" in n for n in reached), "what the adapters would go to"
    # Saved under the names that the hub has, and under those of transformers 5.
    whole.save_pretrained(tmp_path / "hub")
    whole.save_pretrained(tmp_path / "now", save_original_format=False)
    names = {place: set(load_file(tmp_path / place / "model.safetensors")) for place in ("hub", "now")}
    assert "language_model.model.embed_tokens.weight" in names["hub"] and "model.language_model.embed_tokens.weight" in names["now"]
    ids = torch.randint(1, 299, (2, 9))
    with torch.no_grad():
        expected = whole(input_ids=ids).logits
        for place in names:
            found = models.pretrained(str(tmp_path / place)).eval()
            assert not any("vision" in n for n, _ in found.named_modules())
            assert torch.allclose(found(input_ids=ids).logits, expected, atol=1e-5), place
