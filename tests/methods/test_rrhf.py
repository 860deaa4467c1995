"""RRHF: its arithmetic on numbers to check by hand, then against loops, then on a model and as a stage."""

import dataclasses
import json
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from algorithms.common.algorithm import Need
from algorithms.common.candidates import Candidates, FromRecords, Sampled
from algorithms.common.data.records import Records
from algorithms.common.data.records.record import Record
from algorithms.common.evaluation.metrics import metrics
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from algorithms.common.training.loop import run_losses
from algorithms.rrhf import RRHF, Ranked, best, length_normalized, rank_loss
from algorithms.sft import SFT
from few import few
from letters import Letters
from stage_setup import EVAL, MODEL, RECIPE, TRAINER, make_bench, make_data
from training_setup import examples, lines, make_context, randomize, two_roles

# y1, y2, y3 of unequal lengths, padded with what must not count
LOGPROBS = [[-.5, -.7, -.3], [-.2, -.4], [-1., -.8, -.6, -.8]]
REWARDS = tensor([[.1, -.4, .9]])
ALL = torch.ones(1, 3, dtype=torch.bool)


def padded(width: int, junk: float = -9.0) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, mask = torch.full((1, 3, width), junk), torch.zeros(1, 3, width, dtype=torch.bool)
    for k, row in enumerate(LOGPROBS):
        logprobs[0, k, :len(row)], mask[0, k, :len(row)] = tensor(row), True
    return logprobs, mask


@pytest.mark.parametrize("width", [4, 8])
def test_by_hand(width):
    """p = −.5, −.3, −.8. Below a better one in reward but not in p: y1 by .3 (y3), y2 by .2 (y1) and .5 (y3)."""
    values = length_normalized(*padded(width))
    torch.testing.assert_close(values, tensor([[-.5, -.3, -.8]]))
    assert rank_loss(values, REWARDS, ALL).item() == pytest.approx(1.0)
    assert best(REWARDS, ALL).item() == 2


@pytest.mark.parametrize("width, wrong", [(4, 1.3), (8, .65)])
def test_lengths_are_the_responses_own(width, wrong):
    """The authors' code divides by the padded length, so the ranking changes with the padding."""
    logprobs, mask = padded(width)
    bug = logprobs.masked_fill(~mask, 0).sum(-1) / width
    assert rank_loss(bug, REWARDS, ALL).item() == pytest.approx(wrong), "what must not come out"
    assert rank_loss(length_normalized(logprobs, mask), REWARDS, ALL).item() == pytest.approx(1.0)


def test_each_violated_pair_pulls_by_one():
    values = tensor([[-.5, -.3, -.8]], requires_grad=True)
    rank_loss(values, REWARDS, ALL).sum().backward()
    assert values.grad.tolist() == [[0., 2., -2.]]


def test_equal_rewards_make_no_pair_and_order_counts_alone():
    values = tensor([[0., 1., 2.]])
    assert rank_loss(values, tensor([[5., 5., 5.]]), ALL).item() == 0
    for scores in ([3., 2., 1.], [900., 2., -70.]):
        assert rank_loss(values, tensor([scores]), ALL).item() == 4
    assert rank_loss(values, tensor([[1., 2., 3.]]), ALL).item() == 0, "no margin"


def test_absent_responses_count_for_nothing():
    values = tensor([[-.5, -.3, math.inf]], requires_grad=True)
    mask = tensor([[True, True, False]])
    loss = rank_loss(values, tensor([[.1, -.4, math.nan]]), mask)
    loss.sum().backward()
    assert loss.item() == pytest.approx(.2) and values.grad.tolist() == [[-1., 1., 0.]]
    there = tensor([[True, True, False], [True, False, False]])
    assert best(tensor([[.1, -.4, math.nan], [math.nan] * 3]), there).tolist() == [0, 0]
    assert best(tensor([[1., 1., 0.]]), ALL).item() == 0, "the first of equals"


