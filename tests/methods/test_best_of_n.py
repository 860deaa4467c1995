"""Best-of-n: the estimator and the bound on numbers to check by hand, then against enumeration, then on a model."""

import dataclasses
import itertools
import json
import math
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from algorithms.best_of_n import BestOfN, expected_best, kl_bound
from algorithms.common.algorithm import Need, RewardSource
from algorithms.common.evaluation.inference.intervals import Estimate
from algorithms.common.evaluation.metrics import metrics
from algorithms.common.figures import Known
from algorithms.common.models.sampling import Sampling, sample
from algorithms.common.rewards.sources import checked
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from algorithms.sft import SFT
from benchmarks import tables
from benchmarks.tables import Row, Table
from stage_setup import EVAL, RECIPE, make_bench, make_data
from training_setup import two_roles

PROXY, GOLD = tensor([[.3, -.2, 1.1, .7, 0.]]), tensor([[.5, -.1, .4, .9, .2]])


@pytest.mark.parametrize("n, expected", [(1, .38), (2, .55), (3, .56), (5, .4)])
def test_expected_best_by_hand(n, expected):
    """Ascending by proxy the gold is -.1 .2 .5 .9 .4; at n = 2 the weights are 0 .1 .2 .3 .4: more is not better."""
    assert expected_best(PROXY, n, GOLD).item() == pytest.approx(expected, abs=1e-6)


def test_values_are_the_scores_by_default():
    assert expected_best(PROXY, 2).item() == pytest.approx(.1 * 0 + .2 * .3 + .3 * .7 + .4 * 1.1, abs=1e-6)


@pytest.mark.parametrize("n, bound",
                         [(1, 0), (2, .193147), (4, .636294), (16, 1.835089), (64, 3.174508), (128, 3.859843)])
def test_bound_by_hand(n, bound):
    assert kl_bound(n) == pytest.approx(bound, abs=1e-6)


@pytest.mark.parametrize("probabilities, n, kl", [([.25] * 4, 2, .173980), ([.9, .1], 4, .217398)])
def test_the_bound_is_above_the_true_divergence_of_few_outcomes(probabilities, n, kl):
    below = np.concatenate([[0], np.cumsum(probabilities)])
    best = np.diff(below ** n)  # P(the best of n is outcome i), the outcomes in ascending order
    found = float((best * np.log(best / probabilities)).sum())
    assert found == pytest.approx(kl, abs=1e-6) and found < kl_bound(n)


def test_the_bound_is_approached_as_every_single_response_becomes_unlikely():
    """Of V outcomes with distinct rewards, equally likely: Σ p_i log(V p_i), p_i = (i/V)ⁿ − ((i − 1)/V)ⁿ."""
    def divergence(outcomes: int, n: int) -> float:
        best = np.diff((np.arange(outcomes + 1) / outcomes) ** n)
        return float((best * np.log(np.maximum(best * outcomes, 1e-300))).sum())

    gaps = [kl_bound(16) - divergence(outcomes, 16) for outcomes in (2, 16, 128, 1024, 8192)]
    assert gaps == sorted(gaps, reverse=True) and 0 < gaps[-1] < 1e-5 < 1 < gaps[0]
    assert divergence(2, 1000) == pytest.approx(math.log(2)) and kl_bound(1000) > 5, "two outcomes never go further"


def enumerated(scores, values, n):
    """The mean over all subsets of the value at the best score; of equal scores the later one wins."""
    picks = [max(subset, key=lambda i: (scores[i], i)) for subset in itertools.combinations(range(len(scores)), n)]
    return sum(values[i] for i in picks) / len(picks)


NUMBERS = st.floats(-10, 10, allow_nan=False, width=32)
SAMPLES = st.integers(1, 8).flatmap(lambda count: st.tuples(
    st.lists(NUMBERS | st.sampled_from([0.0, 1.0]), min_size=count, max_size=count),
    st.lists(NUMBERS, min_size=count, max_size=count), st.integers(1, count)))


@settings(max_examples=200, deadline=None)
@given(SAMPLES)
def test_it_is_the_mean_over_all_subsets_ties_included(drawn):
    scores, values, n = drawn
    found = expected_best(tensor([scores], dtype=torch.float64), n, tensor([values], dtype=torch.float64))
    assert found.item() == pytest.approx(enumerated(scores, values, n), abs=1e-9)


