"""Rows without padding are trained as each would be alone."""

from __future__ import annotations

import pytest

from helpers import models, packing, profiles


@pytest.mark.parametrize("heads", [(4, 1), (4, 2), (4, 4)])
@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [9, 2, 10, 2, 3, 1, 40]])
def test_rows_without_padding_attend_as_each_would_alone(heads, lengths):
    """Values and gradients; what one row holds changes no other."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ours, module = ALL_ATTENTION_FUNCTIONS[packing.without_padding()], torch.nn.Module()
    module.num_key_value_groups, module.is_causal = heads[0] // heads[1], True
    given = [torch.randn(1, n, sum(lengths), 16, requires_grad=True) for n in (heads[0], heads[1], heads[1])]
    rows = packing.Rows(lengths)
    found, _ = ours(module, *given, None, scaling=0.3, rows=rows)
    alone = [sdpa_attention_forward(module, *parts, None, scaling=0.3)[0] for parts in zip(*(x.split(lengths, 2) for x in given), strict=True)]
    expected = torch.cat(alone, 1)
    assert rows.used and found.shape == expected.shape == (1, sum(lengths), heads[0], 16)
    assert torch.allclose(found, expected, atol=1e-6)
    upstream = torch.randn_like(found)
    for mine, theirs in zip(torch.autograd.grad(found, given, upstream), torch.autograd.grad(expected, given, upstream), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_rows_are_laid_into_groups_of_like_length():
    rows = packing.Rows([9, 2, 10, 2, 3, 1, 40])
    assert [(count, longest) for count, longest, *_ in rows.groups] == [(1, 1), (2, 2), (1, 3), (2, 10), (1, 40)]
    assert sorted(t for _, _, places, real in rows.groups for t in (places if real is None else places[real]).tolist()) == list(range(67))


def test_without_rows_it_is_sdpa_and_a_window_or_dropout_keeps_the_padding(fp32):
    import torch

    profile = profiles.choose("tiny")
    model, mask = models.load_base(profile), torch.ones(2, 9, dtype=torch.long)
    assert packing.rows_of(model, mask) is None, "sdpa"
    before = model(input_ids=torch.arange(9)[None]).logits
    model.set_attn_implementation(packing.without_padding())
    assert torch.equal(model(input_ids=torch.arange(9)[None]).logits, before)
    assert packing.rows_of(model, mask).tokens == 18
    assert packing.rows_of(model, torch.ones(1, packing.LONGEST, dtype=torch.long)) and not packing.rows_of(model, torch.ones(1, packing.LONGEST + 1, dtype=torch.long))
    model.config.sliding_window = 8
    assert packing.rows_of(model, mask) is None
    assert packing.can_do_without_padding(model)
    model.config.attention_dropout = 0.1
    assert not packing.can_do_without_padding(model)
