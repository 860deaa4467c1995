"""Rank classification against a naive computation; what data sources measure on samples; figures by origin."""

import numpy as np
import pandas as pd
import pytest
import torch

from algorithms.common.algorithm import Algorithm
from algorithms.common.data.records import DataSets, LoadReport, Record, Records
from algorithms.common.evaluation.choices import choice_figures, rank_options
from algorithms.common.evaluation.evaluate import EvalConfig, Evaluation, evaluate, measured_frame
from algorithms.common.evaluation.metrics import estimate, figures, metrics
from algorithms.common.models.sampling import Sampling

QUESTIONS = [
    Record("The film was", [" good", " a very bad one", " long"], [0.0, 1.0, 0.0],
           {"groups": ["plain", "plain/a"], "unit": "film", "origin": "a"}),
    Record("The hotel", [" was far", " was near"], [1.0, 0.0], {"groups": ["plain"], "unit": "hotel", "origin": "b"}),
    Record("The hotel and its long garden", [" was near", " was far"], [0.0, 1.0], {"origin": "b"}),
]
PLAIN = Algorithm(view="prompts")


@pytest.fixture
def models(make_models):
    models = make_models()
    models.add_role("policy", trainable=False, seed=2)
    with torch.no_grad():
        for name, parameter in models.policy.parameters().items():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return models


