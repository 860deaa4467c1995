"""Sampling: greedy equals ``generate``, and what a sequence draws is its own affair."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.data.batches import collate, longest_first
from algorithms.common.data.template import Example
from algorithms.common.models import beam, sampling
from algorithms.common.models.sampling import PEAKED, Sampling, draw, prefill, sample, warp
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.seeds import uniforms
from row_setup import examples, randomise

PROMPTS = [example.prompt for example in examples(1, 6)]  # 3 to 23 tokens


@pytest.fixture
def models(make_models):
    models = make_models(attention="sdpa")
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    return models


@pytest.fixture
def stopping(models):
    """A policy that ends a response soon and at different lengths: a third of the vocabulary ends it."""
    models.template.stop_ids = list(range(0, 1525, 8))
    return models


def ids(results):
    return [[one.ids for one in samples] for samples in results]


def test_greedy_equals_generate(models):
    found = sample(models, "policy", PROMPTS, Sampling(max_new_tokens=12, temperature=0), seed=0)
    for prompt, (one,) in zip(PROMPTS, found):
        with torch.no_grad(), models.roles.use("policy"):
            wanted = models.roles.module.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=12,
                do_sample=False, eos_token_id=models.template.stop_ids, pad_token_id=0)[0, len(prompt):]
        assert one.ids == wanted.tolist()


def test_greedy_is_the_most_likely_token_of_the_scoring_forward(models):
    """Cached, left-padded decoding against one whole forward: the two must be the same model."""
    for prompt, (one,) in zip(PROMPTS,
                              sample(models, "policy", PROMPTS, Sampling(max_new_tokens=8, temperature=0), seed=0)):
        with torch.no_grad(), models.roles.use("policy"):
            logits = models.roles.module(torch.tensor([prompt + one.ids])).logits[0]
        assert logits[len(prompt) - 1:-1].argmax(-1).tolist() == one.ids


def test_each_role_samples_as_itself(models):
    settings = Sampling(max_new_tokens=8, temperature=0)
    assert ids(sample(models, "policy", PROMPTS, settings, 0)) != ids(sample(models, "base", PROMPTS, settings, 0))
    assert models.roles.current == "base"


def test_a_role_samples_under_its_other_name_too(models):
    """Where no reference was trained, "reference" is the base; PEFT knows no adapter of that name."""
    models.alias("reference", "base")
    settings = Sampling(max_new_tokens=8)
    assert ids(sample(models, "reference", PROMPTS, settings, 0)) == ids(sample(models, "base", PROMPTS, settings, 0))
    with pytest.raises(KeyError, match="reward"):
        sample(models, "reward", PROMPTS, settings, 0)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_neighbours_and_batch_size_change_nothing(stopping, temperature):
    keys = [f"prompt {index}" for index in range(len(PROMPTS))]
    wanted = ids(sample(stopping, "policy", PROMPTS, Sampling(16, temperature, batch_size=64), seed=3, keys=keys))
    for batch_size in (1, 2, 5):
        assert ids(sample(stopping, "policy", PROMPTS, Sampling(16, temperature, batch_size=batch_size), 3,
                          keys=keys)) == wanted
    order = [4, 0, 5]
    alone = sample(stopping, "policy", [PROMPTS[i] for i in order], Sampling(16, temperature), 3,
                   keys=[keys[i] for i in order])
    assert ids(alone) == [wanted[i] for i in order]


def test_the_longest_prompts_come_first(models, monkeypatch):
    """Memory runs out at the start or never."""
    read = []

    def noted(models, prompts, new_tokens):
        read.append([len(prompt) for prompt in prompts])
        return prefill(models, prompts, new_tokens)

    for module in (sampling, beam):
        monkeypatch.setattr(module, "prefill", noted)
    prompts = [[40], [41] * 4, [42] * 2, [43] * 3]
    sample(models, "policy", prompts, Sampling(max_new_tokens=2, batch_size=2), 0)
    beam.diverse_beams(models, "policy", prompts, beams=1, groups=1, penalty=0.0, max_new_tokens=2, batch_size=2)
    assert read == [[4, 3], [2, 1]] * 2


@pytest.mark.parametrize("size", [1, 2, 4])
def test_prompts_read_in_groups_are_as_read_at_once(models, monkeypatch, size):
    monkeypatch.setattr(models, "passes", lambda lengths, most: [list(range(len(lengths)))])
    wanted = prefill(models, PROMPTS, 4)
    monkeypatch.setattr(models, "passes", lambda lengths, most: longest_first(lengths, size))
    found = prefill(models, PROMPTS, 4)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-5, rtol=0)
    assert torch.equal(found.mask, wanted.mask) and torch.equal(found.position, wanted.position)
    real = wanted.mask.bool()
    for own, other in zip(found.cache.layers, wanted.cache.layers, strict=True):
        assert own.keys.shape == other.keys.shape and own.get_seq_length() == other.get_seq_length() == real.shape[1]
        for mine, theirs in ((own.keys, other.keys), (own.values, other.values)):
            mine, theirs = (states[:, :, :real.shape[1]].transpose(1, 2)[real] for states in (mine, theirs))
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    settings = Sampling(max_new_tokens=12)
    found = ids(sample(models, "policy", PROMPTS, settings, seed=0))
    monkeypatch.setattr(models, "passes", lambda lengths, most: [list(range(len(lengths)))])
    assert found == ids(sample(models, "policy", PROMPTS, settings, seed=0))


def test_n_samples_from_one_prefill_equal_separate_prompts(stopping):
    """Copy c of a key is the same stream, however it was batched."""
    together = sample(stopping, "policy", PROMPTS, Sampling(12), seed=3, n=4, keys=list("abcdef"))
    assert [len(samples) for samples in together] == [4] * 6
    for batch_size in (1, 3, 9):  # smaller than n: several rounds over one prompt
        rounds = sample(stopping, "policy", PROMPTS, Sampling(12, batch_size=batch_size), seed=3, n=4,
                        keys=list("abcdef"))
        assert ids(rounds) == ids(together)
    for n in (1, 2):
        fewer = sample(stopping, "policy", PROMPTS, Sampling(12), seed=3, n=n, keys=list("abcdef"))
        assert ids(fewer) == [samples[:n] for samples in ids(together)]
    assert any(len({tuple(one) for one in samples}) > 1 for samples in ids(together))  # copies differ from one another


def test_the_seed_decides(models):
    settings = Sampling(8)
    first, again, other = (ids(sample(models, "policy", PROMPTS, settings, seed)) for seed in (0, 0, 1))
    assert first == again != other
    torch.manual_seed(123)  # torch's own stream does not
    assert ids(sample(models, "policy", PROMPTS, settings, 0)) == first


def test_the_end_token_is_kept_and_ends(stopping):
    stop = set(stopping.template.stop_ids)
    results = [one for samples in sample(stopping, "policy", PROMPTS, Sampling(16), seed=0, n=8) for one in samples]
    for one in results:
        assert one.finished == (one.ids[-1] in stop)
        assert not stop & set(one.ids[:-1]) and (one.finished or len(one.ids) == 16)
    assert len({len(one.ids) for one in results}) > 4 and any(one.finished for one in results)


def test_every_end_token_of_a_chat_model_ends(models):
    greedy = ids(sample(models, "policy", PROMPTS[:1], Sampling(6, 0), seed=0))[0][0]
    models.template.stop_ids = sorted({models.template.tokenizer.eos_token_id, greedy[0]})
    ((one,),) = sample(models, "policy", PROMPTS[:1], Sampling(6, 0), seed=0)
    assert one.ids == greedy[:1] and one.finished


def test_a_response_of_full_length_may_be_finished(models):
    greedy = ids(sample(models, "policy", PROMPTS[:1], Sampling(4, 0), seed=0))[0][0]
    models.template.stop_ids = [greedy[3]] if greedy[3] not in greedy[:3] else pytest.skip("the model repeats itself")
    ((one,),) = sample(models, "policy", PROMPTS[:1], Sampling(4, 0), seed=0)
    assert one.finished and len(one.ids) == 4


def test_min_new_tokens(stopping):
    stop = set(stopping.template.stop_ids)
    lengths = []
    for (one,) in sample(stopping, "policy", PROMPTS * 4, Sampling(16, min_new_tokens=6), seed=0):
        assert not stop & set(one.ids[:6])
        lengths.append(len(one.ids))
    assert min(lengths) >= 7 and len(set(lengths)) > 1  # six others, then an end token may come


def test_sampled_frequencies_are_the_models_probabilities(models):
    """1500 first tokens under top_k = 3 against the scoring forward's probabilities, χ² with 2 degrees of freedom."""
    prompt, n = PROMPTS[2], 1500
    (samples,) = sample(models, "policy", [prompt], Sampling(1, top_k=3, temperature=0.5, batch_size=500), seed=0, n=n)
    with torch.no_grad(), models.roles.use("policy"):
        probabilities = warp(models.roles.module(torch.tensor([prompt])).logits[:, -1],
                             Sampling(1, top_k=3, temperature=0.5))[0]
    top = probabilities.nonzero().squeeze(-1)
    observed = torch.tensor([sum(one.ids == [token] for one in samples) for token in top.tolist()])
    expected = n * probabilities[top]
    assert len(top) == 3 and observed.sum() == n
    assert ((observed - expected) ** 2 / expected).sum() < 13.8  # p = 0.001