def test_length_penalty():
    logprobs, mask = padded(5)
    torch.testing.assert_close(length_normalized(logprobs, mask, length_penalty=0.0), tensor([[-1.5, -.6, -3.2]]))
    torch.testing.assert_close(length_normalized(logprobs, mask, length_penalty=2.0),
                               tensor([[-1.5 / 9, -.6 / 4, -3.2 / 16]]))
    assert length_normalized(logprobs, torch.zeros_like(mask)).tolist() == [[0., 0., 0.]]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5).flatmap(lambda k: st.lists(st.tuples(
    st.lists(st.floats(-5, 5, width=32), min_size=k, max_size=k), st.lists(st.integers(-2, 2), min_size=k, max_size=k),
    st.lists(st.booleans(), min_size=k, max_size=k)), min_size=1, max_size=4)))
def test_rank_loss_is_the_loop_over_pairs(rows):
    values, scores, mask = (tensor([row[i] for row in rows]) for i in range(3))
    expected = [sum(max(0.0, p[i] - p[j]) for i in range(len(p))
                    for j in range(len(p)) if m[i] and m[j] and r[i] < r[j])
                for p, r, m in rows]
    found = rank_loss(values, scores.float(), mask)
    torch.testing.assert_close(found, tensor(expected, dtype=torch.float32), atol=1e-4, rtol=1e-5)


# On a model


@pytest.fixture
def models(make_models):
    models = two_roles(make_models())
    randomize(models, "policy", seed=4, scale=0.1)
    return models


def gradients(models, algorithm, data, folder, size=8):
    """Loss values and gradients of one whole minibatch."""
    models.roles.module.zero_grad(set_to_none=True)
    context = make_context(models, folder, data, micro_batch_size=size)
    found = run_losses(algorithm, context, algorithm.experience(context, data), list(range(len(data))), train=True)
    return found, {key: value.grad.clone()
                   for key, value in models.policy.parameters().items() if value.grad is not None}


def close(one: dict, other: dict, **tolerance) -> None:
    assert one.keys() == other.keys() and len(one)
    for key in one:
        torch.testing.assert_close(one[key], other[key], **tolerance)


@pytest.mark.parametrize("scores", [None, [0.7]])
def test_one_candidate_is_supervised_fine_tuning(models, tmp_path, scores):
    data = [dataclasses.replace(example, scores=scores) for example in examples(7)]
    found, mine = gradients(models, RRHF(), data, tmp_path)
    other, theirs = gradients(models, SFT(), data, tmp_path)
    assert found["loss/policy"] == pytest.approx(other["loss/policy"], rel=1e-6) and found["loss/rank"] == 0
    close(mine, theirs)


def by_plain_rows(models, example, algorithm: RRHF):
    """Ranking and likelihood of one record, a response at a time under plain causal attention; the best's tokens."""
    totals = []
    for response in example.responses:
        ids = example.prompt + response
        with models.roles.use("policy"):
            logps = models.roles.module(input_ids=tensor([ids])).logits[0].log_softmax(-1)
        totals.append(sum(logps[len(example.prompt) - 1 + t, token] for t, token in enumerate(response)))
    p = [total / len(response) ** algorithm.length_penalty for total, response in zip(totals, example.responses)]
    r = example.scores
    rank = sum(torch.relu(p[i] - p[j]) for i in range(len(p)) for j in range(len(p)) if r[i] < r[j])
    top = max(range(len(r)), key=lambda i: (r[i], -i))
    return rank, -totals[top], len(example.responses[top])


@pytest.mark.parametrize("options", [{}, {"rank_weight": 0.3}, {"length_penalty": 0.5}, {"likelihood": "sum"},
                                     {"rank_weight": 2.0, "length_penalty": 0.0, "likelihood": "sum"}], ids=str)
