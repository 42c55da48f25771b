"""Rows without padding are trained as each would be alone."""

from __future__ import annotations

import pytest

from helpers import decoding, fused, models, packing, profiles, runtime, training


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
    # Each begins with a token of its own: nothing is shared.
    rows = packing.Rows([[n] * length for n, length in enumerate(lengths)])
    found, _ = ours(module, *given, None, scaling=0.3, rows=rows)
    alone = [sdpa_attention_forward(module, *parts, None, scaling=0.3)[0] for parts in zip(*(x.split(lengths, 2) for x in given), strict=True)]
    expected = torch.cat(alone, 1)
    assert rows.used and found.shape == expected.shape == (1, sum(lengths), heads[0], 16)
    assert torch.allclose(found, expected, atol=1e-6)
    upstream = torch.randn_like(found)
    for mine, theirs in zip(torch.autograd.grad(found, given, upstream), torch.autograd.grad(expected, given, upstream), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_rows_are_laid_into_groups_of_like_length():
    rows = packing.Rows([[n] * length for n, length in enumerate([9, 2, 10, 2, 3, 1, 40])])
    assert [(g.count, g.longest) for g in rows.groups] == [(1, 1), (2, 2), (1, 3), (2, 10), (1, 40)]
    assert sorted(t for g in rows.groups for t in (g.places if g.own is None else g.places[g.own]).tolist()) == list(range(67))


ALIKE = [[1, 2, 3, 4, 5], [1, 2, 3], [1, 2, 9, 9], [7], [1, 2, 3, 4, 6, 8, 8, 8, 8], [1, 2, 3], [7, 7, 7]]


def test_a_group_holds_no_more_scores_than_it_may(monkeypatch):
    monkeypatch.setattr(packing, "SCORES", 3 * 10 * 10)
    rows = packing.Rows([[n] * 10 for n in range(8)])
    assert [(g.count, g.longest) for g in rows.groups] == [(3, 10), (3, 10), (2, 10)]
    assert [(g.count, g.longest) for g in packing.Rows([[1] * 40]).groups] == [(1, 40)]


def test_what_rows_begin_alike_with_is_there_once():
    rows = packing.Rows(ALIKE)
    assert rows.tokens == len(rows.ids) == 5 + 2 + 1 + 5 + 2
    for row, places in zip(ALIKE, rows.places, strict=True):
        assert rows.ids[places].tolist() == row and rows.positions[places].tolist() == list(range(len(row)))
    assert sorted(t for g in rows.groups for t in (g.places if g.own is None else g.places[g.own]).tolist()) == list(range(15)), "one slot gives a token its output"


@pytest.mark.parametrize("heads", [(4, 1), (4, 4)])
def test_tokens_that_rows_share_attend_and_learn_as_in_each_row_alone(heads):
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    module = torch.nn.Module()
    module.num_key_value_groups = heads[0] // heads[1]
    rows = packing.Rows(ALIKE)
    given = [torch.randn(1, n, rows.tokens, 16, requires_grad=True) for n in (heads[0], heads[1], heads[1])]
    found, _ = ALL_ATTENTION_FUNCTIONS[packing.without_padding()](module, *given, None, rows=rows)
    mine, theirs = [], []
    for places in rows.places:
        mine.append(found[:, places])
        theirs.append(sdpa_attention_forward(module, *(x[:, :, places] for x in given), None)[0])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True))
    upstream = [torch.randn_like(x) for x in mine]
    for ours, others in zip(torch.autograd.grad(mine, given, upstream), torch.autograd.grad(theirs, given, upstream), strict=True):
        assert torch.allclose(ours, others, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "tiny-phi", "tiny-phi3"])
def test_rows_of_a_model_that_follow_on_prefixes(name, fp32):
    """Hidden states, keys and values are those of each row alone; another prefix is another row, whatever follows."""
    import torch

    model = models.load_for_inference(profiles.choose(name))
    prefixes = [decoding.prefix(model, ids) for ids in ([5, 6, 7], [], [5, 6])]
    of_row = [0, 1, 1, 2, 0, 0]
    own = [[8, 9], [5, 6, 7, 8, 9], [5, 6, 8], [8, 9], [8, 9, 10, 11], [12]]
    with torch.inference_mode():
        rows = packing.Rows(own, [prefixes[i] for i in of_row])
        rows.kept = []
        hidden = packing.run(model, rows)
        for number, (ids, kind) in enumerate(zip(own, of_row, strict=True)):
            whole = [*prefixes[kind].ids, *ids]
            alone = model.model(input_ids=torch.tensor([whole]), use_cache=True)
            assert torch.allclose(hidden[rows.places[number]], alone.last_hidden_state[0, -len(ids) :], atol=1e-5)
            for kept, layer in zip(rows.kept, alone.past_key_values.layers, strict=True):
                for part, expected in zip(kept, (layer.keys, layer.values), strict=True):
                    assert torch.allclose(part[:, rows.places[number]], expected[0, :, -len(ids) :], atol=1e-5)
    assert rows.tokens == 4 + 1 + 6 + 2


def test_without_rows_it_is_sdpa_and_a_window_or_dropout_keeps_the_padding(fp32):
    import torch

    model = models.load_base(profiles.choose("tiny"))
    assert not packing.can_take(model, 9), "sdpa"
    before = model(input_ids=torch.arange(9)[None]).logits
    model.set_attn_implementation(packing.without_padding())
    assert torch.equal(model(input_ids=torch.arange(9)[None]).logits, before)
    assert packing.can_take(model, packing.LONGEST) and not packing.can_take(model, packing.LONGEST + 1)
    model.config.sliding_window = 8
    assert packing.can_take(model, 8) and not packing.can_take(model, 9)
    assert packing.can_do_without_padding(model)
    for name, value in (("attention_dropout", 0.1), ("attn_logit_softcapping", 30.0), ("layer_types", ["full_attention", "conv"])):
        before = getattr(model.config, name, None)
        setattr(model.config, name, value)
        assert not packing.can_do_without_padding(model)
        setattr(model.config, name, before)


def test_values_of_another_width_than_the_queries(fp32):
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 1, True
    given = [torch.randn(1, 2, 7, width, requires_grad=True) for width in (16, 16, 8)]
    found, _ = ALL_ATTENTION_FUNCTIONS[packing.without_padding()](module, *given, None, rows=packing.Rows([[1] * 4, [2] * 3]))
    expected = torch.cat([sdpa_attention_forward(module, *parts, None)[0] for parts in zip(*(x.split([4, 3], 2) for x in given), strict=True)], 1)
    assert torch.allclose(found, expected, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(torch.autograd.grad(found.sum(), given), torch.autograd.grad(expected.sum(), given), strict=True))


@pytest.mark.parametrize("name", ["tiny", "tiny-phi", "tiny-phi3"])
def test_activations_that_are_computed_again_are_those_of_the_same_rows(name, pairs, fp32):
    import torch

    profile = profiles.choose(name)
    tokenizer, model = models.load_tokenizer(profile), models.add_adapter(models.load_base(profile), profile).train()
    fused.install(model, runtime.device())
    inputs = training.collate(training.encode(tokenizer, profile, [("translate", r) for r in pairs[:3]]), tokenizer.pad_token_id)
    weights = [p for p in model.parameters() if p.requires_grad]
    for weight in weights:
        torch.nn.init.normal_(weight, std=0.05)
    kept = torch.autograd.grad(training.labelled_loss(model, inputs)[0], weights)
    model.enable_input_require_grads()
    model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = torch.autograd.grad(training.labelled_loss(model, inputs)[0], weights)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(kept, again, strict=True))
