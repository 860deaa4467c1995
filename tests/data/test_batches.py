"""Rows, masks and indices on an example a reader can follow, then properties."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.data.batches import (
    attention_mask,
    collate,
    counts,
    least_padded,
    longest_first,
)
from algorithms.common.data.template import Example


def example(prompt, responses, scores=None, finished=None):
    return Example(prompt, responses, finished or [True] * len(responses), scores, "record")


FIRST = example([11, 12], [[21, 22, 23], [31]], scores=[1.0, 0.0])
SECOND = example([13], [[41, 42]], finished=[False])


def test_shared_rows_by_hand():
    batch = collate([FIRST, SECOND])
    assert batch.input_ids.tolist() == [[11, 12, 21, 22, 23, 31], [13, 41, 42, 0, 0, 0]]
    # the second response starts at 2 again
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 2], [0, 1, 2, 0, 0, 0]]
    assert batch.group.tolist() == [[0] * 6, [1, 1, 1, -1, -1, -1]]
    assert batch.segment.tolist() == [[0, 0, 1, 1, 1, 2], [0, 1, 1, 0, 0, 0]]
    # the prompt's last token (row 0, column 1) predicts the first token of both responses
    assert batch.source.tolist() == [[[1, 2, 3], [1, 0, 0]], [[6, 7, 0], [0, 0, 0]]]
    assert batch.labels.tolist() == [[[21, 22, 23], [31, 0, 0]], [[41, 42, 0], [0, 0, 0]]]
    assert batch.mask.tolist() == [[[True] * 3, [True, False, False]], [[True, True, False], [False] * 3]]
    assert batch.last.tolist() == [[4, 5], [8, 0]]
    assert batch.present.tolist() == [[True, True], [True, False]]
    assert batch.finished.tolist() == [[True, True], [False, False]]
    assert batch.scores[0].tolist() == [1.0, 0.0] and batch.scores[1].isnan().all()
    assert batch.keys == (FIRST.key, SECOND.key) and len(batch) == 2 and not batch.simple


def test_plain_rows_by_hand():
    batch = collate([FIRST, SECOND], "plain")
    assert batch.input_ids.tolist() == [[11, 12, 21, 22, 23], [11, 12, 31, 0, 0], [13, 41, 42, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0], [0, 1, 2, 0, 0]]
    assert batch.group.tolist() == [[0] * 5, [0, 0, 0, -1, -1], [1, 1, 1, -1, -1]]
    assert batch.source.tolist() == [[[1, 2, 3], [6, 0, 0]], [[10, 11, 0], [0, 0, 0]]]
    assert batch.last.tolist() == [[4, 7], [12, 0]]
    assert batch.simple


def test_packed_rows_by_hand():
    third = example([14, 15, 16], [[51]])
    batch = collate([FIRST, SECOND, third], pack_to=9)  # 6 + 3 tokens fill one row, 4 take another
    assert batch.input_ids.tolist() == [[11, 12, 21, 22, 23, 31, 13, 41, 42], [14, 15, 16, 51, 0, 0, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 0, 1, 2], [0, 1, 2, 3, 0, 0, 0, 0, 0]]
    assert batch.group.tolist() == [[0] * 6 + [1] * 3, [2] * 4 + [-1] * 5]
    assert batch.source[1, 0].tolist() == [6, 7, 0] and batch.source[2, 0].tolist() == [11, 0, 0]
    assert batch.last.tolist() == [[4, 5], [8, 0], [12, 0]]


def test_attention_mask_by_hand():
    batch = collate([example([11, 12], [[21, 22], [31]])])  # columns: x1 x2 | a1 a2 | b1
    seen = attention_mask(batch, "sdpa", torch.float32)
    assert seen.dtype == torch.bool and seen.shape == (1, 1, 5, 5)
    assert seen[0, 0].int().tolist() == [[1, 0, 0, 0, 0],
                                         [1, 1, 0, 0, 0],
                                         [1, 1, 1, 0, 0],
                                         [1, 1, 1, 1, 0],
                                         [1, 1, 0, 0, 1]]  # b1 sees the prompt and itself, not the first response
    added = attention_mask(batch, "eager", torch.bfloat16)
    assert added.dtype == torch.bfloat16
    assert torch.equal(added == 0, seen) and (added[~seen] == torch.finfo(torch.bfloat16).min).all()


def test_packed_records_do_not_see_each_other():
    batch = collate([FIRST, SECOND], pack_to=64)
    seen = attention_mask(batch, "sdpa", torch.float32)[0, 0]
    assert not seen[6:, :6].any() and not seen[:6, 6:].any() and seen[8, 6:].all()


def test_plain_causal_attention_needs_no_mask():
    assert attention_mask(collate([FIRST, SECOND], "plain"), "sdpa", torch.float32) is None
    assert attention_mask(collate([SECOND]), "eager", torch.float32) is None  # one response: already causal


def test_no_row_of_the_mask_is_empty():
    """Padding, too, attends to something: the softmax of an empty row would be NaN."""
    seen = attention_mask(collate([FIRST, SECOND]), "sdpa", torch.float32)
    assert seen.any(-1).all()


def test_counts():
    assert counts([FIRST, SECOND]) == {"rows": 2, "responses": 3, "tokens": 6}


def test_ragged_k_and_bare_prompts():
    batch = collate([example([1], []), FIRST, SECOND])
    assert batch.present.sum(-1).tolist() == [0, 2, 1] and not batch.mask[0].any()
    assert batch.mask.sum((-1, -2)).tolist() == [0, 4, 2]
    assert collate([example([1], []), FIRST], "plain").input_ids.shape[0] == 2  # nothing to score: no row


def test_responses_of_length_one():
    batch = collate([example([7, 8], [[1], [2], [3]])])
    assert batch.source[0, :, 0].tolist() == [1, 1, 1] and batch.last.tolist() == [[2, 3, 4]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 2, 2]]


def test_groups_of_least_padding_by_hand():
    lengths = [10, 100, 90, 12]
    # 200 + 24 + 2 · 20 = 264; all at once 420, one by one 292
    assert least_padded(lengths, 4, pass_cost=20) == [[1, 2], [3, 0]]
    assert least_padded(lengths, 4, pass_cost=1) == [[1], [2], [3], [0]]
    assert least_padded(lengths, 4, pass_cost=1000) == [[1, 2, 3, 0]]
    assert least_padded(lengths, 1, pass_cost=1000) == longest_first(lengths, 1)
    assert least_padded([], 4, pass_cost=1) == []


def parts(items):
    """Every way to cut a sequence."""
    yield [items]
    for first in range(1, len(items)):
        yield from ([items[:first], *rest] for rest in parts(items[first:]))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 8), st.integers(0, 60))
@settings(deadline=None)
def test_no_other_cut_costs_less(lengths, size, pass_cost):
    found = least_padded(lengths, size, pass_cost)
    assert sum(found, []) == longest_first(lengths, len(lengths))[0]
    assert max(map(len, found)) <= size

    def cost(groups):
        return sum(lengths[group[0]] * len(group) + pass_cost for group in groups)

    allowed = [groups for groups in parts(sum(found, [])) if max(map(len, groups)) <= size]
    assert cost(found) == min(map(cost, allowed))


def test_wrong_layouts_are_refused():
    with pytest.raises(ValueError, match="layout"):
        collate([FIRST], "rows")
    with pytest.raises(ValueError, match="pack_to"):
        collate([FIRST], "plain", pack_to=8)


examples_ = st.lists(
    st.builds(lambda prompt, responses: example(prompt, responses),
              st.lists(st.integers(1, 99), min_size=1, max_size=6),
              st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=5), min_size=1, max_size=4)),
    min_size=1, max_size=5)
layouts = st.sampled_from([("shared", None), ("plain", None), ("shared", 12), ("shared", 40)])


@settings(max_examples=60, deadline=None)
@given(examples_, layouts)
def test_every_label_is_where_its_source_says(examples, layout):
    batch = collate(examples, *layout)
    flat_ids, flat_positions = batch.input_ids.flatten(), batch.position_ids.flatten()
    for b, one in enumerate(examples):
        for k, response in enumerate(one.responses):
            count = len(response)
            assert batch.labels[b, k][batch.mask[b, k]].tolist() == response
            before = flat_ids[batch.source[b, k, :count]].tolist()
            assert before == [one.prompt[-1], *response[:-1]]
            positions = flat_positions[batch.source[b, k, :count]].tolist()
            assert positions == list(range(len(one.prompt) - 1, len(one.prompt) + count - 1))
            assert flat_ids[batch.last[b, k]] == response[-1]
    assert (batch.labels[~batch.mask] == 0).all() and (batch.source[~batch.mask] == 0).all()


@settings(max_examples=60, deadline=None)
@given(examples_, layouts)
def test_a_token_sees_its_own_prompt_and_response_and_nothing_else(examples, layout):
    batch = collate(examples, *layout)
    seen = attention_mask(batch, "sdpa", torch.float32)
    if seen is None:
        length = batch.input_ids.shape[1]
        seen = torch.ones(len(batch.input_ids), 1, length, length, dtype=torch.bool).tril()
    for b, one in enumerate(examples):
        for k, response in enumerate(one.responses):
            row, column = divmod(batch.last[b, k].item(), batch.input_ids.shape[1])
            assert batch.input_ids[row][seen[row, 0, column]].tolist() == one.prompt + response


@settings(max_examples=40, deadline=None)
@given(examples_, layouts, st.integers(0, 5))
def test_masks_never_depend_on_token_ids(examples, layout, token):
    """Not even when every id is the padding's or the end token's."""
    same = [example([token] * len(one.prompt), [[token] * len(response) for response in one.responses])
            for one in examples]
    batch, other = collate(examples, *layout), collate(same, *layout)
    for name in ("position_ids", "group", "segment", "source", "mask", "last", "present", "finished"):
        assert torch.equal(getattr(batch, name), getattr(other, name)), name


def test_nothing_is_edited_in_place():
    import copy

    before = copy.deepcopy([FIRST, SECOND])
    batch = collate([FIRST, SECOND])
    tensors = {f.name: getattr(batch, f.name).clone()
               for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)}
    attention_mask(batch, "eager", torch.float32)
    batch.to(torch.device("cpu"))
    assert [FIRST, SECOND] == before
    for name, value in tensors.items():
        torch.testing.assert_close(getattr(batch, name), value, equal_nan=True, rtol=0, atol=0)