def test_the_loss_is_that_of_plain_rows(models, tmp_path, options):
    data = [dataclasses.replace(example, scores=[.3, -.1, .8, .8]) for example in examples(5, responses=4)]
    algorithm = RRHF(**options)
    found, mine = gradients(models, algorithm, data, tmp_path)
    models.roles.module.zero_grad(set_to_none=True)
    rows = [by_plain_rows(models, example, algorithm) for example in data]
    rank = algorithm.rank_weight * sum(row[0] for row in rows) / 5
    likelihood = sum(row[1] for row in rows) / (5 if algorithm.likelihood == "sum" else sum(row[2] for row in rows))
    assert found["loss/rank"] == pytest.approx(rank.item(), rel=1e-4)
    assert found["loss/policy"] == pytest.approx(likelihood.item(), rel=1e-4)
    (rank + likelihood).backward()
    close(mine, {key: value.grad for key, value in models.policy.parameters().items() if value.grad is not None},
          atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("likelihood", ["mean", "sum"])
def test_micro_batches_change_nothing(models, tmp_path, likelihood):
    data = examples(5, responses=3) + [dataclasses.replace(one, scores=[1.0]) for one in examples(2, seed=1)]
    whole, mine = gradients(models, RRHF(likelihood=likelihood), data, tmp_path, size=8)
    parts, theirs = gradients(models, RRHF(likelihood=likelihood), data, tmp_path, size=2)
    assert whole == pytest.approx(parts, rel=1e-5)
    close(mine, theirs, atol=1e-5, rtol=1e-3)


def test_candidates_share_a_row_and_nothing_is_edited(models):
    batch = models.collate(examples(3, responses=4))
    assert len(batch.input_ids) == 3
    before = {f.name: getattr(batch, f.name).clone()
              for f in dataclasses.fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)}
    terms, found = RRHF().loss(models, batch)
    (terms["rank"].sum + terms["policy"].sum).backward()
    for name, value in before.items():
        torch.testing.assert_close(getattr(batch, name), value, equal_nan=True)
    assert found["rank/accuracy"].numel() == 3 * 6, "one value per ordered pair"
    values = RRHF().score(models, batch).detach()
    # scores fall
    right = [(values[b, i] > values[b, j]).float() for b in range(3) for i in range(4) for j in range(i + 1, 4)]
    assert found["rank/accuracy"].mean().item() == pytest.approx(torch.stack(right).mean().item())


def test_score_is_what_it_ranks_by(models):
    batch = models.collate(examples(3, responses=2))
    logprobs = models.policy.token_logprobs(batch).detach()
    torch.testing.assert_close(RRHF().score(models, batch).detach(), logprobs.sum(-1) / batch.mask.sum(-1))
    torch.testing.assert_close(RRHF(length_penalty=0).score(models, batch).detach(), logprobs.sum(-1))


def test_counts_know_the_best_response(models):
    data = [dataclasses.replace(example, scores=[0., 2., 2.]) for example in examples(4, responses=3)]
    assert Ranked(models, data).counts([0, 2])["best_tokens"] == len(data[0].responses[1]) + len(data[2].responses[1])
    # scores that are equal in a batch's float32 are equal here too
    data = [dataclasses.replace(example, scores=[1.0, 1.0 + 1e-12]) for example in examples(1, responses=2)]
    batch = models.collate(data)
    assert best(batch.scores, batch.present).item() == 0
    assert Ranked(models, data).counts([0])["best_tokens"] == len(data[0].responses[0])


@pytest.mark.parametrize("options, message", [({"rank_weight": -1.0}, "algorithm.rank_weight: found -1"),
                                              ({"length_penalty": -.5}, "algorithm.length_penalty: found -0.5"),
                                              ({"likelihood": "max"},
                                               "algorithm.likelihood: found 'max'; expected mean or sum")])
def test_values_that_cannot_be_used(options, message):
    with pytest.raises(ConfigError, match=message):
        RRHF(**options)


# As a stage


def on_sft(**options) -> RRHF:
    candidates = options.pop("candidates", Candidates(sources={"own": Sampled(count=3)}, max_new_tokens=6))
    return RRHF(needs={"reference": Need(SFT(), RECIPE)}, candidates=candidates, **options)


