"""Rows without padding on a CPU: their tokens lie one after another, each attends to its own row alone, and what rows begin alike with is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from . import attention
from .files import UserError

# Rows are padded to each other for attention alone while the longest is at most this many times as long as the shortest.
ALIKE = 1.25
# Tokens of a row, at most: what a row gives each of its tokens grows as the square, and is kept for the way back.
LONGEST = 512
# Scores of a group, at most, for each head.
SCORES = 1 << 20


class Group(NamedTuple):
    """Rows of like length, laid into `count` × `longest` slots for attention.

    `places` (a tensor, as the next two) holds the place of the token in each slot (padding: of the row's last one), `own` the slots that give
    their token its output (None: all of them), `again` those whose token gets it from another row's slot. `before` holds the keys and values
    of each layer (1 × heads × tokens × width) that all its rows follow on.
    """

    count: int
    longest: int
    places: object
    own: object
    again: object
    before: tuple


class Rows:
    """Rows of token ids, of unlike length, without padding: `tokens` in all, for those that rows begin alike with are there once (a prefix tree).

    `places` holds, for each row, where its tokens lie; `ids` and `positions` belong to the tokens. In inference a row may follow on a prefix
    that has been computed, one of `prefixes` (as `decoding.Prefix`).
    """

    def __init__(self, rows: Sequence[Sequence[int]], prefixes: Sequence = ()):
        import torch

        # `used` is set by whoever attends: a model that does not hand them on would let rows attend to each other. `kept`, where it is a list,
        # is given the keys and values of each layer.
        self.used, self.kept = False, None
        kinds: dict[int, int] = {}
        kind = [kinds.setdefault(id(prefix), len(kinds)) for prefix in prefixes] or [0] * len(rows)
        ids: list[int] = []
        positions: list[int] = []
        self.places: list[list[int]] = [[] for _ in rows]
        first, last = [0] * len(rows), None
        # In this order a row begins most like the one before it.
        for i in sorted(range(len(rows)), key=lambda i: (kind[i], list(rows[i]))):
            alike = _alike(rows[last], rows[i]) if last is not None and kind[last] == kind[i] else 0
            first[i], begun = alike, len(ids)
            ids += rows[i][alike:]
            begins = len(prefixes[i].ids) if prefixes else 0
            positions += range(begins + alike, begins + len(rows[i]))
            self.places[i] = [*(self.places[last][:alike] if alike else ()), *range(begun, len(ids))]
            last = i
        self.tokens = len(ids)
        self.ids, self.positions = torch.tensor(ids), torch.tensor(positions)
        self.groups = []
        waiting = sorted(range(len(rows)), key=lambda i: (kind[i], len(rows[i])))
        while waiting:
            shortest = waiting[0]
            chosen = [i for i in waiting if kind[i] == kind[shortest] and len(rows[i]) <= ALIKE * len(rows[shortest])]
            longest = len(rows[chosen[-1]])
            chosen = chosen[: max(1, SCORES // (longest * (longest + (len(prefixes[shortest].ids) if prefixes else 0))))]
            waiting, longest = waiting[len(chosen) :], len(rows[chosen[-1]])
            slots = torch.arange(longest)
            counts, firsts = (torch.tensor(x)[:, None] for x in ([len(rows[i]) for i in chosen], [first[i] for i in chosen]))
            places = torch.tensor([self.places[i] + self.places[i][-1:] * (longest - len(rows[i])) for i in chosen]).flatten()
            own, again = ((slots >= firsts) & (slots < counts)).flatten(), (slots < firsts).flatten()
            before = prefixes[shortest].states if prefixes else ()
            self.groups.append(Group(len(chosen), longest, places, None if own.all() else own.nonzero()[:, 0], again.nonzero()[:, 0], before))


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def can_take(model, longest: int) -> bool:
    """Whether the model attends `without_padding` and neither `LONGEST` nor a window is shorter than the longest row."""
    config = model.config.get_text_config(decoder=True)
    return config._attn_implementation == "without-padding" and longest <= min(LONGEST, getattr(config, "sliding_window", None) or LONGEST)


def run(model, rows: Rows):
    """The last hidden states of all tokens (tokens × width) of a causal model that can take the rows. Raises `UserError` where its attention is not given them."""
    # A mask of four dimensions is handed on as it is: none has to be made.
    mask = rows.ids.new_ones(1, 1, 1, 1, dtype=bool)
    found = model.model(input_ids=rows.ids[None], attention_mask=mask, position_ids=rows.positions[None], rows=rows, use_cache=False)
    if not rows.used:
        raise UserError(f"{model.config.model_type} does not hand its attention what it is given: choose another model.")
    return found.last_hidden_state[0]


def can_do_without_padding(model) -> bool:
    """Whether the model calls the attention of transformers' registry, and none that is changed by dropout or a cap on its scores, and no tokens meet elsewhere (convolutions, states)."""
    config = model.config.get_text_config(decoder=True)
    if not {*(getattr(config, "layer_types", None) or ())} <= {"full_attention", "sliding_attention"}:
        return False
    changed = any(getattr(config, name, None) for name in ("attention_dropout", "attn_logit_softcapping"))
    return bool(getattr(model, "_supports_attention_backend", False)) and not changed


@cache
def without_padding() -> str:
    """The name under which transformers knows our attention of `Rows` (given as `rows`) on a CPU; without them it is that of `attention.one_token`.

    Causal, and no row sees another (tests/test_packing.py). Matrices are multiplied in the dtype of the values, the softmax is fp32. PyTorch's
    kernel, with its gradients, took 25 ms a layer for padded batches of 16 rows where this took 9 for their tokens, on 2 cores of an AMD EPYC.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    without_rows = ALL_ATTENTION_FUNCTIONS[attention.one_token()]

    def laid(x, group, heads):
        """(tokens × all heads × width) to (rows · heads) × (slots · what shares a head) × width."""
        x = x.index_select(0, group.places).view(group.count, group.longest, heads, -1, x.shape[-1])
        return x.permute(0, 2, 3, 1, 4).reshape(group.count * heads, -1, x.shape[-1])

    def slots(x, group, heads):
        """The other way round: slots × all heads × width."""
        x = x.view(group.count, heads, -1, group.longest, x.shape[-1]).permute(0, 3, 1, 2, 4)
        return x.reshape(group.count * group.longest, -1, x.shape[-1])

    def lay_back(into, x, group):
        if group.own is None:
            into[group.places] = x
        else:
            into[group.places[group.own]] = x[group.own]

    def cotangent(upstream, group, heads):
        """As `laid`, and zero where a slot gives its token no output: nothing is learnt from it."""
        if group.own is None:
            return laid(upstream, group, heads)
        flat = upstream.new_zeros(group.count * group.longest, *upstream.shape[1:])
        flat[group.own] = upstream[group.places[group.own]]
        return laid(flat, group._replace(places=torch.arange(len(flat))), heads)

    def follow(pair, group, layer):
        """Keys and values behind those of the prefix."""
        before = (x[0].expand(group.count, *x.shape[1:]).flatten(0, 1) for x in group.before[layer])
        return [torch.cat(parts, 1) for parts in zip(before, pair, strict=True)]

    def shares_of(queries, keys, longest, scale):
        scores = torch.bmm(queries, keys.transpose(1, 2)).float().mul_(scale)
        ahead = torch.ones(longest, longest, dtype=torch.bool).triu_(1)
        scores.view(len(scores), -1, longest, keys.shape[1])[..., -longest:].masked_fill_(ahead, -torch.inf)
        return scores.softmax(-1)

    def attended(query, key, value, rows, scale, layer, held=None):
        heads, out = key.shape[1], query.new_empty(*query.shape[:-1], value.shape[-1])
        for group in rows.groups:
            queries, keys, values = (laid(x, group, heads) for x in (query, key, value))
            if group.before:
                keys, values = follow((keys, values), group, layer)
            shares = shares_of(queries, keys, group.longest, scale).to(value.dtype)
            lay_back(out, slots(torch.bmm(shares, values), group, heads), group)
            if held is not None:
                held += [queries, keys, values, shares]
        return out

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query, key, value, rows, scale):
            held: list = []
            out = attended(query, key, value, rows, scale, 0, held)
            ctx.save_for_backward(*held)
            ctx.rows, ctx.scale, ctx.shapes = rows, scale, (query.shape, key.shape, value.shape)
            return out

        @staticmethod
        def backward(ctx, upstream):
            held, heads = ctx.saved_tensors, ctx.shapes[1][1]
            to_query, to_key, to_value = (upstream.new_empty(shape) for shape in ctx.shapes)
            # What other rows make of the tokens that they begin alike with.
            more = [torch.zeros(shape) if any(len(g.again) for g in ctx.rows.groups) else None for shape in ctx.shapes[1:]]
            for number, group in enumerate(ctx.rows.groups):
                queries, keys, values, shares = held[4 * number : 4 * number + 4]
                back = cotangent(upstream, group, heads)
                change = torch.bmm(back, values.transpose(1, 2)).float()
                share = shares.float()
                change = change.sub_((change * share).sum(-1, keepdim=True)).mul_(share).mul_(ctx.scale).to(upstream.dtype)
                lay_back(to_query, slots(torch.bmm(change, keys), group, heads), group)
                learnt = torch.bmm(change.transpose(1, 2), queries), torch.bmm(shares.transpose(1, 2), back)
                for into, rest, made in zip((to_key, to_value), more, learnt, strict=True):
                    made = slots(made, group, heads)
                    lay_back(into, made, group)
                    if len(group.again):
                        rest.index_add_(0, group.places[group.again], made[group.again].float())
            for into, rest in zip((to_key, to_value), more, strict=True):
                if rest is not None:
                    into += rest
            return to_query, to_key, to_value, None, None

    def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, rows=None, **kwargs):
        if rows is None:
            return without_rows(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        rows.used = True
        if rows.kept is not None:
            rows.kept.append((key[0], value[0]))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
        if torch.is_grad_enabled():
            if any(group.before for group in rows.groups):
                raise ValueError("Rows follow on prefixes in inference alone.")
            return Attention.apply(query, key, value, rows, scale)[None], None
        return attended(query, key, value, rows, scale, getattr(module, "layer_idx", 0))[None], None

    AttentionInterface.register("without-padding", attend)
    AttentionMaskInterface.register("without-padding", sdpa_mask)
    return "without-padding"
