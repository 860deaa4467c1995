"""Log-probabilities of responses: arithmetic by hand first, then the chunked form, the exact KL and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.logprobs import chunked_token_logprobs, exact_kl, length_normalized, per_length, token_logprobs

LOGITS = torch.tensor([[[1, 0, -1], [.5, .5, 0], [2, -1, 0], [0, 0, 0], [9, 0, 0]],
                       [[0, 1, 2], [1, 1, 1], [-1, 0, 3], [.2, .1, 0], [0, 9, 0]]], dtype=torch.float64)
LABELS = torch.tensor([[-100, -100, 1, 2, -100], [-100, 0, 2, 1, 1]])  # beside the ids; −100: prompt or padding


def aligned(logits, labels):
    """Shifted once: logits[:, t] predicts labels[:, t]. Masked labels become 0, in a copy."""
    mask = labels[:, 1:] != -100
    return logits[:, :-1], labels[:, 1:].masked_fill(~mask, 0), mask


def test_token_logprobs_by_hand():
    logits, labels, mask = aligned(LOGITS, LABELS)
    values = token_logprobs(logits, labels) * mask
    expected = torch.tensor([[0, -0.958020, -2.169846, 0], [-2.407606, -1.098612, -3.065884, -1.101943]])
    torch.testing.assert_close(values, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(values.sum(-1), torch.tensor([-3.127866, -7.674045]), atol=2e-6, rtol=0)
    torch.testing.assert_close(values.sum(-1) / mask.sum(-1), torch.tensor([-1.563933, -1.918511]), atol=2e-6, rtol=0)


def test_length_normalized_is_each_response_s_mean():
    logits, labels, mask = aligned(LOGITS, LABELS)
    values = token_logprobs(logits, labels)
    normalized = length_normalized(values.unsqueeze(1), mask.unsqueeze(1))  # two prompts with one response each
    torch.testing.assert_close(normalized, torch.tensor([[-1.563933], [-1.918511]]), atol=2e-6, rtol=0)
    shorter = mask.clone()
    shorter[1, -1] = False  # what a collator that takes pad = EOS for padding does
    wrong = length_normalized(values.unsqueeze(1), shorter.unsqueeze(1))
    torch.testing.assert_close(wrong[1], torch.tensor([(-7.674045 + 1.101943) / 3]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("junk", [0.0, -9.0, -torch.inf, torch.nan])
def test_length_normalized_counts_the_mask_only(junk):
    """Lengths 2, 4 and 0: −3/2 and −2/4; another exponent e divides by 2^e and 4^e."""
    logprobs = torch.full((1, 3, 5), junk)
    logprobs[0, 0, :2], logprobs[0, 1, :4] = torch.tensor([-1.0, -2.0]), -0.5
    mask = torch.zeros(1, 3, 5, dtype=torch.bool)
    mask[0, 0, :2] = mask[0, 1, :4] = True
    logprobs.requires_grad_()
    found = length_normalized(logprobs, mask)
    torch.testing.assert_close(found, torch.tensor([[-1.5, -0.5, 0.0]]))
    for exponent, expected in ((0.0, [-3.0, -2.0, 0.0]), (2.0, [-0.75, -0.125, 0.0])):
        torch.testing.assert_close(length_normalized(logprobs, mask, length_penalty=exponent), torch.tensor([expected]))
    torch.testing.assert_close(per_length(torch.tensor([[-3.0, -2.0, 0.0]]), mask), found)
    found.sum().backward()
    torch.testing.assert_close(logprobs.grad, mask / torch.tensor([2.0, 4.0, 1.0]).view(1, 3, 1))


def test_the_length_normalisation_is_one():
    from algorithms import rrhf

    assert rrhf.length_normalized is length_normalized


def test_gradient_by_hand():
    whole = LOGITS.clone().requires_grad_()
    logits, labels, mask = aligned(whole, LABELS)
    (-token_logprobs(logits, labels)[mask].mean()).backward()
    expected = torch.tensor([[0, 0, 0], [0.063942, -0.102725, 0.038783], [0.140632, 0.007002, -0.147634]],
                            dtype=torch.float64)
    torch.testing.assert_close(whole.grad[0, :3], expected, atol=2e-6, rtol=0)
    assert (whole.grad[0, 0] == 0).all() and (whole.grad[:, -1] == 0).all()


def test_empty_mask_gives_zero_and_no_nan_gradient():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    values = token_logprobs(logits, torch.zeros(2, 3, dtype=torch.long))
    loss = length_normalized(values.unsqueeze(1), torch.zeros(2, 1, 3, dtype=torch.bool)).sum()
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_arguments_are_not_edited():
    logits, labels = torch.randn(2, 3, 5), torch.randint(0, 5, (2, 3))
    before = logits.clone(), labels.clone()
    token_logprobs(logits, labels)
    assert torch.equal(logits, before[0]) and torch.equal(labels, before[1])


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(4, 1000, dtype=torch.bfloat16)
    values = token_logprobs(logits, torch.zeros(4, dtype=torch.long))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, logits.double().log_softmax(-1)[:, 0].float(), atol=1e-5, rtol=0)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    assert token_logprobs(logits, torch.tensor([0])).item() == 0
    assert token_logprobs(logits, torch.tensor([1])).item() == -2e4


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 40), chunk=st.integers(1, 45), seed=st.integers(0, 10**6))
def test_chunked_equals_whole(n, chunk, seed):
    torch.manual_seed(seed)
    weight = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(n, 5, dtype=torch.float64, requires_grad=True)
    labels, share = torch.randint(0, 7, (n,)), torch.randn(n)

    def head(states):
        return states @ weight.T

    whole = token_logprobs(head(hidden), labels)
    parts = chunked_token_logprobs(hidden, labels, head, chunk)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert parts.dtype == torch.float32
    if n:
        wanted = torch.autograd.grad((whole * share).sum(), (weight, hidden))
        found = torch.autograd.grad((parts * share).sum(), (weight, hidden))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 40), chunk=st.integers(1, 45), seed=st.integers(0, 10**6))
def test_a_head_that_does_not_learn_gives_the_same(n, chunk, seed):
    """Whatever the head does to each state: here a soft cap, a scale and a temperature."""
    torch.manual_seed(seed)
    weight = 3 * torch.randn(7, 5, dtype=torch.float64)
    hidden = torch.randn(n, 5, dtype=torch.float64, requires_grad=True)
    labels, share = torch.randint(0, 7, (n,)), torch.randn(n)

    def head(states):
        return 4 * torch.tanh(states @ weight.T / 4) * 0.7 / 1.3

    whole = token_logprobs(head(hidden), labels)
    parts = chunked_token_logprobs(hidden, labels, head, chunk, head_learns=False)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert parts.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(parts, chunked_token_logprobs(hidden, labels, head, chunk)), "PPO starts at a ratio of 1"
    if n:
        wanted = torch.autograd.grad((whole * share).sum(), hidden)
        found = torch.autograd.grad((parts * share).sum(), hidden)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_head_that_does_not_learn_is_asked_once_and_may_be_in_half_precision():
    """The states' gradient is that of float32 but for the rounding of its factors."""
    asked, weight = [], torch.randn(300, 16)
    hidden, labels = torch.randn(40, 16).bfloat16().requires_grad_(), torch.randint(0, 300, (40,))

    def head(states):
        asked.append(len(states))
        return states @ weight.to(states.dtype).T

    values = chunked_token_logprobs(hidden, labels, head, 16, head_learns=False)
    values.sum().backward()
    assert asked == [16, 16, 8] and values.dtype == torch.float32 and hidden.grad.dtype == torch.bfloat16
    exact = hidden.detach().float().requires_grad_()
    token_logprobs(exact @ weight.bfloat16().float().T, labels).sum().backward()
    assert (hidden.grad.float() - exact.grad).norm() < 0.01 * exact.grad.norm()


