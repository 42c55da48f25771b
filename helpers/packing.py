"""Training on a CPU without padding: rows lie one after another, and each attends to itself alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

# Rows are padded to each other for attention alone while the longest is at most this many times as long as the shortest.
ALIKE = 1.25
# Tokens of a row, at most: what a row gives each of its tokens is kept for the way back, and grows as the square.
LONGEST = 512


class Rows:
    """Rows of unlike length that lie one after another, without padding: `tokens` in all.

    For attention alone they are laid into groups of like length (`ALIKE`); `groups` holds, for each, the number of rows, their longest
    length, the place of the token in each slot (padding: of the row's last one), and the slots that are no padding (None: all of them).
    """

    def __init__(self, lengths: Sequence[int]):
        import torch

        self.tokens = sum(lengths)
        # Set by whoever attends: a model that does not hand them on would let rows attend to each other.
        self.used = False
        self.groups = []
        begins = [sum(lengths[:i]) for i in range(len(lengths))]
        waiting = sorted(range(len(lengths)), key=lambda i: lengths[i])
        while waiting:
            chosen = [i for i in waiting if lengths[i] <= ALIKE * lengths[waiting[0]]]
            waiting = waiting[len(chosen) :]
            longest = lengths[chosen[-1]]
            slots = torch.arange(longest)
            counts, first = (torch.tensor([x[i] for i in chosen])[:, None] for x in (lengths, begins))
            places = (first + torch.minimum(slots, counts - 1)).flatten()
            real = (slots < counts).flatten()
            self.groups.append((len(chosen), longest, places, None if real.all() else real.nonzero()[:, 0]))


def rows_of(model, attention_mask) -> Rows | None:
    """The rows of a padded batch, where the model attends `without_padding` and neither `LONGEST` nor a window is shorter than the longest of them; else None."""
    config = model.config.get_text_config(decoder=True)
    if config._attn_implementation != "without-padding":
        return None
    lengths = attention_mask.sum(1).tolist()
    return None if max(lengths) > min(LONGEST, getattr(config, "sliding_window", None) or LONGEST) else Rows(lengths)


def can_do_without_padding(model) -> bool:
    """Whether the model calls the attention of transformers' registry, and none that is changed by dropout or a cap on its scores, and no tokens meet elsewhere (convolutions, states)."""
    config = model.config.get_text_config(decoder=True)
    if not {*(getattr(config, "layer_types", None) or ())} <= {"full_attention", "sliding_attention"}:
        return False
    changed = any(getattr(config, name, None) for name in ("attention_dropout", "attn_logit_softcapping"))
    return bool(getattr(model, "_supports_attention_backend", False)) and not changed


@cache
def without_padding() -> str:
    """The name under which transformers knows our attention of `Rows` (given as `rows`) on a CPU; without them it is that of sdpa.

    Causal, and no row sees another (tests/test_packing.py). Matrices are multiplied in the dtype of the values, the softmax is fp32. PyTorch's
    kernel, with its gradients, took 25 ms a layer for padded batches of 16 rows where this took 9 for their tokens, on 2 cores of an AMD EPYC.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def laid(x, group, heads):
        """(tokens × all heads × width) to (rows · heads) × (slots · what shares a head) × width."""
        count, longest, places, _ = group
        x = x.index_select(0, places).view(count, longest, heads, -1, x.shape[-1])
        return x.permute(0, 2, 3, 1, 4).reshape(count * heads, -1, x.shape[-1])

    def lay_back(into, x, group, heads):
        count, longest, places, real = group
        x = x.view(count, heads, -1, longest, x.shape[-1]).permute(0, 3, 1, 2, 4).reshape(count * longest, -1, x.shape[-1])
        if real is None:
            into[places] = x
        else:
            into[places[real]] = x[real]

    def cotangent(upstream, group, heads):
        """As `laid`, and zero where there is padding: nothing is learnt from it."""
        real = group[3]
        if real is None:
            return laid(upstream, group, heads)
        flat = upstream.new_zeros(group[0] * group[1], *upstream.shape[1:])
        flat[real] = upstream[group[2][real]]
        return laid(flat, (*group[:2], torch.arange(len(flat)), None), heads)

    def weights(queries, keys, longest, scale):
        scores = torch.bmm(queries, keys.transpose(1, 2)).float().mul_(scale)
        ahead = torch.ones(longest, longest, dtype=torch.bool).triu_(1)
        scores.view(len(scores), -1, longest, longest).masked_fill_(ahead, -torch.inf)
        return scores.softmax(-1)

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query, key, value, rows, scale):
            heads, out, held = key.shape[1], query.new_empty(*query.shape[:-1], value.shape[-1]), []
            for group in rows.groups:
                queries, keys, values = (laid(x, group, heads) for x in (query, key, value))
                shares = weights(queries, keys, group[1], scale).to(value.dtype)
                lay_back(out, torch.bmm(shares, values), group, heads)
                held += [queries, keys, values, shares]
            ctx.save_for_backward(*held)
            ctx.rows, ctx.scale, ctx.shapes = rows, scale, (query.shape, key.shape, value.shape)
            return out

        @staticmethod
        def backward(ctx, upstream):
            held, heads = ctx.saved_tensors, ctx.shapes[1][1]
            to_query, to_key, to_value = (upstream.new_empty(shape) for shape in ctx.shapes)
            for number, group in enumerate(ctx.rows.groups):
                queries, keys, values, shares = held[4 * number : 4 * number + 4]
                back = cotangent(upstream, group, heads)
                lay_back(to_value, torch.bmm(shares.transpose(1, 2), back), group, heads)
                change = torch.bmm(back, values.transpose(1, 2)).float()
                share = shares.float()
                change = change.sub_((change * share).sum(-1, keepdim=True)).mul_(share).mul_(ctx.scale).to(upstream.dtype)
                lay_back(to_query, torch.bmm(change, keys), group, heads)
                lay_back(to_key, torch.bmm(change.transpose(1, 2), queries), group, heads)
            return to_query, to_key, to_value, None, None

    def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, rows=None, **kwargs):
        if rows is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        rows.used = True
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
        return Attention.apply(query, key, value, rows, scale)[None], None

    AttentionInterface.register("without-padding", attend)
    AttentionMaskInterface.register("without-padding", sdpa_mask)
    return "without-padding"
