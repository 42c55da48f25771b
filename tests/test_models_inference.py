"""NF4 is really there, the merged adapter is the trained one, and batching changes no token."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from helpers import decoding, evaluation, files, inference, models, profiles, prompts

FAMILIES = ["tiny", "tiny-phi", "tiny-phi3"]


@pytest.mark.parametrize("name", FAMILIES)
def test_base_is_nf4_with_double_quantisation_and_the_adapter_is_everywhere(name):
    import bitsandbytes as bnb

    profile = profiles.choose(name)
    model = models.add_adapter(models.load_base(profile), profile)
    linear = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert linear and all(m.weight.quant_state.quant_type == "nf4" and m.weight.quant_state.nested for m in linear)
    adapted = {n.split(".")[-4] for n, p in model.named_parameters() if p.requires_grad}
    assert adapted == set(profile.model.lora_targets)


def test_merged_dense_model_equals_the_quantised_one_with_its_adapter(tiny, tmp_path, pairs, fp32):
    import torch

    tokenizer = models.load_tokenizer(tiny)
    model = models.add_adapter(models.load_base(tiny), tiny)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    merged = models.load_for_inference(tiny, tmp_path / "adapter")
    ids = tokenizer(pairs[0].ja, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected, found = model.eval()(ids).logits.float(), merged(ids).logits.float()
        plain = models.load_for_inference(tiny)(ids).logits.float()
    tolerance = 2e-4 if expected.dtype == found.dtype == merged.dtype else 5e-2
    assert (expected - found).abs().max() < tolerance
    assert (plain - found).abs().max() > 10 * tolerance, "the adapter matters"


def test_weights_stay_in_nf4_where_a_gpu_has_no_room_for_them(tiny, monkeypatch):
    import bitsandbytes as bnb
    import torch

    monkeypatch.setattr(models, "_gpu_bytes", lambda: 15.8e9)
    there = SimpleNamespace(type="cuda")
    sizes = {"phi-2": (2.78e9, True), "phi-3-mini-4k": (3.82e9, True), "qwen3-4b": (4.02e9, True), "llama-3-8b": (8.03e9, False), "gemma3-4b": (3.88e9, False), "gemma3-1b": (1e9, True)}
    for name, (parameters, fits) in sizes.items():
        dtype = torch.float16 if profiles.choose(name).model.fp16_safe else torch.float32
        assert models._has_room(SimpleNamespace(device=there, dtype=dtype, num_parameters=lambda n=parameters: n)) == fits, name
    base = models.load_base(tiny)
    assert models._has_room(base) and base.num_parameters() == sum(p.numel() for p in models.dense(base).parameters()), "of NF4 two to a byte"
    said = []
    monkeypatch.setattr(models, "_has_room", lambda model: False)
    kept = models.load_for_inference(tiny, say=said.append)
    assert any(isinstance(m, bnb.nn.Linear4bit) for m in kept.modules()) and "stay in NF4" in said[-1]


def test_an_adapter_that_is_missing_or_of_another_model_is_refused(tiny, tmp_path):
    with pytest.raises(files.UserError, match="adapter_config.json is missing"):
        models.load_for_inference(tiny, tmp_path)
    other = profiles.choose("tiny-phi")
    models.add_adapter(models.load_base(other), other).save_pretrained(tmp_path)
    with pytest.raises(files.UserError, match="not for tiny"):
        models.load_for_inference(tiny, tmp_path)


def test_a_hub_model_that_cannot_be_had_is_named(tmp_path):
    with pytest.raises(files.UserError, match="cannot be loaded"):
        models.load_tokenizer(profiles.choose("tiny", model_id=str(tmp_path / "nothing")))


@pytest.mark.parametrize("name", FAMILIES)
def test_batched_generation_equals_one_by_one(name, questions, fp32):
    profile = profiles.choose(name)
    tokenizer, model = models.load_tokenizer(profile), models.load_for_inference(profile)
    texts = [prompts.prompt(profile.model.prompt_style, "translate", ja=q.ja) for q in questions[:7]]
    together = inference.generate(model, tokenizer, profile, texts, 6)
    alone = [inference.generate(model, tokenizer, profile, [t], 6)[0] for t in texts]
    assert together == alone
    assert all(c.tokens <= 6 for c in together)


def test_cached_prefix_changes_no_token(tiny, questions, fp32):
    """The few-shot prefix is computed once; the same token ids without a cache give the same completions."""
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    prefix = prompts.few_shot("multistep", questions[:2])
    texts = [prompts.prompt("text", "multistep", ja=q.ja) for q in questions[2:8]]
    head = prompts.encode_prompt(tokenizer, prefix)

    class Joined:
        """Tokenises prefix and text apart, as the cached path does."""

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, text, **options):
            return {"input_ids": head[1:] + tokenizer(text[len(prefix) :], **options)["input_ids"]}

    cached = inference.generate(model, tokenizer, tiny, texts, 8, prefix=prefix)
    whole = inference.generate(model, Joined(), tiny, [prefix + t for t in texts], 8)
    assert cached == whole


def test_a_row_ends_at_its_end_token_or_stop_text_and_a_cut_one_is_marked(tiny):
    """A model that always writes the same token: ends at once, runs into its stop, or is cut off by the budget."""
    import torch

    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)

    def always(token_id):
        model.lm_head = torch.nn.Linear(model.lm_head.in_features, models.TINY_VOCABULARY, dtype=model.dtype)
        torch.nn.init.zeros_(model.lm_head.weight)
        torch.nn.init.zeros_(model.lm_head.bias)
        model.lm_head.bias.data[token_id] = 1
        return inference.generate(model, tokenizer, tiny, ["水", "山と川"], 5)

    assert [c.tokens for c in always(tokenizer.eos_token_id)] == [1, 1]
    assert not any(c.truncated for c in always(tokenizer.eos_token_id))
    word = tokenizer("a", add_special_tokens=False)["input_ids"][0]
    assert all(c == inference.Completion("aaaaa", 5, True) for c in always(word))


@pytest.mark.parametrize(
    ("instruction", "text", "kept"),
    [
        ("translate", " Good day.\nJapanese:", " Good day.\n"),
        ("translate", "\n Good day.\n", "\n Good day.\n"),
        ("translate", " Good day.", None),
        ("answer", "Answer: 12\nQuestion", "Answer: 12\n"),
        ("answer", "Reasoning: The answer is near.\nAnswer: 12", None),
        ("answer", "Reasoning: a.\nAnswer: 12\nmore", "Reasoning: a.\nAnswer: 12\n"),
        ("multistep", " Where?\nAnswer: Here\nJapanese", " Where?\nAnswer: Here\n"),
        ("multistep", " Where?\n\nJapanese", " Where?\n\n"),
        ("multistep", " Where?\nReasoning: Answer: no\n", None),
    ],
)
def test_where_a_completion_ends(instruction, text, kept):
    assert decoding.ended(instruction, text) == (-1 if kept is None else len(kept))


def test_s3_answers_from_its_own_translation(tiny, questions):
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    shots = [questions[5].replace(reasoning="")]
    sentences = [questions[0].ja, questions[4].ja]
    found, (translated, without) = inference.all_stages(model, tokenizer, tiny, questions[:3], translations=[(sentences, shots), (sentences, ())], shots=shots)
    assert translated[0].text == found[0].text and len(translated) == 2
    assert without == inference.translate(model, tokenizer, tiny, sentences) and without != translated
    for name in ("S1", "S2", "S4", "S5"):
        alone = inference.stage(model, tokenizer, tiny, name, questions[:3], shots=shots)
        assert alone == [p for p in found if p.stage == name], "stages that share a batch change no answer"
    assert [p.stage for p in found] == [s for s in inference.STAGES for _ in range(3)] and not any(p.asked for p in found)
    by_stage = {s: [p for p in found if p.stage == s] for s in inference.STAGES}
    assert [p.prompt_english for p in by_stage["S3"]] == [p.english for p in by_stage["S1"]]
    assert [p.prompt_english for p in by_stage["S2"]] == [q.en for q in questions[:3]]
    with pytest.raises(ValueError, match="S3 needs"):
        inference.stage(model, tokenizer, tiny, "S3", questions[:3])
    with pytest.raises(ValueError, match="no Reasoning"):
        inference.stage(model, tokenizer, tiny, "S1", questions[:3], asked=True)


def test_stages_asked_for_reasoning_and_questions_of_the_primary_stages_alone(tiny, questions, fp32):
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    found, _ = inference.all_stages(model, tokenizer, tiny, questions[:3], primary=questions[3:5], asked=inference.REASONED)
    counted = Counter((p.stage, p.asked) for p in found)
    assert counted == {("S1", False): 3, ("S2", False): 5, ("S3", False): 3, ("S4", False): 5, ("S5", False): 3,
                       ("S2", True): 5, ("S3", True): 3, ("S4", True): 5}  # fmt: skip
    for name in ("S2", "S4"):
        alone = inference.stage(model, tokenizer, tiny, name, questions[:5], asked=True)
        assert alone == [p for p in found if p.stage == name and p.asked]
        assert all(p.text.count("Reasoning:") == p.text.count("Answer:") == 1 for p in alone)
    some, _ = inference.all_stages(model, tokenizer, tiny, questions[:3], primary=questions[3:5], asked=inference.PRIMARY)
    assert some == [p for p in found if (p.stage, p.asked) != ("S3", True)]
    english = {p.id: p.english for p in found if p.stage == "S1"}
    assert all(p.prompt_english == english[p.id] for p in found if p.stage == "S3")


def test_shots_are_seeded_training_records_without_rationale(questions):
    from helpers.runtime import Run

    run = Run(None, profiles.choose("gemma3-270m"), None)
    train = [q for q in questions if q.split == "train"]
    shots = evaluation.shots(run, train)
    assert shots == evaluation.shots(run, train[::-1]) and len(shots) == run.recipe.few_shot
    assert len({s.category for s in shots}) == len(shots)
    assert all(s.split == "train" and not s.reasoning for s in shots)


@pytest.mark.slow
def test_the_embedded_tokenizer_is_gemma_s(questions, monkeypatch):
    """Read from the model's own file. transformers 5.15 to 5.17 take it for a unigram model's: half as many tokens again, such as the model had never seen."""
    import hashlib

    from transformers import AutoTokenizer

    from helpers import corpora

    file = corpora.fetch(corpora.GEMMA)
    read = models.gemma_tokenizer(file)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *a, **k: lambda text, add_special_tokens: {"input_ids": [818, 505, 502]})
    made = models.gemma_tokenizer(file)
    texts = [t for r in questions for t in (r.ja, r.en, r.reasoning)]
    texts += ["  two spaces\n\n\ttab  \n   x", "emoji 👩‍👧 é", "<bos>hi<eos>", "<start_of_turn>user"]
    found = [[tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts] for tokenizer in (read, made)]
    assert found[0] == found[1], "put together here, as for an older transformers, it is the same"
    # As transformers 5.23 reads it.
    assert hashlib.sha256(repr(found[0][: 3 * 20]).encode()).hexdigest()[:16] == "f71f6f1bebcaf850"
    assert made.batch_decode(found[1]) == texts and sum(map(len, found[1])) / sum(map(len, texts)) < 0.4
    assert found[1][-2:] == [[2, 2202, 1], [105, 2364]] and found[1][-4][0] == 138, "control tokens, and runs of spaces, are one token each"
    for tokenizer in (read, made):
        assert len(tokenizer) == 262_144 and (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)


def test_a_converted_tokenizer_that_is_not_the_model_s_is_refused(tiny, monkeypatch):
    """What an older transformers left in the cache, from before this was checked."""
    folder = models.local_folder(tiny)
    monkeypatch.setattr(models, "local_folder", lambda profile, say: folder)
    models._read_once.cache_clear()
    for _ in range(2):
        with pytest.raises(files.UserError, match="its tokenizer is not the model's .* Remove this folder"):
            models.load_tokenizer(profiles.choose("gemma3-270m"))


def test_a_package_s_tokenizer_is_read_once(tiny, monkeypatch):
    read, made, folder = models._read_tokenizer, [], models.local_folder(tiny)
    monkeypatch.setattr(models, "_cuts_as_gemma", lambda tokenizer: True)
    monkeypatch.setattr(models, "_read_tokenizer", lambda folder: made.append(folder) or read(folder))
    monkeypatch.setattr(models, "local_folder", lambda profile, say: folder)
    models._read_once.cache_clear()
    try:
        embedded = profiles.choose("gemma3-270m")
        assert models.load_tokenizer(embedded) is models.load_tokenizer(embedded.replace(rank=2)) and len(made) == 1
        assert models.load_tokenizer(tiny) is not models.load_tokenizer(tiny) and len(made) == 3, "a folder of one's own may change"
    finally:
        models._read_once.cache_clear()


def test_a_tokenizer_that_is_not_the_model_s_is_refused(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *a, **k: lambda text, add_special_tokens: {"input_ids": [1, 2, 3]})
    held = {"tokens": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "a"], "token_type": [3, 3, 3, 3, 3, 1]}
    fields = {f"tokenizer.ggml.{name}": SimpleNamespace(contents=lambda found=found: found) for name, found in held.items()}
    monkeypatch.setattr("gguf.GGUFReader", lambda file: SimpleNamespace(fields=fields))
    with pytest.raises(files.UserError, match="another tokenizer"):
        models.gemma_tokenizer(tmp_path / "model.gguf")
