"""Attention of one token a row is that of sdpa, and models for inference on a CPU use it there alone."""

from __future__ import annotations

import pytest

from helpers import attention, models, profiles


@pytest.mark.parametrize("heads", [(4, 1), (4, 2), (4, 4)])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("attended", [1, 3e3, 2e6])
def test_attention_of_one_token_is_that_of_sdpa(heads, mask, attended, monkeypatch):
    """Rows one by one, a few at a time (the last chunk smaller), and all together."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    monkeypatch.setattr(attention, "ATTENDED", attended)
    ours = ALL_ATTENTION_FUNCTIONS[attention.one_token()]
    module = torch.nn.Module()
    module.num_key_value_groups = heads[0] // heads[1]
    query, key, value = (torch.randn(7, h, n, 16) for h, n in ((heads[0], 1), (heads[1], 9), (heads[1], 9)))
    # As the cache gives them: a part of a larger buffer.
    key, value = (torch.cat([x, x], 2)[:, :, :9] for x in (key, value))
    allowed = torch.rand(7, 1, 1, 9) > 0.4
    allowed[..., -1] = True
    given = {"none": None, "bool": allowed, "float": torch.where(allowed, 0.0, -1e9)}[mask]
    with torch.inference_mode():
        found, expected = (f(module, query, key, value, given, scaling=0.3)[0] for f in (ours, sdpa_attention_forward))
    assert found.shape == expected.shape == (7, 1, heads[0], 16)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("heads", [(4, 1), (4, 2), (4, 4)])
@pytest.mark.parametrize("attended", [1, 2e6])
@pytest.mark.parametrize("window", [None, 9, 6])
def test_what_rows_follow_on_is_attended_to_as_if_it_stood_before_each(heads, attended, window, monkeypatch):
    """Three rows on one prefix, two on a shorter one, one on none; a window that hides part of a prefix, or all of it."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    monkeypatch.setattr(attention, "ATTENDED", attended)
    ours, module = ALL_ATTENTION_FUNCTIONS[attention.one_token()], torch.nn.Module()
    module.num_key_value_groups, module.layer_idx = heads[0] // heads[1], 1
    states = {n: tuple(tuple(torch.randn(1, heads[1], n, 16) for _ in range(2)) for _ in range(2)) for n in (7, 3)}
    of_row, written = [7, 3, 0, 7, 7, 3], 5
    query, key, value = (torch.randn(6, h, n, 16) for h, n in ((heads[0], 1), (heads[1], written), (heads[1], written)))
    before = attention.Before([states.get(n, ()) for n in of_row])
    assert before.lengths.tolist() == of_row and len(before.groups) == 2
    places = before.lengths + written - 1
    with torch.inference_mode():
        found = ours(module, query, key, value, None, scaling=0.3, before=before, places=places, sliding_window=window)[0]
        for row, length in enumerate(of_row):
            whole = [torch.cat([states[length][1][part], x[row : row + 1]], 2) if length else x[row : row + 1] for part, x in enumerate((key, value))]
            seen = torch.arange(length + written) > places[row] - (window or 99)
            expected = sdpa_attention_forward(module, query[row : row + 1], *whole, seen[None, None, None], scaling=0.3)[0]
            assert torch.allclose(found[row : row + 1], expected, atol=1e-6), row


def test_prompts_and_training_are_left_to_sdpa(monkeypatch):
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ours, module, called = ALL_ATTENTION_FUNCTIONS[attention.one_token()], torch.nn.Module(), []
    do = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: called.append(a[0].shape[2]) or do(*a, **k))
    one, two, cache = torch.randn(2, 1, 1, 8), torch.randn(2, 1, 2, 8), torch.randn(2, 1, 5, 8)
    with torch.inference_mode():
        ours(module, one, cache, cache, None)
        assert not called
        ours(module, two, cache, cache, None)
    assert called == [2]
    ours(module, one, cache, cache, None)
    assert called == [2, 1], "with gradients"


@pytest.mark.parametrize("name", ["tiny", "tiny-phi", "tiny-phi3"])
def test_a_model_for_inference_attends_with_it_and_says_the_same(name, monkeypatch, fp32):
    import torch

    profile = profiles.choose(name)
    model = models.load_for_inference(profile)
    ids = torch.arange(20, 30)[None]
    called, do = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: called.append(a[0].shape[2]) or do(*a, **k))
    with torch.inference_mode():
        held = model(input_ids=ids[:, :9], use_cache=True).past_key_values
        step = model(input_ids=ids[:, 9:], past_key_values=held, use_cache=True).logits[:, -1]
        whole = model(input_ids=ids).logits[:, -1]
    assert torch.allclose(step, whole, atol=1e-5)
    assert called == [9, 9, 10, 10], "two layers: prompts by sdpa, the one token not"