def test_ends_and_rows():
    scores, values = torch.randn(3, 128, dtype=torch.float64), torch.randn(3, 128, dtype=torch.float64)
    torch.testing.assert_close(expected_best(scores, 1, values), values.mean(-1))
    torch.testing.assert_close(expected_best(scores, 128, values),
                               values.gather(1, scores.argmax(-1, keepdim=True)).squeeze(1))
    rows = torch.cat([expected_best(scores[i:i + 1], 64, values[i:i + 1]) for i in range(3)])
    torch.testing.assert_close(expected_best(scores, 64, values), rows)
    grows = [expected_best(scores, n).mean().item() for n in (1, 2, 4, 8, 16, 32, 64, 128)]
    assert grows == sorted(grows)


@pytest.mark.parametrize("count, n", [(128, 64), (300, 150), (1000, 7)])
def test_it_is_exact_where_binomials_leave_the_floats(count, n):
    """Of 1 … N the best of n is n (N + 1) / (n + 1) on average."""
    numbers = torch.arange(1, count + 1, dtype=torch.float64)[torch.randperm(count)].unsqueeze(0)
    assert expected_best(numbers, n).item() == pytest.approx(n * (count + 1) / (n + 1), rel=1e-12)


def test_it_keeps_the_kind_of_numbers():
    assert expected_best(PROXY, 2, GOLD.double()).dtype == torch.float64
    assert expected_best(PROXY.double(), 2, GOLD).dtype == torch.float32


@pytest.mark.parametrize("n", [0, 6])
def test_an_n_that_no_row_has(n):
    with pytest.raises(ValueError, match="expected 1 … 5"):
        expected_best(PROXY, n)


def test_values_of_another_shape():
    with pytest.raises(ValueError, match=r"\(1, 4\)"):
        expected_best(PROXY, 2, GOLD[:, :4])


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        kl_bound(0)
    with pytest.raises(ConfigError, match="algorithm.n: found 0"):
        BestOfN(n=0)


# Figures


def frame(proxy, gold):
    prompts, n = len(proxy), len(proxy[0])
    return pd.DataFrame({"prompt_id": np.repeat([f"p{i}" for i in range(prompts)], n),
                         "proxy": pd.array(np.ravel(proxy), dtype="Float64"),
                         "gold": pd.array(np.ravel(gold), dtype="Float64")})


def figures(n, samples):
    return {one.name: one for one in BestOfN(n=n).figures(samples, samples.iloc[::n])}


def test_the_curve():
    samples = frame([[.3, -.2, 1.1, .7, 0.]] * 2, [[.5, -.1, .4, .9, .2], [1.5, .9, 1.4, 1.9, 1.2]])
    found = figures(5, samples)
    assert {name.partition("@")[2] for name in found} == {"", "1", "2", "4", "5"}
    rows = found["reward/gold@2"].rows
    assert rows["prompt_id"].tolist() == ["p0", "p1"] and rows["denominator"].tolist() == [1, 1]
    assert rows["numerator"].tolist() == pytest.approx([.55, 1.55])
    assert found["reward/proxy@5"].rows["numerator"].tolist() == pytest.approx([1.1, 1.1])
    bound = kl_bound(4)
    assert found["kl/bound@4"] == Known("kl/bound@4", bound, bound, bound, 2, "constant")
    assert found["kl/bound"].mean == kl_bound(5)


def test_the_curve_of_several_answers_is_the_mean_of_theirs():
    """Never over the candidates of two answers: at n it is the reward of the answers themselves."""
    samples = frame([[.3, -.2, 1.1, .7, 0., 5., 1., 2., 3., 4.]], [[.5, -.1, .4, .9, .2, 1., 2., 3., 4., 5.]])
    found = figures(5, samples)
    assert found["kl/bound"].n == 1
    whole = found["reward/gold@5"].rows.iloc[0]
    assert (whole["numerator"], whole["denominator"]) == (pytest.approx(.4 + 1.), 2)  # picked by 1.1 and by 5
    half = found["reward/gold@2"].rows.iloc[0]  # ascending by proxy 2 3 4 5 1, weights 0 .1 .2 .3 .4
    assert half["numerator"] == pytest.approx(.55 + (.3 + .8 + 1.5 + .4))


def test_without_gold_the_curve_has_none():
    found = figures(2, frame([[1., 2.]], [[None, None]]))
    assert set(found) == {"kl/bound", "kl/bound@1", "kl/bound@2", "reward/proxy@1", "reward/proxy@2"}


def test_of_equals_the_curve_ends_at_the_first_drawn_as_the_evaluation_does():
    found = figures(3, frame([[1., 1., 0.]], [[7., 8., 9.]]))
    assert found["reward/gold@3"].rows["numerator"].tolist() == [7.0]


