"""Figures as rows by prompt: several answers of a prompt in one row, shares with a width, rows as they are written."""

import dataclasses
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation import PLAIN, evaluation, frame

from algorithms.common.algorithm import Algorithm
from algorithms.common.evaluation.evaluate import EvalConfig
from algorithms.common.evaluation.metrics import BASE, estimate, estimates, figure_rows, figures, metrics, wins
from algorithms.common.figures import Figure, Known
from algorithms.common.models.sampling import Sampling, sample
from algorithms.common.runs.results import write_figures
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from algorithms.sft import SFT
from stage_setup import EVAL, RECIPE, make_bench, make_data, on_sft
from training_setup import two_roles


def answers(gold, **columns):
    """A frame of (P, A) gold rewards: A answers to each prompt."""
    gold = np.asarray(gold, dtype=float)
    prompts = np.repeat([f"p{i}" for i in range(len(gold))], gold.shape[1])
    return frame(gold.ravel(), prompt_id=prompts, sample=np.tile(range(gold.shape[1]), len(gold)), **columns)


def rows(figure):
    return figure.rows.set_index("prompt_id")[["numerator", "denominator"]].T.to_dict("list")


def test_several_answers_of_a_prompt_are_one_row():
    after = answers([[1.0, 3.0], [0.0, 1.0]], length=[1, 2, 3, 5], finished=[True, False, True, True],
                    kl_k1=[1.0, 2.0, 0.0, 1.0], response=["a b a b", "a", "a b", "a b c"])
    start = answers([[1.0, 0.0, 2.0], [1.0, 5.0, 0.0]])
    found = figures(PLAIN, evaluation(after), evaluation(start.iloc[::-1]))
    assert rows(found["reward/gold"]) == {"p0": [4.0, 2.0], "p1": [1.0, 2.0]}
    assert rows(found["reward/gold_minus_sft"]) == {"p0": [2.0 - 1.0, 1.0], "p1": [0.5 - 2.0, 1.0]}
    # p0: 1 against 1, 0, 2 and 3 against the same; p1: 0 against 1, 5, 0 and 1 against the same
    assert rows(found["win_rate/sft"]) == {"p0": [(1.5 + 3) / 6, 1.0], "p1": [(0.5 + 1.5) / 6, 1.0]}
    assert rows(found["length/mean"]) == {"p0": [3.0, 2.0], "p1": [8.0, 2.0]}
    assert rows(found["eos_rate"]) == {"p0": [1.0, 2.0], "p1": [2.0, 2.0]}
    assert rows(found["kl/k1"]) == {"p0": [3.0, 2.0], "p1": [1.0, 2.0]}
    assert rows(found["distinct_2"]) == {"p0": [pytest.approx(2 / 3), 1.0], "p1": [2.0, 2.0]}, "one word has no pair"
    assert [name for name, one in found.items() if one.kind == "share"] == ["win_rate/sft", "eos_rate", "distinct_2"]


def test_the_interval_of_a_mean_is_students_over_prompts():
    """Of rows 2, ½ and 3: mean 11/6, s² = 19/12, t with 2 degrees of freedom 4.302653."""
    found = metrics(PLAIN, evaluation(answers([[1.0, 3.0], [0.0, 1.0], [3.0, 3.0]])), None)["reward/gold"]
    assert found.mean == pytest.approx(11 / 6) and (found.n, found.unit, found.seeds) == (3, "prompts", 1)
    assert found.high - found.mean == pytest.approx(4.302653 * (19 / 12 / 3) ** 0.5)


def test_a_perplexity_is_of_all_tokens():
    likelihood = pd.DataFrame({"prompt_id": list("abc"), "nll": np.log([4.0, 8.0, 2.0]), "tokens": [2, 3, 1]})
    made = figures(PLAIN, evaluation(pd.DataFrame(), likelihood=likelihood), None)["perplexity/heldout"]
    found = estimate(made)
    assert (made.kind, found.unit, found.n) == ("perplexity", "demonstrations", 3)
    assert found.mean == pytest.approx(2.0) and found.low == pytest.approx(2.0) == found.high, "all tokens alike"


