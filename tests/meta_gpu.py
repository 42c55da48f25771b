"""A training step of a full-size model on torch's meta device, with a count of the bytes that a CUDA device would hold.

The modules are the real ones (transformers, peft's LoRA over bitsandbytes' Linear4bit); nothing is computed. What a meta tensor does not
get by itself is added: CUDA's autocast, memory-efficient attention, and the weights that bitsandbytes writes out for a product.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Of the lists in torch's documentation ("CUDA ops that can autocast to float16", "… to float32"): what these models call.
LOWER = {F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm}
UPPER = {F.layer_norm, torch.pow, torch.Tensor.pow, torch.Tensor.__pow__, torch.rsqrt}


class Autocast(TorchFunctionMode):
    """`torch.autocast("cuda", torch.float16)` for meta tensors: adapters are cast once, everything else at each use."""

    def __init__(self):
        super().__init__()
        self.cached = {}

    def _cast(self, x, dtype):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.dtype == dtype:
            return x
        if x.is_leaf and x.requires_grad and dtype == torch.float16:
            return self.cached.setdefault(id(x), x.to(dtype)) if id(x) not in self.cached else self.cached[id(x)]
        return x.to(dtype)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        dtype = torch.float16 if function in LOWER else torch.float32 if function in UPPER else None
        if dtype:
            args = [self._cast(a, dtype) for a in args]
            kwargs = {k: self._cast(v, dtype) for k, v in kwargs.items()}
        return function(*args, **kwargs)


class Attention(torch.autograd.Function):
    """Memory-efficient attention keeps query, key, value, bias, output and the log-sum-exp of each row (rounded up to 32 rows)."""

    @staticmethod
    def forward(ctx, q, k, v, bias):
        out = torch.empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3], dtype=q.dtype, device=q.device)
        rows = torch.empty(*q.shape[:2], -(-q.shape[2] // 32) * 32, device=q.device)
        ctx.save_for_backward(q, k, v, bias, out, rows)
        return out

    @staticmethod
    def backward(ctx, upstream):
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


def stand_in(module, query, key, value, attention_mask, **options):
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (t[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for t in (key, value))
    dtype = torch.float16 if torch.is_autocast_enabled() else query.dtype
    query, key, value = (t.to(dtype) for t in (query, key, value))
    length = query.shape[2]
    return Attention.apply(query, key, value, torch.empty(query.shape[0], 1, length, length, dtype=dtype, device="meta")), None


@dataclass
class Held(TorchDispatchMode):
    """Bytes of every storage that is alive, and the most there were; allocations are rounded up to 512 bytes as CUDA's are."""

    now: int = 0
    peak: int = 0
    seen: weakref.WeakKeyDictionary = field(default_factory=dict)

    def __post_init__(self):
        super().__init__()

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return
        size = -(-storage.nbytes() // 512) * 512
        self.seen[key] = weakref.finalize(storage, self._gone, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key, size):
        del self.seen[key]
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "gemm_4bit" in str(function):
            # The product writes the weight out in the dtype of its input, and its scales in fp32.
            rows, columns = args[2]
            written = rows * columns * args[0].element_size() + rows * columns // 64 * 4
            self.peak = max(self.peak, self.now + written + args[0].numel() // columns * rows * args[0].element_size())
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


def _quantise(model, dtype: torch.dtype) -> None:
    """Every linear layer but the head in NF4 with double quantisation, as transformers loads it; the weights hold no numbers."""
    import bitsandbytes as bnb
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    replace_with_bnb_linear(model, ["lm_head"], settings)
    model.is_loaded_in_4bit = True
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            size = module.in_features * module.out_features
            blocks = -(-size // 64)
            with torch.device("meta"):
                second = bnb.functional.QuantState(torch.empty(-(-blocks // 256)), blocksize=256, code=torch.empty(256), dtype=torch.float32)
                state = bnb.functional.QuantState(
                    torch.empty(blocks, dtype=torch.uint8), torch.Size((module.out_features, module.in_features)), torch.empty(16), 64,
                    "nf4", dtype, offset=torch.empty(()), state2=second,
                )  # fmt: skip
                packed = torch.empty(-(-size // 2), 1, dtype=torch.uint8)
            module.weight = bnb.nn.Params4bit(packed, requires_grad=False, quant_state=state, quant_type="nf4", bnb_quantized=True, module=module)
            module.quant_state = state
            if module.bias is not None:
                module.bias.data = module.bias.data.to(dtype)


def build(configuration, targets, rank: int, dtype=torch.float16, quantised: bool = True, attention: str = "stand-in"):
    """The model of a configuration with its adapter, on the meta device; the adapter in fp32."""
    from peft import LoraConfig, get_peft_model
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

    AttentionInterface.register("stand-in", stand_in)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**configuration), dtype=dtype, attn_implementation=attention)
    if quantised:
        _quantise(model, dtype)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=rank, target_modules=list(targets), task_type="CAUSAL_LM"), autocast_adapter_dtype=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.train()


def tensors(model) -> list[torch.Tensor]:
    """Everything that the model keeps on its device: parameters, buffers, and the scales of its NF4 weights."""
    found = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return found


@dataclass
class Step:
    """Bytes: of the loaded model, kept for the backward pass (beside the model), and the most that were held in the step."""

    load: int
    saved: int
    peak: int


def step(model, batch: int, length: int, labelled: int, checkpointing: bool, mixed: bool = True, whole: bool = False) -> Step:
    """The second micro-batch of the second optimiser step: gradients and AdamW's two moments are there already."""
    from contextlib import nullcontext
    from unittest.mock import patch

    from helpers import fused

    causal = model.get_base_model()
    if checkpointing:
        model.enable_input_require_grads()
        # The second run of a layer is under autocast too.
        contexts = lambda: (nullcontext(), Autocast() if mixed else nullcontext())  # noqa: E731
        causal.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts})
    trained = [p for p in model.parameters() if p.requires_grad]
    held = Held()
    for tensor in tensors(model):
        held.add(tensor)
    load = held.now
    moments = [torch.empty_like(p) for p in trained for _ in range(2)]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    for tensor in [*moments, *(p.grad for p in trained)]:
        held.add(tensor)
    held.peak = held.now
    before = held.now
    ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
    with held, patch("torch.is_autocast_enabled", lambda *a: mixed):
        with Autocast() if mixed else nullcontext():
            if whole:
                loss = causal(input_ids=ids, labels=ids, use_cache=False).loss
            else:
                hidden = causal.model(input_ids=ids, attention_mask=None, use_cache=False).last_hidden_state
                last = hidden[:, :-1][:, -labelled:].reshape(-1, hidden.shape[-1])
        if not whole:
            targets = torch.zeros(len(last), dtype=torch.long, device="meta")
            loss = fused.head_loss()(last, causal.lm_head.weight, getattr(causal.lm_head, "bias", None), targets)
        saved = held.now - before
        loss.backward()
    return Step(load, saved, held.peak)


def materialise(model, device: str) -> None:
    """Random numbers on `device` for a model of `build`; its NF4 weights are quantised there, one at a time."""
    import bitsandbytes as bnb

    torch.manual_seed(0)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            dtype, shape = parameter.dtype, parameter.shape
            if isinstance(module, bnb.nn.Linear4bit) and name == "weight":
                numbers = torch.empty(module.out_features, module.in_features, dtype=module.compute_dtype, device=device).normal_(std=0.02)
                made = bnb.nn.Params4bit(numbers, requires_grad=False, quant_type="nf4", compress_statistics=True, module=module).to(device)
                module.quant_state = made.quant_state
            else:
                numbers = torch.zeros(shape, dtype=dtype, device=device)
                numbers = numbers.normal_(std=0.02) if parameter.ndim > 1 else numbers
                if "norm" in type(module).__name__.lower() and name == "weight":
                    numbers += 1
                made = torch.nn.Parameter(numbers.to(device), requires_grad=parameter.requires_grad)
            setattr(module, name, made)
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device), persistent=False)
    for module in model.modules():
        if hasattr(module, "compute_default_rope_parameters"):
            # Frequencies are computed, not learned.
            for name, buffer in type(module)(module.config).named_buffers():
                module.register_buffer(name, buffer.to(device), persistent=False)
    model.tie_weights()


def evaluation(model, batch: int, length: int, labelled: int, mixed: bool = True) -> int:
    """The most bytes that are held while the loss of one batch is taken without gradients; nothing of a training step is there."""
    from contextlib import nullcontext
    from unittest.mock import patch

    from helpers import fused

    causal, held = model.get_base_model(), Held()
    for tensor in tensors(model):
        held.add(tensor)
    ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
    with torch.no_grad(), held, patch("torch.is_autocast_enabled", lambda *a: mixed):
        with Autocast() if mixed else nullcontext():
            hidden = causal.model(input_ids=ids, attention_mask=None, use_cache=False).last_hidden_state
            last = hidden[:, :-1][:, -labelled:].reshape(-1, hidden.shape[-1])
        targets = torch.zeros(len(last), dtype=torch.long, device="meta")
        fused.head_loss()(last, causal.lm_head.weight, getattr(causal.lm_head, "bias", None), targets)
    return held.peak