def test_the_curve_is_in_the_csv_and_not_in_the_table(tmp_path):
    one = Estimate(1.0, 1.0, 1.0, 4, "prompts", seeds=1)
    tables.write(Table([Row("best_of_n", {}, (0,), estimates={"reward/gold": one, "reward/gold@4": one})], []),
                 tmp_path)
    assert "@" not in (tmp_path / "table.md").read_text()
    assert "reward/gold@4.mean" in (tmp_path / "table.csv").read_text()


# On a model


def test_n_samples_of_one_prefill(make_models, monkeypatch):
    """The same samples as of the policy itself, the first of them being its single answer."""
    import algorithms.common.models.sampling as sampling

    models, prompts, keys = two_roles(make_models()), [[5, 6, 7], [8, 9]], ["a", "b"]
    config = Sampling(max_new_tokens=5, batch_size=64)
    read = []
    prefill = sampling.prefill
    monkeypatch.setattr(sampling, "prefill",
                        lambda m, prompts, *rest: read.extend(prompts) or prefill(m, prompts, *rest))
    drawn = BestOfN(n=6).respond(models, prompts, config, 3, keys)
    assert sorted(read) == sorted(prompts), "each prompt was read once"
    assert [[len(answer) for answer in row] for row in drawn] == [[6], [6]]
    assert len({tuple(one.ids) for one in drawn[0][0]}) > 1
    assert [row[0][:1] for row in drawn] == sample(models, "policy", prompts, config, 3, keys=keys)
    for sizes in (Sampling(max_new_tokens=5, batch_size=4), config):  # decoded in several rounds, or at once
        read.clear()
        assert BestOfN(n=6).respond(models, prompts, sizes, 3, keys) == drawn
        assert BestOfN(n=2).respond(models, prompts, sizes, 3, keys, answers=3) == [
            [row[0][:2], row[0][2:4], row[0][4:]] for row in drawn], "two by two of the same samples"
        assert sorted(read) == sorted([*prompts, *prompts]), "however many answers there are"


@dataclasses.dataclass
class Length(RewardSource):
    """Longer is better."""

    def open(self, models, folders, data, batch_size):
        return checked("length", lambda responses: [float(len(r.ids)) for r in responses])


def bench(tmp_path, **changed):
    data = dataclasses.replace(make_data(),
                               gold=lambda prompts, responses, finished: [float(len(text)) for text in responses])
    return make_bench(Store(tmp_path), data, reward=Length(), **changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


def on_sft(n: int) -> BestOfN:
    return BestOfN(n=n, needs={"reference": Need(SFT(), RECIPE)})


def test_nothing_is_trained_and_the_answers_are_paid(folder):
    here, method = bench(folder), on_sft(5)
    stage, start = here.train(method, RECIPE), here.train(SFT(), RECIPE)
    assert (stage / "adapter_model.safetensors").read_bytes() == (start / "adapter_model.safetensors").read_bytes()
    assert json.loads((stage / "fit.json").read_text())["steps"] == 0 and (stage / "metrics.jsonl").read_text() == ""
    result = here.evaluate(method, RECIPE)
    cost, base = here.cost(method, RECIPE), here.cost(SFT(), RECIPE)
    assert cost["reward_queries"] == 4 * 5 == len(result.samples)
    assert cost["tokens_sampled"] == result.samples["length"].sum() and base["tokens_sampled"] == 0
    assert cost["tokens_trained"] == base["tokens_trained"] and cost["trainable_parameters"] == 0
    assert cost["seconds"] > base["seconds"] and cost["resident_models"] == 1


GONE = []


def judged(prompts, responses, finished):
    if GONE:
        raise RuntimeError("the gold scorer is gone")
    return [float(len(text)) for text in responses]


def test_an_evaluation_that_goes_on_costs_what_all_of_it_did(tmp_path, monkeypatch):
    data = dataclasses.replace(make_data(), gold=judged)
    first, again = (make_bench(Store(tmp_path), data, reward=Length()) for _ in range(2))
    monkeypatch.setattr("algorithms.common.evaluation.evaluate.peak_memory_bytes", lambda device: 2**50)
    GONE.append(True)
    with pytest.raises(RuntimeError, match="the gold scorer is gone"):
        first.evaluate(on_sft(5), RECIPE)
    GONE.clear()
    began = time.monotonic()
    for path in tmp_path.rglob("answers-0.json"):
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "seconds": 1000.0}))
    cost = json.loads((again._evaluation(on_sft(5), RECIPE, "best") / "cost.json").read_text())
    assert cost["answers"]["resident_models"] == 1 and cost["answers"]["peak_memory_bytes"] == 2**50
    assert 1000 <= cost["answers"]["seconds"] <= cost["seconds"] < 1001 + time.monotonic() - began