def data():
    return dataclasses.replace(make_data(), prompts=Records.from_list([Record(f"prompt {i}:", []) for i in range(14)]))


@pytest.fixture
def bench(tmp_path):
    return lambda **changed: make_bench(Store(tmp_path), changed.pop("data", data()), reward=Letters(), **changed)


def test_candidates_are_made_of_what_training_sees_and_charged(bench):
    here, method = bench(), on_sft()
    stage = here.train(method, RECIPE)  # 3 steps of 4 prompts
    ((_, made),) = here.store.entries("candidates")
    spent = json.loads((made / "cost.json").read_text())
    fit, cost = json.loads((stage / "fit.json").read_text()), here.cost(method, RECIPE)
    assert spent["reward_queries"] <= 12 * 3
    assert fit["reward_queries"] == cost["reward_queries"] == spent["reward_queries"]
    assert fit["tokens_sampled"] == cost["tokens_sampled"] == spent["tokens_sampled"] > 0
    assert fit["seconds"] > spent["seconds"] > 0
    assert fit["resident_models"] == 1, "one model in training"
    assert lines(stage)[0]["loss/policy"] > 0 and {"loss/rank", "rank/accuracy", "logps/best"} <= set(lines(stage)[0])


def test_the_candidates_rewards_stand_beside_the_policys(bench):
    first = bench()
    first.evaluate(on_sft(), RECIPE)
    method = on_sft()  # another process finds everything kept
    found = metrics(method, bench().evaluate(method, RECIPE), None)
    mean, top = found["candidates/mean"], found["candidates/best"]
    assert mean.n == top.n == 12 and mean.mean < top.mean and "reward/proxy" in found
    assert mean.unit == "training prompts" and mean.low < mean.mean < mean.high
    assert mean.mean > 6, "the reward counts letters"


