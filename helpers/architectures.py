"""The dimensions of the models that this series speaks of, as their published configurations give them, and what can be counted from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from .files import UserError
from .profiles import LLAMA_TARGETS, PROFILES

PHI_TARGETS = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
PHI3_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
# Linear layers of a block that a LoRA adapter goes to: module names in transformers' modeling files.
TARGETS = MappingProxyType(
    {"phi": PHI_TARGETS, "phi3": PHI3_TARGETS} | dict.fromkeys(("llama", "qwen2", "qwen3", "gemma3_text"), LLAMA_TARGETS)
)
_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class Linear:
    """One linear layer of a block: weight `outputs` × `inputs`."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def size(self) -> int:
        """Numbers in its weight."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Architecture:
    """A decoder-only model by its configuration, in the words of transformers' config.json.

    `published` is the number of parameters that its publisher gives (0: none given), `source` where the dimensions come from, `why_not` the
    reason why this series cannot train it ("": it can), `instead` the model to take in that case.
    """

    name: str
    config: Mapping
    published: float = 0
    source: str = ""
    why_not: str = ""
    instead: str = ""

    @property
    def family(self) -> str:
        """`model_type` of the configuration."""
        return self.config["model_type"]

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.config["num_attention_heads"]

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.config.get("num_key_value_heads") or self.heads

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.config.get("head_dim") or self.config["hidden_size"] // self.heads

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding matrix."""
        return bool(self.config.get("tie_word_embeddings"))

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers of one block."""
        d, f = self.config["hidden_size"], self.config["intermediate_size"]
        a, k = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if self.family == "phi":
            return tuple(
                Linear(n, i, o, True)
                for n, i, o in zip(PHI_TARGETS, (d, d, d, a, d, f), (a, k, k, d, f, d), strict=True)
            )
        if self.family == "phi3":
            return tuple(Linear(n, i, o) for n, i, o in zip(PHI3_TARGETS, (d, a, d, f), (a + 2 * k, d, 2 * f, d), strict=True))
        if self.family == "phi3small":
            # A GEGLU whose two halves are one layer; its tokens alternate between dense and block-sparse attention.
            sizes = zip(("query_key_value", "dense", "up_proj", "down_proj"), (d, a, d, f), (a + 2 * k, d, 2 * f, d), strict=True)
            return tuple(Linear(n, i, o, True) for n, i, o in sizes)
        biased = ("q_proj", "k_proj", "v_proj") if self.family == "qwen2" else ()
        sizes = zip(LLAMA_TARGETS, (d, d, d, a, d, d, f), (a, k, k, d, f, f, d), strict=True)
        return tuple(Linear(n, i, o, n in biased) for n, i, o in sizes)

    @cached_property
    def block(self) -> int:
        """Parameters of one block."""
        d = self.config["hidden_size"]
        norms = {"phi": 2 * d, "phi3small": 4 * d, "gemma3_text": 4 * d + 2 * self.head_dim, "qwen3": 2 * d + 2 * self.head_dim}
        return sum(x.size + x.bias * x.outputs for x in self.linears) + norms.get(self.family, 2 * d)

    @property
    def embedding(self) -> int:
        """Numbers in the embedding matrix; the output head has as many where it is not `tied`."""
        return self.config["vocab_size"] * self.config["hidden_size"]

    @property
    def outer_vectors(self) -> int:
        """Parameters of the final norm and, in phi, of the output head's bias."""
        c = self.config
        with_bias = self.family in ("phi", "phi3small")
        return (2 if with_bias else 1) * c["hidden_size"] + (c["vocab_size"] if self.family == "phi" else 0)

    @property
    def parameters(self) -> int:
        """Parameters in all, a shared head counted once."""
        heads = 1 if self.tied else 2
        return self.config["num_hidden_layers"] * self.block + heads * self.embedding + self.outer_vectors

    def adapter(self, rank: int, targets: tuple[str, ...] = ()) -> int:
        """Parameters of a LoRA adapter (two matrices a target and block); `targets` () means every linear layer of the blocks.

        Raises `UserError` for a target that the architecture does not have.
        """
        return self.config["num_hidden_layers"] * rank * sum(x.inputs + x.outputs for x in self.adapted(targets))

    def adapted(self, targets: tuple[str, ...] = ()) -> tuple[Linear, ...]:
        """The linear layers of a block that `targets` name. Raises `UserError` for one that is not there."""
        known = {x.name: x for x in self.linears}
        unknown = [t for t in targets if t not in known]
        if unknown:
            raise UserError(f"{self.name} has no layer {unknown[0]!r} for LoRA. It has: {', '.join(known)}.")
        return tuple(known[t] for t in targets) if targets else self.linears


def _made(name: str, published: float, source: str, family: str, *sizes: int, why_not: str = "", instead: str = "", **more) -> Architecture:
    keys = (*_NEEDED, "num_key_value_heads")
    return Architecture(name, MappingProxyType(dict(zip(keys, sizes, strict=True), model_type=family, **more)), published, source, why_not, instead)