def test_the_best_is_picked_and_has_no_measured_kl(folder):
    here, method = bench(folder), on_sft(5)
    result = here.evaluate(method, RECIPE)
    found = metrics(method, result, here.baseline(method))
    lengths = result.samples.groupby("prompt_id")["length"]
    assert found["reward/proxy"].mean == pytest.approx(lengths.max().mean())
    assert found["reward/proxy@5"].mean == pytest.approx(found["reward/proxy"].mean)
    assert found["reward/gold@5"].mean == pytest.approx(found["reward/gold"].mean)
    assert found["reward/proxy@1"].mean == pytest.approx(lengths.mean().mean())
    assert "kl/k1" not in found and "kl/exact" not in found and found["kl/bound"].mean == kl_bound(5)
    assert "reward/gold_minus_sft" in found


def test_several_answers_are_each_the_best_of_their_own_candidates(folder):
    here, once = bench(folder, eval=dataclasses.replace(EVAL, samples=3)), bench(folder)
    method = on_sft(5)
    result, first = here.evaluate(method, RECIPE), once.evaluate(method, RECIPE)
    samples = result.samples
    assert len(samples) == 4 * 3 * 5 and samples["picked"].sum() == 4 * 3
    for _, group in samples.groupby(["prompt_id", "sample"]):
        assert group["candidate"].tolist() == [0, 1, 2, 3, 4] and group["picked"].sum() == 1
        assert group.loc[group["picked"], "length"].item() == group["length"].max()
    alone = samples[samples["sample"] == 0].reset_index(drop=True)
    assert alone["response"].equals(first.samples["response"]) and alone["picked"].equals(first.samples["picked"])
    found = metrics(method, result, here.baseline(method))
    assert found["reward/gold@5"].mean == pytest.approx(found["reward/gold"].mean)
    assert found["reward/gold"].n == 4 and found["kl/bound"].mean == kl_bound(5)
    assert here.cost(method, RECIPE)["reward_queries"] == once.cost(method, RECIPE)["reward_queries"] == 4 * 5
    assert here.cost(method, RECIPE)["tokens_sampled"] == round(samples["length"].sum() / 3), "what one answer takes"


def test_best_of_one_is_the_supervised_policy_answering_anew(folder):
    here, one = bench(folder), on_sft(1)
    row = here.evaluate(one, RECIPE)
    found = metrics(one, row, here.baseline(one))
    assert row.samples["response"].tolist() != here.baseline(one).samples["response"].tolist()
    assert found["kl/bound"].mean == 0 == round(found["kl/exact"].mean, 6) == round(found["kl/k1"].mean, 5)


def test_128_candidates_are_decoded_and_scored_in_batches(folder):
    sizes = []

    class Counted(Length):
        def open(self, models, folders, data, batch_size):
            scorer = super().open(models, folders, data, batch_size)
            return lambda responses: sizes.append(len(responses)) or scorer(responses)

    few = dataclasses.replace(EVAL, prompts=1, sampling=Sampling(max_new_tokens=3, batch_size=50))
    here, method = bench(folder, eval=few), on_sft(128)
    here.reward = Counted()
    result = here.evaluate(method, RECIPE)
    assert len(result.samples) == 128 and result.samples["picked"].sum() == 1
    assert sizes == [128, 1], "the candidates, and what the data answers"
    assert result.samples["logprob_policy"].notna().sum() == 1
    assert math.isclose(metrics(method, result, None)["kl/bound"].mean, 3.859843, abs_tol=1e-6)


def test_without_a_supervised_stage_the_base_answers(folder):
    here, method = bench(folder), BestOfN(n=2)
    assert method.needs == {"reference": None}
    result = here.evaluate(method, RECIPE)
    assert len(result.samples) == 8 and here.cost(method, RECIPE)["stages"] == {}


def test_what_two_stages_stand_on_is_paid_once(folder):
    from algorithms.common.rewards.sources import Trained
    from algorithms.reward_model import RewardModel

    need = Need(SFT(), RECIPE)
    here, method = bench(folder), on_sft(2)
    here.reward = Trained(RewardModel(needs={"reference": need}), RECIPE)
    here.evaluate(method, RECIPE)
    cost = here.cost(method, RECIPE)
    sft, rewards = cost["stages"]["reference"]["tokens_trained"], cost["stages"]["reward"]["tokens_trained"]
    assert 0 < sft < rewards, "the reward model's includes it"
    assert cost["tokens_trained"] == rewards and cost["labels"] == cost["stages"]["reward"]["labels"] > 0
