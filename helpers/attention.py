"""Attention of one new token a row on a CPU: what generation spends most of its time on with PyTorch's own kernel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

# Bytes of a cache's keys that are taken at once in fp32: they and the values are still in the processor's cache when they are used.
ATTENDED = 2e6


class Before:
    """What the rows of a batch follow on: keys and values of each layer (1 × heads × tokens × width), the same for many rows and held once; () for nothing.

    `lengths` are their tokens, row by row.
    """

    def __init__(self, states: Sequence[tuple]):
        import torch

        groups: dict[int, list[int]] = {}
        for row, one in enumerate(states):
            groups.setdefault(id(one), []).append(row)
        found = [(states[rows[0]], rows) for rows in groups.values() if states[rows[0]]]
        self.groups = [(one, torch.tensor(rows)) for one, rows in found]
        self.lengths = torch.tensor([one[0][0].shape[2] if one else 0 for one in states])

    def attend(self, queries, layer: int, scale: float, nearest):
        """For one query a row (rows × groups × heads of a group × width): what it makes of the values before, and the log of its scores' sum; fp32.

        `nearest` are the places before which nothing is seen (rows), None without a window.
        """
        import torch

        width = self.groups[0][0][layer][1].shape[-1]
        out = queries.new_zeros((*queries.shape[:-1], width), dtype=torch.float32)
        sums = queries.new_full((*queries.shape[:-1], 1), -torch.inf, dtype=torch.float32)
        for states, rows in self.groups:
            keys, values = (x[0] for x in states[layer])
            some = queries[rows].transpose(0, 1)
            count, of_group = some.shape[1:3]
            scores = torch.bmm(some.reshape(len(keys), count * of_group, -1).to(keys.dtype), keys.transpose(1, 2)).float().mul_(scale)
            if nearest is not None:
                hidden = torch.arange(keys.shape[1]) < nearest[rows][:, None]
                scores.view(len(keys), count, of_group, -1).masked_fill_(hidden[:, None], -torch.inf)
            total = scores.logsumexp(-1, keepdim=True)
            # All of it may be outside the window.
            shares = (scores - total.clamp(min=torch.finfo(total.dtype).min)).exp_().to(values.dtype)
            out[rows] = torch.bmm(shares, values).float().view(len(keys), count, of_group, -1).transpose(0, 1)
            sums[rows] = total.view(len(keys), count, of_group, 1).transpose(0, 1)
        return out, sums


@cache
def one_token() -> str:
    """The name under which transformers knows our attention of one new token a row on a CPU; all other attention is that of sdpa.

    Grouped-query attention (arXiv 2305.13245) in fp32, a few rows at a time. PyTorch's kernel works on blocks of queries, of which one alone is
    used here: for 128 rows in bf16 it took 13 ms a layer where this takes 2, on 2 cores of an AMD EPYC, and was further from fp32.
    What rows follow on (`Before`, given as `before` with the `places` of their tokens) is multiplied with all their queries at once.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, before=None, places=None, **kwargs):
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
        if before is not None:
            window = kwargs.get("sliding_window")
            earlier, sums = before.attend(queries, module.layer_idx, scale, places - window + 1 if window else None)
        size = max(1, int(ATTENDED / (4 * groups * length * width)))
        for begun in range(0, rows, size):
            some = slice(begun, begun + size)
            scores = torch.matmul(queries[some].float(), key[some].float().transpose(2, 3)).mul_(scale).add_(bias[some])
            mixed = torch.matmul(scores.softmax(-1), value[some].float())
            if before is not None:
                mixed = earlier[some].lerp_(mixed, torch.sigmoid(scores.logsumexp(-1, keepdim=True) - sums[some]))
            out[some] = mixed.view(-1, 1, heads, value.shape[-1])
        return out, None

    AttentionInterface.register("one-token", attend)
    AttentionMaskInterface.register("one-token", sdpa_mask)
    return "one-token"
