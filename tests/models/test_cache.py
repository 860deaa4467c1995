"""Places for keys and values: filled in turn, seen as far as they are filled."""

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from algorithms.common.models.cache import GrowingLayer
from algorithms.common.models.sampling import Sampling, prefill, sample, visible

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


def test_it_holds_what_transformers_growing_layer_holds():
    torch.manual_seed(0)
    own, theirs = GrowingLayer(9), DynamicLayer()
    for tokens in (4, 1, 1, 3):
        given = [torch.randn(2, 3, tokens, size) for size in (5, 6)]  # keys and values may differ in size
        for found, wanted in zip(own.update(*given), theirs.update(*given), strict=True):
            assert torch.equal(found, wanted)
        assert own.get_seq_length() == theirs.get_seq_length()
        assert own.get_mask_sizes(1) == theirs.get_mask_sizes(1)


def test_a_token_is_added_in_place_and_rows_are_taken_out():
    layer = GrowingLayer(4)
    first, _ = layer.update(*torch.randn(2, 3, 1, 2, 5))
    place = layer.keys.data_ptr()
    layer.update(*torch.randn(2, 3, 1, 1, 5))
    assert layer.keys.data_ptr() == first.data_ptr() == place and layer.keys.shape == (3, 1, 4, 5)
    layer.reorder_cache(torch.tensor([2, 0]))
    after, _ = layer.update(*torch.randn(2, 2, 1, 1, 5))
    assert torch.equal(after[:, :, :2], first[[2, 0]])


def test_what_does_not_fit_is_refused():
    layer = GrowingLayer(3)
    layer.update(*torch.randn(2, 3, 1, 2, 5))
    for rows, tokens in ((3, 2), (1, 1)):
        told = f"found {rows} rows up to place {2 + tokens}; expected 3 rows of at most 3"
        with pytest.raises(ValueError, match=told):
            layer.update(*torch.randn(2, rows, 1, tokens, 5))
    layer.reset()
    assert layer.get_seq_length() == 0 and layer.update(*torch.randn(2, 3, 1, 3, 5))[0].shape == (3, 1, 3, 5)


@pytest.mark.parametrize("options", [{"rows": "plain"}, {"trust_remote_code": True}])
def test_code_of_ones_own_is_given_the_mask_it_makes_its_own_from(make_models, options):
    """What takes no mask of four dimensions has plain rows; code that is not of transformers was seen by nobody."""
    models, plain = make_models(), make_models(**options)
    mask = torch.tensor([[0, 1], [1, 1]])
    assert visible(plain, mask, 2).tolist() == [[0, 1, 1, 1], [1] * 4] and visible(models, mask, 2).dim() == 4
    found, wanted = (sample(one, "base", PROMPTS, Sampling(8), seed=0) for one in (plain, models))
    assert found == wanted


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_step_with_a_cache_is_the_last_state_without(make_models, attention):
    models = make_models(attention=attention)
    model = models.roles.module
    with torch.no_grad():
        beginning = prefill(models, PROMPTS, 3)
        width, seen, rows = beginning.mask.shape[1], visible(models, beginning.mask, 3), [list(one) for one in PROMPTS]
        assert seen.shape == (3, 1, 1, width + 3)
        for step in range(3):
            token = torch.tensor([[20 + step], [30 + step], [40 + step]])
            found = model(input_ids=token, attention_mask=seen[..., :width + step + 1],
                          position_ids=beginning.position + step, past_key_values=beginning.cache).logits[:, -1]
            for row, one in zip(rows, token.tolist()):
                row += one
            wanted = torch.stack([model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows])
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