def test_logprobs_of_samples_are_finite(stopping):
    results = sample(stopping, "policy", PROMPTS, Sampling(8), seed=0)
    batch = collate([Example(prompt, [one.ids], [one.finished], None, "x") for prompt, (one,) in zip(PROMPTS, results)])
    assert stopping.policy.token_logprobs(batch).isfinite().all()


# ---- warping and drawing, on numbers

LOGITS = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()


def test_temperature_sharpens():
    torch.testing.assert_close(warp(LOGITS, Sampling(temperature=0.5))[0], torch.tensor([1., 4., 9., 16.]) / 30)
    torch.testing.assert_close(warp(LOGITS, Sampling())[0], torch.tensor([.1, .2, .3, .4]))


def test_a_vanishing_temperature_is_greedy():
    assert warp(LOGITS + 1e4, Sampling(temperature=1e-38))[0].tolist() == [0, 0, 0, 1]


def test_top_k_keeps_k():
    torch.testing.assert_close(warp(LOGITS, Sampling(top_k=2))[0], torch.tensor([0, 0, 3., 4.]) / 7)
    assert (warp(LOGITS, Sampling(top_k=99)) > 0).all()


@pytest.mark.parametrize("top_p, kept", [(0.3, [3]), (0.4, [3]), (0.41, [2, 3]), (0.69, [2, 3]), (0.95, [0, 1, 2, 3]),
                                         (0.85, [1, 2, 3])])