# Sizes: vocabulary, hidden, intermediate, layers, heads, key/value heads; the source is the hub repository whose config.json has them.
# Published counts: the safetensors index of the same repository; Gemma 3: technical report (arXiv 2503.19786), table 1, text part.
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        a.name: a
        for a in (
            _made("phi-2", 2_779_683_840, "microsoft/phi-2", "phi", 51200, 2560, 10240, 32, 32, 32,
                  hidden_act="gelu_new", max_position_embeddings=2048, partial_rotary_factor=0.4),
            _made("phi-3-mini-4k", 3_821_079_552, "microsoft/Phi-3-mini-4k-instruct", "phi3", 32064, 3072, 8192, 32, 32, 32,
                  max_position_embeddings=4096, pad_token_id=32000),
            _made("phi-3.5-mini", 3_821_079_552, "microsoft/Phi-3.5-mini-instruct", "phi3", 32064, 3072, 8192, 32, 32, 32,
                  max_position_embeddings=131072, pad_token_id=32000),
            _made("phi-4-mini", 3_836_021_760, "microsoft/Phi-4-mini-instruct", "phi3", 200064, 3072, 8192, 32, 24, 8,
                  max_position_embeddings=131072, partial_rotary_factor=0.75, pad_token_id=199999, tie_word_embeddings=True),
            _made("phi-3-small-8k", 7.39e9, "microsoft/Phi-3-small-8k-instruct", "phi3small", 100352, 4096, 14336, 32, 32, 8,
                  max_position_embeddings=8192, tie_word_embeddings=True,
                  why_not="its code is not part of transformers (it asks for trust_remote_code) and calls flash-attention and block-sparse Triton "
                  "kernels that need a GPU of the A100, A6000 or H100 class, which a T4 (compute capability 7.5) is not",
                  instead="phi-3.5-mini"),
            _made("llama-3-8b", 8_030_261_248, "meta-llama/Meta-Llama-3-8B", "llama", 128256, 4096, 14336, 32, 32, 8,
                  max_position_embeddings=8192),
            _made("gemma3-270m", 268_098_176, "google/gemma-3-270m", "gemma3_text", 262144, 640, 2048, 18, 4, 1,
                  head_dim=256, max_position_embeddings=32768, tie_word_embeddings=True),
            _made("gemma3-1b", 999_885_952, "google/gemma-3-1b-pt", "gemma3_text", 262144, 1152, 6912, 26, 4, 1,
                  head_dim=256, max_position_embeddings=32768, tie_word_embeddings=True),
            _made("gemma3-4b", 3_884e6, "google/gemma-3-4b-pt", "gemma3_text", 262208, 2560, 10240, 34, 8, 4,
                  head_dim=256, max_position_embeddings=131072, tie_word_embeddings=True),
            _made("qwen2.5-1.5b", 1_543_714_304, "Qwen/Qwen2.5-1.5B", "qwen2", 151936, 1536, 8960, 28, 12, 2,
                  max_position_embeddings=32768, tie_word_embeddings=True),
            _made("qwen2.5-3b", 3_085_938_688, "Qwen/Qwen2.5-3B", "qwen2", 151936, 2048, 11008, 36, 16, 2,
                  max_position_embeddings=32768, tie_word_embeddings=True),
            _made("qwen3-1.7b", 1_720_574_976, "Qwen/Qwen3-1.7B-Base", "qwen3", 151936, 2048, 6144, 28, 16, 8,
                  head_dim=128, max_position_embeddings=40960, tie_word_embeddings=True),
            _made("qwen3-4b", 4_022_468_096, "Qwen/Qwen3-4B-Base", "qwen3", 151936, 2560, 9728, 36, 32, 8,
                  head_dim=128, max_position_embeddings=40960, tie_word_embeddings=True),
        )
    }
)  # fmt: skip


def find(model: str | Path | Mapping | Architecture) -> Architecture:
    """The architecture called so (a name of `ARCHITECTURES` or of a profile, or a hub id of that size, pretrained or chat), or that of a configuration or of a folder with a config.json.

    Raises `UserError` for a name that is not known, a configuration without a size, or a family that is not counted here.
    """
    if isinstance(model, Architecture):
        return model
    if isinstance(model, Mapping):
        return _from_config(str(model.get("_name_or_path") or "the model"), model)
    profile = PROFILES.get(str(model))
    size = _size(profile.model.identifier if profile else str(model))
    for known in ARCHITECTURES.values():
        if str(model) == known.name or size == _size(known.source):
            return known
    path = Path(model) / "config.json"
    if not path.exists():
        raise UserError(f"No configuration of {str(model)!r}. Known: {', '.join(ARCHITECTURES)}; or give a folder with a config.json.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected one JSON object.")
    return _from_config(str(path), found)


def _size(hub_id: str) -> str:
    # A chat model has the sizes of the pretrained one that it was made from; the publishers mark either in the name.
    return re.sub(r"-(instruct|it|pt|base)$", "", hub_id.lower())


def _from_config(name: str, config: Mapping) -> Architecture:
    # Gemma 3 with images keeps the language model's sizes apart.
    config = config.get("text_config") or config
    family = config.get("model_type")
    if family not in TARGETS:
        raise UserError(f"{name}, model_type: found {family!r}, expected one of {', '.join(TARGETS)}.")
    for key in _NEEDED:
        value = config.get(key)
        if type(value) is not int or value < 1:
            raise UserError(f"{name}, {key}: expected a whole number from 1, found {value!r}.")
    if config["hidden_size"] % config["num_attention_heads"] and not config.get("head_dim"):
        raise UserError(f"{name}, num_attention_heads: expected a divisor of hidden_size {config['hidden_size']}.")
    if family == "gemma3_text" and "tie_word_embeddings" not in config:
        config = dict(config, tie_word_embeddings=True)  # the default of its configuration class
    return Architecture(name, MappingProxyType(dict(config)))


def billions(parameters: float) -> str:
    """"2.78 B", "268 M"."""
    return f"{parameters / 1e9:.2f} B" if parameters >= 0.9995e9 else f"{parameters / 1e6:.0f} M"