def test_a_single_row_has_no_interval_unless_it_is_a_share():
    found = figures(PLAIN, evaluation(answers([[1.0, 3.0]])), None)
    assert "reward/gold" in found and set(estimates(found)) == {"eos_rate", "distinct_2"}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_shares_stay_inside_0_and_1_and_have_a_width(data):
    prompts, count, others = (data.draw(st.integers(1, 6)) for _ in range(3))
    values = st.lists(st.sampled_from([0.0, 1.0]), min_size=prompts * count, max_size=prompts * count)
    gold, finished = data.draw(values), [value == 1 for value in data.draw(values)]
    before = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=prompts * others, max_size=prompts * others))
    shape = np.reshape(gold, (prompts, count))
    pairs = pd.DataFrame({"chosen": gold, "rejected": 0.5, "chosen_length": 1, "rejected_length": 2,
                          "prompt_id": np.repeat(range(prompts), count)})
    measured = pd.DataFrame({"prompt_id": np.repeat(range(prompts), count), "figure": "refusal", "value": gold})
    result = evaluation(answers(shape, finished=finished), pairs=pairs, measured=measured)
    found = metrics(PLAIN, result, evaluation(answers(np.reshape(before, (prompts, others)))))
    for name in ("win_rate/sft", "eos_rate", "accuracy/heldout", "accuracy/chosen_shorter", "refusal"):
        one = found[name]
        assert 0 <= one.low <= one.mean <= one.high <= 1 and one.high - one.low > 0.01 and one.n == prompts, name
    assert found["eos_rate"].mean == pytest.approx(np.mean(finished))


def test_a_frame_and_the_other_way_round_share_the_wins():
    draw = np.random.default_rng(0)
    one, other = (answers(draw.integers(0, 4, (5, count))) for count in (2, 3))
    there, back = (wins("w", *pair, "gold").rows["numerator"] for pair in ((one, other), (other, one)))
    assert (there + back).tolist() == pytest.approx([1.0] * 5) and there.nunique() > 1


def test_a_base_is_named_as_what_it_is():
    after, start = answers([[1.0], [0.0]]), answers([[0.0], [2.0]])
    own, other = evaluation(after, measured=measured([1, 0])), evaluation(start, measured=measured([0, 0]))
    found = figures(PLAIN, own, other, BASE)
    assert rows(found["reward/gold_minus_base"]) == {"p0": [1.0, 1.0], "p1": [-2.0, 1.0]}
    assert rows(found["win_rate/base"]) == {"p0": [1.0, 1.0], "p1": [0.0, 1.0]}
    assert rows(found["refusal_minus_base"]) == {"p0": [1.0, 1.0], "p1": [0.0, 1.0]}
    assert not [name for name in found if "sft" in name]


def measured(values):
    return pd.DataFrame({"prompt_id": ["p0", "p1"], "figure": "refusal", "value": np.asarray(values, float)})


def test_answers_win_against_what_the_data_shows_by_gold_or_else_by_the_proxy_which_is_named():
    shown = pd.DataFrame({"prompt_id": ["p1", "p0"], "nll": 1.0, "tokens": 2, "gold": [1.0, 2.0], "proxy": [9.0, 9.0]})
    after = answers([[1.0, 3.0], [1.0, 1.0]], proxy=[0.0, 0.0, 10.0, 0.0])
    found = figures(PLAIN, evaluation(after, likelihood=shown), evaluation(after))
    assert rows(found["win_rate_data/gold"]) == {"p0": [0.5, 1.0], "p1": [0.5, 1.0]}
    assert not [name for name in found if name.startswith("proxy")], "where the truth is known, it judges"
    unknown = after.assign(gold=pd.array([None] * 4, dtype="Float64"))
    found = figures(PLAIN, evaluation(unknown, likelihood=shown.drop(columns="gold")), evaluation(unknown))
    assert rows(found["proxy_win_rate/data"]) == {"p0": [0.0, 1.0], "p1": [0.5, 1.0]}
    assert rows(found["proxy_win_rate/sft"]) == {"p0": [0.5, 1.0], "p1": [0.5, 1.0]}
    assert not [name for name in found if name.startswith("win_rate")], "what some methods trained on is no judge"