def test_another_recipe_trains_on_the_same_candidates_at_the_same_cost(bench, monkeypatch):
    one = bench().train(on_sft(), RECIPE)
    monkeypatch.setattr(Candidates, "_build", lambda *_: pytest.fail("they are kept"))
    other = bench().train(on_sft(rank_weight=0.5, likelihood="sum"), dataclasses.replace(RECIPE, lr=1e-3))
    first, second = (json.loads((folder / "fit.json").read_text()) for folder in (one, other))
    assert one != other
    for key in ("tokens_sampled", "reward_queries"):
        assert first[key] == second[key] > 0


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    def start(folder):
        here = make_bench(Store(tmp_path / folder), data(), reward=Letters())
        return here, here.train(on_sft(), RECIPE)

    _, whole = start("whole")
    loss, calls = RRHF.loss, []

    def dies(self, models, batch):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return loss(self, models, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RRHF, "loss", dies)
        with pytest.raises(Killed):
            start("killed")
    monkeypatch.setattr(Candidates, "_build", lambda *_: pytest.fail("they were made before"))
    _, resumed = start("killed")
    assert lines(resumed) == lines(whole)
    assert (resumed / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()
    costs = [json.loads((folder / "fit.json").read_text()) for folder in (resumed, whole)]
    assert costs[0]["tokens_sampled"] == costs[1]["tokens_sampled"]
    assert costs[0]["reward_queries"] == costs[1]["reward_queries"]


@pytest.mark.slow
def test_held_out_prompts_get_candidates_where_they_are_watched_free_of_charge(bench):
    watching = bench(trainer=dataclasses.replace(TRAINER, evaluate_every=3))
    stage = watching.train(on_sft(), RECIPE)
    assert lines(stage)[-1]["eval/loss/rank"] > 0
    assert "eval/rank/accuracy" in lines(stage)[-1], "several each, and ranked"
    plain = bench(trainer=TRAINER).train(on_sft(), RECIPE)
    queries = [json.loads((folder / "fit.json").read_text())["reward_queries"] for folder in (stage, plain)]
    assert queries[0] == queries[1]


def test_the_records_own_responses_and_scores_need_no_reward(tmp_path):
    method = on_sft(view="ranked", candidates=Candidates({"data": FromRecords()}, scores="records"))
    here = make_bench(Store(tmp_path))  # no reward source
    stage = here.train(method, RECIPE)
    fit = json.loads((stage / "fit.json").read_text())
    assert fit["reward_queries"] == fit["tokens_sampled"] == 0
    found = metrics(method, here.evaluate(method, RECIPE), None)
    assert found["candidates/best"].mean == 1.0 and found["candidates/mean"].mean == 0.5
    assert here.cost(method, RECIPE)["labels"] == 10 and "accuracy/heldout" in found


def test_bare_prompts_have_no_responses_to_give(bench):
    both = Candidates({"own": Sampled(count=1), "data": FromRecords()}, max_new_tokens=6)
    for candidates in (both, Candidates({"data": FromRecords()}, scores="records")):
        with pytest.raises(ConfigError,
                           match="algorithm.view: found prompts with candidates.sources.data, which gives the records' "
                                              "responses; expected a view that has some; fix: algorithm.view=ranked"):
            bench().check(on_sft(candidates=candidates))
    for view in ("ranked", "pairs", "preferred", "demonstrations"):
        bench().check(on_sft(view=view, candidates=both))
    bench().check(on_sft())


@pytest.mark.parametrize("view, sources, scores, labels", few([
    ("ranked", {"data": FromRecords()}, "reward", 0), ("ranked", {"data": FromRecords()}, "records", 10),
    ("pairs", {"data": FromRecords(), "own": Sampled(count=1)}, "reward", 0),
    ("rated", {"data": FromRecords()}, "records", 10),
    ("preferred", {"data": FromRecords()}, "reward", 10), ("preferred", {"own": Sampled(count=1)}, "reward", 0),
    ("prompts", {"own": Sampled(count=1)}, "reward", 0)], [1, 4]))
def test_labels_are_those_that_it_reads(bench, view, sources, scores, labels):
    """Ten comparisons of two responses."""
    method = on_sft(view=view, candidates=Candidates(sources, max_new_tokens=4, scores=scores))
    assert bench().cost(method, dataclasses.replace(RECIPE, steps=1))["labels"] == labels


@dataclasses.dataclass
class Heavy(Letters):
    """A scorer that holds something large."""

    def open(self, models, folders, data, batch_size):
        scorer = super().open(models, folders, data, batch_size)
        held = Letters()
        self.held = weakref.ref(held)
        return lambda responses: scorer(responses) if held else []


def test_a_reward_model_of_its_own_is_gone_once_training_begins(bench, monkeypatch):
    here, loss, seen = bench(), RRHF.loss, []
    here.reward = Heavy()
    monkeypatch.setattr(RRHF, "loss", lambda *given: seen.append(here.reward.held()) or loss(*given))
    stage = here.train(on_sft(), RECIPE)
    assert seen and not any(seen) and json.loads((stage / "fit.json").read_text())["resident_models"] == 1


def test_the_stage_depends_on_its_candidates(bench):
    def key(**options):
        return bench().description(on_sft(**options), RECIPE)

    base = key()
    assert key() == base
    for changed in ({"rank_weight": 0.5}, {"candidates": Candidates({"own": Sampled(count=2)}, max_new_tokens=6)},
                    {"candidates": Candidates({"own": Sampled(count=3)}, max_new_tokens=5)}):
        assert key(**changed) != base
    method = on_sft()
    method.content = lambda: {"other": "weights"}
    assert bench().description(method, RECIPE) != base


def test_training_ranks_better(tmp_path):
    """On candidates whose score counts letters the learned ranking gains."""
    recipe = dataclasses.replace(RECIPE, steps=12, lr=3e-2)
    here = make_bench(Store(tmp_path), data(), reward=Letters(), model=MODEL, eval=EVAL)
    found = lines(here.train(on_sft(), recipe))
    assert found[-1]["rank/accuracy"] > found[0]["rank/accuracy"] and found[-1]["loss/rank"] < found[0]["loss/rank"]