def naive(models, record, end=False):
    """Summed log-probability of each option, one row at a time, with its end token or without."""
    found = []
    example = models.tokenize(record)
    for response in example.responses:
        ids = example.prompt + response
        with torch.no_grad(), models.roles.use("policy"):
            logprobs = models.roles.module(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(sum(logprobs[t - 1, ids[t]].item() for t in range(len(example.prompt), len(ids) - (not end))))
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_the_option_with_the_largest_summed_logprob_is_the_answer(models, tmp_path, batch_size):
    frame = rank_options(models, "policy", Records.from_list(QUESTIONS), batch_size)
    for index, record in enumerate(QUESTIONS):
        right = record.scores.index(1.0)
        for ending, end in (("", False), ("_with_end", True)):
            sums = naive(models, record, end)
            assert frame[f"correct{ending}"][index] == float(np.argmax(sums) == right)
            margin = sums[right] - max(s for i, s in enumerate(sums) if i != right)
            assert frame[f"margin{ending}"][index] == pytest.approx(margin, abs=1e-4)
    assert not np.allclose(frame["margin"], frame["margin_with_end"])
    order = [record.key for record in QUESTIONS]
    assert frame["record"].tolist() == order, "in the records' order, whatever the batches"
    assert frame["groups"].tolist() == [["plain", "plain/a"], ["plain"], []]
    assert frame["unit"][0] == "film" and len(frame["unit"][2]) == 16 and frame["origin"].tolist() == ["a", "b", "b"]
    assert frame["unit"][2] == frame["prompt_id"][2] and frame["prompt_id"].nunique() == 3


def test_a_model_that_never_stops_is_judged_by_the_options_alone(models, monkeypatch):
    """It knows the answer, and would go on after it; after a wrong one it would stop."""
    record = Record("x", [" good", " bad"], [1.0, 0.0])
    good, bad = (response[0] for response in models.tokenize(record).responses)
    end = models.template.turn_end

    def token_logprobs(batch):  # (B, K, T)
        given = torch.full(batch.labels.shape, -1.0)
        given[batch.labels == good], given[batch.labels == bad] = -0.5, -1.5
        after = batch.labels.roll(1, -1)
        given[(batch.labels == end) & (after == good)], given[(batch.labels == end) & (after == bad)] = -9.0, -0.1
        return given.masked_fill(~batch.mask, 0)

    monkeypatch.setattr(models.policy, "token_logprobs", token_logprobs)
    frame = rank_options(models, "policy", Records.from_list([record]), 4)
    assert (frame["correct"][0], frame["correct_with_end"][0]) == (1.0, 0.0)
    assert frame["margin"][0] == pytest.approx(1.0) and frame["margin_with_end"][0] == pytest.approx(1.0 - 8.9)


def test_an_option_that_was_cut_has_no_end_token_to_leave_out(make_models):
    models = make_models(max_length=6, max_prompt_length=4)
    models.add_role("policy", trainable=False, seed=2)
    record = Record("The film was very", [" a very very very very long one", " good"], [1.0, 0.0])
    example = models.tokenize(record)
    assert example.finished == [False, True]
    sums = naive(models, record, end=True)  # what is left of the first; the second's end token is taken off
    with torch.no_grad():
        end = models.policy.token_logprobs(models.collate([example]))[0, 1, len(example.responses[1]) - 1].item()
    frame = rank_options(models, "policy", Records.from_list([record]), 4)
    assert frame["margin"][0] == pytest.approx(sums[0] - (sums[1] - end), abs=1e-4)
    assert frame["margin_with_end"][0] == pytest.approx(sums[0] - sums[1], abs=1e-4)


def test_options_that_tie_share_the_point(models):
    frame = rank_options(models, "policy",
                         Records.from_list([Record("x", [" good", " good", " bad"], [1.0, 0.0, 0.0])]), 4)
    assert frame["correct"][0] in (0.0, 0.5)
    assert frame["correct"][0] == (0.5 if np.argmax(naive(models, Record("x", [" bad", " good"]))) else 0.0)


def test_accuracy_of_groups_by_hand_a_row_per_unit():
    frame = pd.DataFrame({"correct": [1.0, 0.0, 1.0, 1.0], "correct_with_end": [0.0, 0.0, 0.0, 1.0],
                          "unit": ["p", "p", "q", "r"], "prompt_id": ["p1", "p2", "q1", "r1"],
                          "groups": [["a"], ["a", "a/x"], ["a"], []]})
    made = choice_figures(frame)
    assert made[0].rows.values.tolist() == [["p", 1.0, 2.0], ["q", 1.0, 1.0], ["r", 1.0, 1.0]]
    found = {figure.name: estimate(figure) for figure in made}
    assert found["accuracy/choices"].mean == 0.75 and found["accuracy/choices"].n == 3
    assert found["accuracy/a"].mean == pytest.approx(2 / 3) and found["accuracy/a"].n == 2
    assert found["accuracy/a/x"].mean == 0.0
    assert found["accuracy_with_end/choices"].mean == 0.25 and found["accuracy_with_end/a"].mean == 0.0
    assert found["accuracy_with_end/a"].high > 0.3, "none of three"
    assert 0 < found["accuracy/choices"].low < found["accuracy/choices"].high < 1
    assert {one.unit for one in found.values()} == {"subjects"}
    assert {one.unit for one in choice_figures(frame.assign(unit=frame["prompt_id"]))} == {"prompts"}


def has_an_e(record, response, finished):
    """A measure: one figure for every response, one for the finished alone."""
    return {"e": float("e" in response), **({f"e/{record.meta['topic']}": 1.0} if finished else {})}


def samples(texts, finished, prompts):
    return pd.DataFrame({"prompt_id": prompts, "response": texts, "finished": finished, "picked": True})


def test_what_a_response_shows_is_averaged_by_figure_and_compared_with_the_start():
    records = [Record(f"p{i}", [], None, {"topic": "t"}) for i in range(3)]
    keys = [record.key for record in records]
    after = measured_frame(has_an_e, records, samples(["be", "no", "he"], [True, False, True], keys))
    before = measured_frame(has_an_e, records[::-1], samples(["he", "x", "y"], [False, False, True], keys[::-1]))
    assert after[["figure", "value"]].values.tolist() == [["e", 1.0], ["e/t", 1.0], ["e", 0.0], ["e", 1.0],
                                                          ["e/t", 1.0]]
    empty = pd.DataFrame()
    whole = Evaluation(empty, empty, empty, measured=after), Evaluation(empty, empty, empty, measured=before)
    found, made = metrics(PLAIN, *whole), figures(PLAIN, *whole)
    assert found["e"].mean == pytest.approx(2 / 3) and found["e"].n == 3
    assert found["e_minus_sft"].mean == pytest.approx(1 / 3)  # by prompt: (1 − 0) + (0 − 0) + (1 − 1)
    assert made["e/t_minus_sft"].rows.values.tolist() == [[keys[0], 0.0, 1.0]], "prompts that both have: the first"
    assert "e/t_minus_sft" not in found, "one difference has no interval"
    assert (made["e"].kind, made["e_minus_sft"].kind) == ("share", "mean")
    assert found["e/t"].mean == 1.0 and found["e/t"].low < 0.5, "two of two"


def test_what_several_answers_show_is_averaged_within_their_prompt():
    records = [Record(f"p{i}", [], None, {"topic": "t"}) for i in range(2)]
    keys = [record.key for record in records]
    found = measured_frame(has_an_e, records, samples(["be", "no", "he", "me"], [True, True, False, True],
                                                      [keys[0], keys[0], keys[1], keys[1]]))
    empty = pd.DataFrame()
    made = figures(PLAIN, Evaluation(empty, empty, empty, measured=found), None)
    assert made["e"].rows.values.tolist() == [[keys[0], 1.0, 2.0], [keys[1], 2.0, 2.0]]
    assert made["e/t"].rows.values.tolist() == [[keys[0], 2.0, 2.0], [keys[1], 1.0, 1.0]], "of finished answers alone"


def test_a_measure_with_other_values_than_0_and_1_is_no_share():
    found = pd.DataFrame({"prompt_id": list("ab"), "figure": "words", "value": [0.0, 3.0]})
    empty = pd.DataFrame()
    assert figures(PLAIN, Evaluation(empty, empty, empty, measured=found), None)["words"].kind == "mean"


def test_the_evaluation_answers_the_questions_and_measures_the_samples(models):
    records = Records.from_list([Record(f"a hotel {i}", [" was near"], None, {"topic": "t", "origin": "ab"[i % 2]})
                                 for i in range(4)])
    empty = Records.from_list([])
    data = DataSets(empty, empty, empty, records, empty, empty, LoadReport(), choices=Records.from_list(QUESTIONS),
                    measure=has_an_e)
    config = EvalConfig(prompts=4, samples=1, sampling=Sampling(max_new_tokens=5, batch_size=4), batch_size=2)
    result = evaluate(PLAIN, models, data, config, 0, has_reference=False, scorer=None)
    assert len(result.choices) == 3 and set(result.measured["figure"]) <= {"e", "e/t"}
    found = metrics(PLAIN, result, None)
    assert {"accuracy/choices", "accuracy/plain", "e", "perplexity/heldout", "perplexity/heldout/a",
            "perplexity/heldout/b"} <= set(found)
    assert found["perplexity/heldout/a"].n == 2


def test_parts_of_a_mixture_have_figures_of_their_own():
    base = {"prompt": "x", "response": "a b", "logprob_policy": -1.0, "logprob_reference": None, "kl_k1": None,
            "kl_exact": None, "length": 2, "finished": True, "picked": True}
    frame = pd.DataFrame({"prompt_id": list("abcd"), "gold": pd.array([1.0, 2.0, 3.0, 4.0], dtype="Float64"),
                          "proxy": pd.array([None] * 4, dtype="Float64"), "origin": ["one", "one", "two", "two"],
                          **base})
    pairs = pd.DataFrame({"chosen": [1.0, 0.0], "rejected": [0.0, 1.0], "chosen_length": [1, 1],
                          "rejected_length": [1, 1],
                          "prompt_id": ["a", "c"], "origin": ["one", "two"]})
    found = metrics(PLAIN, Evaluation(frame, pd.DataFrame(), pairs), None)
    assert (found["reward/gold"].mean, found["reward/gold/one"].mean, found["reward/gold/two"].mean) == (2.5, 1.5, 3.5)
    assert (found["accuracy/heldout/one"].mean, found["accuracy/heldout/two"].mean) == (1.0, 0.0)
    alone = metrics(PLAIN, Evaluation(frame.assign(origin="one"), pd.DataFrame(), pd.DataFrame()), None)
    assert "reward/gold/one" not in alone, "one origin is no mixture"