def test_rows_are_written_and_read_as_they_are(tmp_path):
    made = [Figure.of("a", ["x", "y", "x"], [1, 2, 3]), Known.constant("k", 0.5, 2),
            Figure.of("b/c@2", ["x"], [1.5], [7])]
    write_figures(tmp_path, figure_rows(made))
    found = pd.read_parquet(tmp_path / "figures.parquet")
    assert found.values.tolist() == [["a", "x", 4.0, 2.0], ["a", "y", 2.0, 1.0], ["b/c@2", "x", 1.5, 7.0]]
    assert list(found) == ["figure", "prompt_id", "numerator", "denominator"]
    assert found["numerator"].dtype == found["denominator"].dtype == np.float64
    write_figures(tmp_path, figure_rows([]))
    none = pd.read_parquet(tmp_path / "figures.parquet")
    assert not len(none) and list(none) == list(found) and none["numerator"].dtype == np.float64


# On a model


def test_prompts_are_read_once_and_the_first_answers_do_not_depend_on_how_many_there_are(make_models, monkeypatch):
    import algorithms.common.models.sampling as sampling

    models, prompts, keys = two_roles(make_models()), [[5, 6, 7], [8, 9]], ["a", "b"]
    read, prefill = [], sampling.prefill
    monkeypatch.setattr(sampling, "prefill", lambda m, ids, *rest: read.extend(ids) or prefill(m, ids, *rest))
    config = Sampling(max_new_tokens=5, batch_size=64)
    drawn = Algorithm(view="prompts").respond(models, prompts, config, 3, keys, 4)
    assert sorted(read) == sorted(prompts)
    assert drawn == [[[one] for one in row] for row in sample(models, "policy", prompts, config, 3, n=4, keys=keys)]
    assert Algorithm(view="prompts").respond(models, prompts, config, 3, keys) == [row[:1] for row in drawn]
    assert len({tuple(one.ids) for (one,) in drawn[0]}) > 1


def test_one_answer_has_the_figures_of_the_first_of_several(tmp_path):
    store, method = Store(tmp_path), on_sft()
    data = dataclasses.replace(make_data(), gold=lambda prompts, texts, finished: [len(text) / 7 for text in texts])
    one, several = (make_bench(store, data, eval=dataclasses.replace(EVAL, samples=count)) for count in (1, 3))
    first = [bench.evaluate(method, RECIPE) for bench in (one, several)]
    assert (len(first[0].samples), len(first[1].samples)) == (4, 12)
    cut = first[1].samples[first[1].samples["sample"] == 0].reset_index(drop=True)
    assert cut["response"].equals(first[0].samples["response"])
    found = metrics(method, first[0], one.baseline(method))
    assert found["reward/gold"].mean == first[0].samples["gold"].astype(float).to_numpy().mean(), "to the last bit"
    assert found["kl/exact"].mean == first[0].samples["kl_exact"].to_numpy(float).mean()
    whole = metrics(method, first[1], several.baseline(method))
    assert whole["reward/gold"].mean == pytest.approx(first[1].samples["gold"].astype(float).mean())
    assert whole["kl/exact"].mean == pytest.approx(first[1].samples["kl_exact"].astype(float).mean())
    assert whole["reward/gold"].n == found["reward/gold"].n == 4


def test_greedy_answers_are_made_once_with_a_word(caplog):
    with caplog.at_level(logging.INFO):
        assert EvalConfig(samples=3, sampling=Sampling(temperature=0)).samples == 1
    assert "eval.samples: 3, but greedy answers to a prompt are all the same; one is made" in caplog.text
    assert EvalConfig(samples=3).samples == 3
    with pytest.raises(ConfigError, match="eval.samples: found 0; expected at least 1"):
        EvalConfig(samples=0)


def test_a_start_is_known_by_its_settings_whatever_the_seed(tmp_path):
    store = Store(tmp_path)
    found = [make_bench(store, seed=seed).start(method) for seed, method in (
        (0, on_sft()), (1, on_sft(beta=0.3)), (0, on_sft(recipe=dataclasses.replace(RECIPE, lr=2e-2))))]
    assert found[0] == found[1] != found[2] and found[0].kind == "sft"
    assert found[0].identity == make_bench(store).identity(SFT(), RECIPE), "the row's own"
    base = make_bench(store).start(type(on_sft())())
    assert base.kind == "base" and base.identity not in (None, found[0].identity)
    assert make_bench(store).start(SFT()) == base, "supervised fine-tuning starts there too"
