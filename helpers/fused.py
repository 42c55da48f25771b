"""Work on a CPU without needless passes over memory: LoRA layers, RMS norms and the loss of the head as one function each.

The arithmetic is that of peft, transformers and bitsandbytes under autocast (tests/test_fused.py). What is saved are casts to fp32
and back, de-quantising at each use, and memory that is given back to the system and faulted in again (`freed_memory_kept`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

from . import packing
from .runtime import Device, sharded

# Labelled positions whose logits are held at once, and of how many tokens they are worked on while they are in the processor's cache.
LOGIT_ROWS = 192
LOGIT_TOKENS = 2048
# With tokens below this probability left out, the gradient in bf16 was as far from that in fp32 as with all of them (gemma3-270m, before and after training).
NEGLIGIBLE = 2.0**-20
# Bytes of frozen weights that are written out; of a larger model they are de-quantised at each use, as on a GPU.
MOST_WRITTEN_OUT = 2e9


@cache
def head_loss():
    """A function of (hidden, weight, bias, targets): the summed cross-entropy of a frozen output head.

    Loss and gradient are computed together, `LOGIT_ROWS` × vocabulary logits at a time in a buffer that is used again; whole, they would be
    the memory peak of a small model. On a CPU in bf16, tokens that are `NEGLIGIBLE` at all of these positions are left out of the gradient, though not of the loss,
    as in Cut Cross-Entropy (arXiv 2411.09009).
    """
    import torch

    class HeadLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, weight, bias, targets):
            grad = torch.empty_like(hidden, dtype=torch.float32) if hidden.requires_grad else None
            total = torch.zeros((), device=hidden.device)
            # Where it takes no wait for a GPU.
            few = hidden.device.type == "cpu" and weight.dtype == torch.bfloat16
            # Vocabulary × positions, so that a token is a line of memory.
            buffer = torch.empty(weight.shape[0] * min(LOGIT_ROWS, len(hidden)), dtype=weight.dtype, device=hidden.device)
            for start in range(0, len(hidden), LOGIT_ROWS):
                rows = hidden[start : start + LOGIT_ROWS].to(weight.dtype)
                wanted = targets[start : start + LOGIT_ROWS]
                logits = torch.mm(weight, rows.T, out=buffer[: weight.shape[0] * len(rows)].view(-1, len(rows)))
                if bias is not None:
                    logits += bias[:, None]
                parts = logits.split(LOGIT_TOKENS)
                chosen = logits.gather(0, wanted[None])[0].float()
                top = torch.stack([part.amax(0) for part in parts]).amax(0).float()
                sums, tokens = torch.zeros_like(top), []
                for number, part in enumerate(parts):
                    shares = (part - top).exp_()
                    sums += shares.sum(0)
                    if grad is not None:
                        part.copy_(shares)
                        if few:
                            tokens.append((shares.amax(1) > NEGLIGIBLE).nonzero()[:, 0] + number * LOGIT_TOKENS)
                total += (sums.log() + top - chosen).sum()
                if grad is not None:
                    shares, rest = logits, weight
                    # Where most are kept a copy of them costs more than it saves.
                    if few and 2 * len(kept := torch.cat(tokens)) < len(weight):
                        shares, rest = logits.index_select(0, kept), weight.index_select(0, kept)
                    grad[start : start + LOGIT_ROWS] = torch.mm(shares.T, rest).float().div_(sums[:, None]).sub_(weight[wanted])
            ctx.grad, ctx.dtype = grad, hidden.dtype
            return total

        @staticmethod
        def backward(ctx, upstream):
            return (ctx.grad * upstream).to(ctx.dtype), None, None, None

    return HeadLoss.apply


@cache
def _lora_linear():
    import torch

    class LoraLinear(torch.autograd.Function):
        """x Wᵀ + bias + scaling · (x Aᵀ) Bᵀ in the dtype of a frozen W; A, B and their gradients are fp32 (arXiv 2106.09685)."""

        @staticmethod
        def forward(ctx, x, a, b, weight, bias, scaling):
            frozen = weight()
            flat = x.reshape(-1, x.shape[-1]).to(frozen.dtype)
            a, b = a.to(frozen.dtype), b.to(frozen.dtype)
            low = torch.mm(flat, a.T).mul_(scaling)
            out = torch.mm(flat, frozen.T) if bias is None else torch.addmm(bias.to(frozen.dtype), flat, frozen.T)
            out.addmm_(low, b.T)
            ctx.save_for_backward(flat, low, a, b)
            ctx.weight, ctx.scaling, ctx.shape, ctx.dtype = weight, scaling, x.shape, x.dtype
            return out.view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx, upstream):
            flat, low, a, b = ctx.saved_tensors
            upstream = upstream.reshape(-1, upstream.shape[-1])
            to_low = torch.mm(upstream, b).mul_(ctx.scaling)
            to_x = None
            if ctx.needs_input_grad[0]:
                to_x = torch.mm(upstream, ctx.weight()).addmm_(to_low, a).view(ctx.shape).to(ctx.dtype)
            return to_x, torch.mm(to_low.T, flat).float(), torch.mm(upstream.T, low).float(), None, None, None

    return LoraLinear.apply


@cache
def _rms_norm():
    import torch

    class RMSNorm(torch.autograd.Function):
        """x / √(mean x² + eps) · scale over the last dimension, in fp32 inside (arXiv 1910.07467); `scale` is frozen."""

        @staticmethod
        def forward(ctx, x, scale, eps):
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
            inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            ctx.save_for_backward(x, inverse, scale)
            return (x * inverse).mul_(scale).to(x.dtype)

        @staticmethod
        def backward(ctx, upstream):
            x, inverse, scale = ctx.saved_tensors
            upstream = upstream * scale
            along = (upstream * x).mean(-1, keepdim=True).mul_(inverse.square())
            return upstream.sub_(x * along).mul_(inverse).to(x.dtype), None, None

    return RMSNorm.apply


def install(model, here: Device) -> int:
    """Put the functions into a peft model in NF4 that is to be trained on a CPU; number of modules changed (0 on a GPU, or where weights are sharded)."""
    if here.kind != "cpu" or sharded():
        return 0
    linear = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(getattr(m, "base_layer", None), "quant_state")]
    # Another adapter, dropout or a variant of LoRA is left to peft.
    linear = [m for m in linear if m.active_adapters == ["default"] and not getattr(m.lora_dropout["default"], "p", 0) and not m.lora_variant]
    written_out = here.dtype.itemsize * sum(m.in_features * m.out_features for m in linear) <= MOST_WRITTEN_OUT
    for module in linear:
        weight = partial(_dense, module.base_layer, here.dtype)
        if written_out:
            weight = partial(_same, weight())
        module.forward = partial(_forward_linear, module, weight)
    causal = model.get_base_model()
    if packing.can_do_without_padding(causal):
        causal.set_attn_implementation(packing.without_padding())
    return len(linear) + install_norms(model)


def install_norms(model) -> int:
    """Put the function of RMS norms into a model whose norms are frozen; number of modules changed."""
    norms = [m for m in model.modules() if type(m).__name__ == "Gemma3RMSNorm"]
    for module in norms:
        module.forward = partial(_forward_norm, module.eps, 1.0 + module.weight.detach().float())
    return len(norms)


def remove_norms(model) -> None:
    """Undo `install_norms`."""
    for module in model.modules():
        if type(module).__name__ == "Gemma3RMSNorm":
            vars(module).pop("forward", None)


def _dense(layer, dtype):
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)


def _same(weight):
    return weight


def _forward_linear(module, weight, x):
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    return _lora_linear()(x, a, b, weight, module.base_layer.bias, module.scaling["default"])


def _forward_norm(eps, scale, x):
    return _rms_norm()(x, scale, eps)


# <malloc.h> of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While it lasts, glibc keeps big blocks that are freed for the next use; elsewhere nothing changes.

    By default each one goes back to the system and is faulted in again, page by page (mallopt(3)).
    """
    try:
        libc = ctypes.CDLL(None)
        setting, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):
        yield
        return
    setting(_MMAP_THRESHOLD, 1 << 30)
    setting(_TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:
        # What glibc's own adjustment would have come to (DEFAULT_MMAP_THRESHOLD_MAX, and twice that).
        setting(_MMAP_THRESHOLD, 1 << 25)
        setting(_TRIM_THRESHOLD, 1 << 26)
        trim(0)
