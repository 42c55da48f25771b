"""Attention of one new token a row on a CPU: what generation spends most of its time on with PyTorch's own kernel."""

from __future__ import annotations

from functools import cache

# Bytes of a cache's keys that are taken at once in fp32: they and the values are still in the processor's cache when they are used.
ATTENDED = 2e6


@cache
def one_token() -> str:
    """The name under which transformers knows our attention of one new token a row on a CPU; all other attention is that of sdpa.

    Grouped-query attention (arXiv 2305.13245) in fp32, a few rows at a time. PyTorch's kernel works on blocks of queries, of which one alone is
    used here: for 128 rows in bf16 it took 13 ms a layer where this takes 2, on 2 cores of an AMD EPYC, and was further from fp32.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
        if query.device.type != "cpu" or query.shape[2] > 1 or torch.is_grad_enabled():
            return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        rows, heads, _, width = query.shape
        groups, length = key.shape[1:3]
        scale = width**-0.5 if scaling is None else scaling
        bias = torch.zeros((), device=query.device)
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            bias = torch.where(attention_mask, 0.0, -torch.inf)
        elif attention_mask is not None:
            bias = attention_mask.float()
        bias = bias.expand(rows, heads, 1, length).reshape(rows, groups, heads // groups, length)
        queries, out = query.reshape(rows, groups, heads // groups, width), query.new_empty(rows, 1, heads, value.shape[-1])
        size = max(1, int(ATTENDED / (4 * groups * length * width)))
        for begun in range(0, rows, size):
            some = slice(begun, begun + size)
            scores = torch.matmul(queries[some].float(), key[some].float().transpose(2, 3)).mul_(scale).add_(bias[some])
            mixed = torch.matmul(scores.softmax(-1), value[some].float())
            out[some] = mixed.view(-1, 1, heads, value.shape[-1])
        return out, None

    AttentionInterface.register("one-token", attend)
    AttentionMaskInterface.register("one-token", sdpa_mask)
    return "one-token"