def test_top_p_is_the_smallest_set_that_holds_it(top_p, kept):
    assert warp(LOGITS.double(), Sampling(top_p=top_p))[0].nonzero().squeeze(-1).tolist() == kept


def test_top_p_that_is_reached_exactly_takes_no_more():
    probabilities = torch.tensor([[.125, .125, .25, .5]])
    assert torch.equal(warp(probabilities.log(), Sampling()), probabilities)  # exact in binary
    assert warp(probabilities.log(), Sampling(top_p=0.5))[0].nonzero().squeeze(-1).tolist() == [3]
    assert warp(probabilities.log(), Sampling(top_p=0.75))[0].nonzero().squeeze(-1).tolist() == [2, 3]


@pytest.mark.parametrize("size", [7, PEAKED, PEAKED + 1, 3000])
def test_top_p_of_peaked_and_flat_rows_side_by_side(size):
    """Against sorting every row in whole."""
    scales = torch.tensor([0.0, 0.1, 1.0, 3.0, 8.0, 30.0]).unsqueeze(-1)  # the first are flat
    logits = (torch.randn(6, size, generator=torch.Generator().manual_seed(size)) + torch.arange(size) * 1e-4) * scales
    for mass in (0.05, 0.5, 0.9, 0.999):
        probabilities = warp(logits, Sampling())
        for row, kept in zip(probabilities, warp(logits, Sampling(top_p=mass))):
            values = row.sort(descending=True).values
            inside = values[(values.cumsum(-1) - values < mass) & (values > 0)]
            assert kept[kept > 0].sort(descending=True).values.tolist() == inside.tolist()
            assert torch.equal(kept[kept > 0], row[kept > 0])


def test_top_k_comes_before_top_p():
    """The share is of what top-k has left: 0.4/0.7 of two tokens already exceeds 0.5."""
    assert warp(LOGITS, Sampling(top_k=2, top_p=0.5))[0].nonzero().squeeze(-1).tolist() == [3]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.1, 1.0, 3.0]), min_size=1, max_size=40).filter(any),
       st.floats(0, 1, exclude_max=True, width=32))
def test_draw_never_returns_what_has_no_probability(weights, uniform):
    probabilities = torch.tensor([weights])
    token = draw(probabilities, torch.tensor([uniform]))
    assert token.shape == (1,) and probabilities[0, token] > 0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 300),
       st.sampled_from([0.0, 0.5, float(torch.tensor(1.0).nextafter(torch.tensor(0.0)))]))
def test_draw_at_the_edges(seed, size, uniform):
    torch.manual_seed(seed)
    probabilities = (torch.randn(1, size) * 5).softmax(-1) * (torch.rand(1, size) < 0.5)
    if not probabilities.any():
        return
    assert probabilities[0, draw(probabilities, torch.tensor([uniform]))] > 0


@settings(max_examples=300, deadline=None)
@given(st.floats(2**-100, 2, width=32))
def test_the_largest_uniform_stays_inside(total):
    """Sums of probabilities come out a little beside 1, and the product with the last float32 below 1 is rounded."""
    below_one = torch.tensor([1.0]).nextafter(torch.tensor([0.0]))
    assert draw(torch.tensor([[total / 2, total / 2, 0.0]]), below_one).item() == 1


def test_draw_is_the_inverse_of_the_distribution_function():
    probabilities = torch.tensor([[.25, 0, .5, .25]]).repeat(6, 1)
    uniform = torch.tensor([0, .2499, .25, .7499, .75, .9999])
    assert draw(probabilities, uniform).tolist() == [0, 0, 2, 2, 3, 3]


def test_drawn_frequencies():
    probabilities = torch.tensor([.5, .3, .15, .05])
    uniform = torch.from_numpy(uniforms(20_000, 0, "frequencies"))
    counts = draw(probabilities.expand(20_000, 4), uniform).bincount(minlength=4)
    expected = 20_000 * probabilities
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # χ², 3 degrees of freedom, p = 0.001


# ---- settings

@pytest.mark.parametrize("key, value",
                         [("max_new_tokens", 0), ("temperature", -0.1), ("top_p", 0), ("top_p", 1.01), ("top_k", -1),
                                        ("min_new_tokens", -1), ("min_new_tokens", 257), ("batch_size", 0),
                                        ("temperature", float("nan")), ("top_p", float("nan"))])
def test_settings_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"sampling.{key}: found"):
        Sampling(**{key: value})
