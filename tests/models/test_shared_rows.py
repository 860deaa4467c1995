"""Shared-prefix and packed rows against plain rows, the oracle: values and parameter gradients.

fp32 on a random Llama. The layouts add the same numbers in another order: values within 1e-5 nats, gradients within
1e-5 of their largest entry.
"""

from dataclasses import replace

import pytest
import torch

from algorithms.common.data.batches import collate
from algorithms.common.data.template import Example
from algorithms.common.models import model as models_module
from algorithms.common.models import role as role_module
from algorithms.common.support.errors import ConfigError
from role_setup import BOTH
from row_setup import assert_same, examples, randomise, values_and_gradients

LAYOUTS = {"shared": ("shared", None), "packed": ("shared", 80)}


@BOTH
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_agree_for_every_k(make_models, attention, lora):
    models = make_models(attention=attention, lora=lora)
    models.add_role("policy", trainable=True, seed=1)
    if lora:
        randomise(models)
    for k in range(1, 6):
        data = examples(k)
        wanted = values_and_gradients(models, collate(data, "plain"))
        for layout in LAYOUTS.values():
            assert_same(values_and_gradients(models, collate(data, *layout)), wanted)


@BOTH
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_agree_under_gradient_checkpointing(make_models, attention, lora):
    data = examples(3)
    wanted = None
    for checkpointing in (False, True):
        models = make_models(attention=attention, lora=lora, gradient_checkpointing=checkpointing)
        models.add_role("policy", trainable=True, seed=1)
        if lora:
            randomise(models)
        if wanted is None:
            wanted = values_and_gradients(models, collate(data, "plain"))
        for layout in LAYOUTS.values():
            assert_same(values_and_gradients(models, collate(data, *layout)), wanted)
    with models.roles.use("policy"):
        assert any(getattr(module, "gradient_checkpointing", False) for module in models.roles.module.modules())


def test_ragged_k_agrees(make_models):
    models = make_models()
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    data = [*examples(4, 1), *examples(1, 2), *examples(2, 1, seed=3)]
    wanted = values_and_gradients(models, collate(data, "plain"))
    for layout in LAYOUTS.values():
        assert_same(values_and_gradients(models, collate(data, *layout)), wanted)


def test_values_equal_the_whole_models_own_logits(make_models):
    """One unpadded row through ``forward``, shifted by hand: nothing of this project in between."""
    models = make_models()
    (one,) = examples(2, 1)
    found = models.role("base").token_logprobs(collate([one]))
    for k, response in enumerate(one.responses):
        ids = torch.tensor([one.prompt + response])
        logp = models.roles.module(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(found[0, k, :len(response)], logp[len(one.prompt) - 1:], atol=1e-5, rtol=0)
        assert (found[0, k, len(response):] == 0).all()


def test_response_logprobs_is_the_sum(make_models):
    models = make_models()
    batch = collate(examples(3))
    role = models.role("base")
    torch.testing.assert_close(role.response_logprobs(batch), role.token_logprobs(batch).sum(-1))


def test_a_response_is_not_moved_by_its_neighbours(make_models):
    models = make_models()
    (one,) = examples(3, 1)
    other = Example(one.prompt, [one.responses[0], [7] * 9, [8]], [True] * 3, None, "other")
    role = models.role("base")
    first, second = (role.token_logprobs(collate([e])) for e in (one, other))
    length = len(one.responses[0])
    assert torch.equal(first[0, 0, :length], second[0, 0, :length])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_check_layout_passes_when_the_mask_is_right(make_models, attention):
    models = make_models(attention=attention)
    models.add_role("policy", trainable=True, seed=1)
    models.check_layout(examples(3))


def bool_mask(batch, attention, dtype):
    return good_mask(batch, "sdpa", dtype)


def leaking_mask(batch, attention, dtype):
    """Responses see their older siblings."""
    length = batch.input_ids.shape[1]
    seen = torch.ones(len(batch.input_ids), 1, length, length, dtype=torch.bool).tril()
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


good_mask = role_module.attention_mask


@pytest.mark.parametrize("broken", [bool_mask, leaking_mask])
def test_check_layout_stops_at_a_broken_mask(make_models, monkeypatch, broken):
    models = make_models(attention="eager")
    models.add_role("policy", trainable=True, seed=1)

    def only_where_needed(batch, attention, dtype):
        return None if batch.simple else broken(batch, attention, dtype)

    monkeypatch.setattr(role_module, "attention_mask", only_where_needed)
    with pytest.raises(ConfigError, match=r"(?s)model\.rows.*random-llama.*llama, eager.*model\.rows=plain"):
        models.check_layout(examples(3))


def test_check_layout_knows_rounding_where_nothing_needs_padding(make_models):
    """Rows of one length leave no other padding to compare with; large logits (GPT-2's are near −100) round more."""
    models = make_models(attention="sdpa")
    with torch.no_grad():
        models.roles.module.lm_head.weight.mul_(300)
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    one = Example(list(range(5, 17)), [list(range(20 + k, 29 + k)) for k in range(3)], [True] * 3, None, "one length")
    models.check_layout([one])


def test_check_layout_leaves_plain_rows_and_bare_prompts_alone(make_models, monkeypatch):
    monkeypatch.setattr(models_module, "collate", None)  # it must not even lay them out
    make_models(rows="plain").check_layout(examples(3))
    make_models().check_layout([Example([1, 2], [], [], None, "bare")])


def test_a_bf16_autocast_keeps_the_layouts_together(make_models):
    """Not exact any more, but no further apart than plain rows under other padding: that is what check_layout asks."""
    models = make_models(attention="sdpa")
    models.autocast_dtype = torch.bfloat16
    models.add_role("policy", trainable=True, seed=1)
    models.check_layout(examples(3))


# Which examples go through the model together


def test_answers_come_in_the_examples_order(make_models):
    models = make_models()
    data = [replace(one, record=str(number)) for number, one in enumerate(examples(k=2, count=7)[::-1])]
    passes = []

    def answer(batch):
        passes.append(list(batch.records))
        return [f"{record}: {int(mask.sum())}" for record, mask in zip(batch.records, batch.mask)]

    found = models.of_each(data, 3, "reading", "records", answer)
    assert found == [f"{number}: {sum(map(len, one.responses))}" for number, one in enumerate(data)]
    assert max(map(len, passes)) <= 3
    lengths = [data[int(record)].length for one in passes for record in one]
    assert lengths == sorted(lengths, reverse=True), "the longest first: memory runs out at the start or never"
    with pytest.raises(ValueError, match="zip"):
        models.of_each(data, 3, "reading", "records", lambda batch: [0])


@pytest.mark.parametrize("threads", [1, 3])
def test_many_small_passes_on_a_cpu_alone(make_models, monkeypatch, threads):
    """What a pass costs beside its tokens takes one core, they take all."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    models = make_models()
    cost = threads * 2**20 // models.hf_config.hidden_size ** 2  # of a pass, in tokens
    lengths = [2 * cost, 8, 2 * cost - 8, 4]
    for apart, wanted in ((5, [[0, 1]]), (7, [[0], [1]])):  # sixths of what another pass costs
        assert models.passes([2 * cost, 2 * cost - apart * cost // 6], 2) == wanted
    assert models.passes(lengths, 4) == [[0, 2], [1, 3]]  # 6 · cost and 16 more tokens; all at once it is 9 · cost
    models.device = torch.device("meta")
    assert models.passes(lengths, 4) == [[0, 2, 1, 3]]