def test_chunks_never_hold_more_logits_than_asked():
    seen = []

    def head(states):
        seen.append(len(states))
        return states

    chunked_token_logprobs(torch.randn(10, 4), torch.zeros(10, dtype=torch.long), head, 3)
    assert seen == [3, 3, 3, 1]


def test_exact_kl_by_hand():
    p, q = torch.tensor([[.5, .3, .2]]), torch.tensor([[.4, .4, .2]])
    assert exact_kl(p.log(), q.log()).item() == pytest.approx(0.025267, abs=2e-6)
    assert exact_kl(q.log(), p.log()).item() == pytest.approx(0.025815, abs=2e-6)  # the other direction differs


def test_exact_kl_equals_the_sum_over_the_vocabulary():
    logits, ref_logits = torch.randn(6, 11), torch.randn(6, 11)
    p, q = logits.double().softmax(-1), ref_logits.double().softmax(-1)
    naive = torch.stack([sum(p[n, v] * (p[n, v] / q[n, v]).log() for v in range(11)) for n in range(6)])
    torch.testing.assert_close(exact_kl(logits, ref_logits).double(), naive, atol=1e-6, rtol=0)
    assert (exact_kl(logits, logits) == 0).all()
    truncated = torch.tensor([[0.0, 0.0, -torch.inf]])  # ½ log(½ / ¼) + ½ log(½ / ½)
    reference = torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert exact_kl(truncated, reference).item() == pytest.approx(0.5 * math.log(2), abs=1e-6)
    torch.testing.assert_close(exact_kl(logits + 5, ref_logits - 3), exact_kl(logits, ref_logits), atol=1e-5, rtol=0)
