"""Reward models: first the arithmetic, on numbers a reader can check by hand; then on a model."""

import json
import math

import pytest
import torch
from torch import tensor

from algorithms.common.data.batches import collate
from algorithms.common.data.records import DataSets, LoadReport, Records, rated
from algorithms.common.data.records.record import Record
from algorithms.common.data.template import Example
from algorithms.common.evaluation.inference.resampling import calibration_error
from algorithms.common.models.sampling import Sampling, sample
from algorithms.common.recipe import Recipe
from algorithms.common.support.errors import ConfigError, TrainingError
from algorithms.common.support.seeds import derive, permutation
from algorithms.common.training.loop import fit, run_losses
from algorithms.reward_model import (
    RatingModel,
    RewardModel,
    centering_penalty,
    expected_rating,
    mean_over_pairs,
    moments,
    pairwise_loss,
    ranking_loss,
)
from training_setup import examples, lines, make_context, randomize

CHOSEN, REJECTED = tensor([1.2, 0.3, -0.5]), tensor([0.2, 0.8, -1.5])
# The first pair: r_w − r_l = 1, −log σ(1) = log(1 + e^−1) = 0.313262. The second is ranked wrongly, by 0.5.
ALL = torch.ones(1, 4, dtype=torch.bool)
FOUR = tensor([[0.9, 0.1, 0.4, -0.7]])


def close(found, expected, tolerance=1e-6):
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=tolerance, rtol=0)


def test_pairwise_loss():
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    losses = pairwise_loss(chosen, rejected)
    close(losses, [0.313262, 0.974077, 0.313262])
    assert losses.mean().item() == pytest.approx(0.533533, abs=1e-6)
    losses.mean().backward()
    close(chosen.grad, [-0.089647, -0.207486, -0.089647])  # −(1 − σ(r_w − r_l)) / N
    close(rejected.grad, -chosen.grad)


def test_pairwise_loss_with_margins():
    """The margin stands inside the log-sigmoid: the first pair leads by exactly its margin, −log σ(0) = ln 2."""
    chosen = CHOSEN.clone().requires_grad_()
    losses = pairwise_loss(chosen, REJECTED, tensor([1, 1 / 3, 0]))
    close(losses, [0.693147, 1.194218, 0.313262])
    losses.mean().backward()
    close(chosen.grad, [-0.166667, -0.232353, -0.089647])


def test_large_differences_stay_finite():
    rewards = tensor([200.0, -200.0]).requires_grad_()
    losses = pairwise_loss(rewards, -rewards)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 400.0] and rewards.grad[1] == -2.0


def test_ranking_loss():
    """Four responses, best first by score: six pairs, −log σ of 0.8, 0.5, 1.6, −0.3, 0.8, 1.1."""
    rewards = FOUR.clone().requires_grad_()
    loss = ranking_loss(rewards, tensor([[4.0, 3.0, 2.0, 1.0]]), ALL)
    close(loss, [0.423645])
    terms = [math.log1p(math.exp(-d)) for d in (0.8, 0.5, 1.6, -0.3, 0.8, 1.1)]
    close(loss, [sum(terms) / 6])
    loss.sum().backward()
    close(rewards.grad, [[-0.142591, -0.095740, 0.117041, 0.121291]])
    assert rewards.grad.sum().item() == pytest.approx(0, abs=1e-7)


def test_ties_are_dropped_and_the_divisor_is_the_number_of_strict_pairs():
    close(ranking_loss(FOUR, tensor([[4.0, 2.0, 2.0, 1.0]]), ALL), [0.337503])


def test_ranking_loss_of_rows_without_a_strict_pair_is_zero_without_gradient():
    rewards = torch.randn(3, 4).requires_grad_()
    mask = tensor([[True] * 4, [True, False, False, False], [False] * 4])
    loss = ranking_loss(rewards, tensor([[2.0] * 4, [4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]]), mask)
    assert loss.tolist() == [0, 0, 0]
    loss.sum().backward()
    assert not rewards.grad.any()


@pytest.mark.parametrize("outside", [float("nan"), float("inf"), 1e30])
def test_what_stands_outside_the_mask_does_not_matter(outside):
    rewards = tensor([[0.9, 0.1, 0.4, -0.7, outside]], requires_grad=True)
    scores, mask = tensor([[4.0, 3.0, 2.0, 1.0, outside]]), tensor([[True] * 4 + [False]])
    loss = ranking_loss(rewards, scores, mask, margin=0.0) + centering_penalty(rewards, scores, mask)
    loss.sum().backward()
    close(ranking_loss(rewards, scores, mask), [0.423645])
    assert rewards.grad.isfinite().all() and rewards.grad[0, 4] == 0


def test_two_responses_are_a_pair_in_either_order():
    both = torch.stack([CHOSEN, REJECTED], 1)
    mask = torch.ones(3, 2, dtype=torch.bool)
    for rewards, scores in ((both, tensor([1.0, 0.0])), (both.flip(1), tensor([0.0, 1.0]))):
        close(ranking_loss(rewards, scores.expand(3, 2), mask), pairwise_loss(CHOSEN, REJECTED))
        asked = ranking_loss(rewards, 3 * scores.expand(3, 2), mask, margin=0.5)
        close(asked, pairwise_loss(CHOSEN, REJECTED, tensor(1.5)))


def test_order_within_a_row_does_not_matter():
    scores, order = tensor([[4.0, 2.0, 2.0, 1.0]]), torch.randperm(4)
    close(ranking_loss(FOUR[:, order], scores[:, order], ALL, margin=0.3), ranking_loss(FOUR, scores, ALL, margin=0.3))


def test_centering_penalty():
    """r_w + r_l = 1.4, 1.1, −2.0: the mean of the squares is 2.39; with margins and c = 0.01 the total is 0.757442."""
    both, scores = torch.stack([CHOSEN, REJECTED], 1), tensor([1.0, 0.0]).expand(3, 2)
    penalty = centering_penalty(both, scores, torch.ones(3, 2, dtype=torch.bool))
    close(penalty.mean(), 2.39, 1e-5)
    close(pairwise_loss(CHOSEN, REJECTED, tensor([1, 1 / 3, 0])).mean() + 0.01 * penalty.mean(), 0.757442)


def test_ratings():
    logits = tensor([[0.2, -0.1, 0.5, 1.5, 0.3]])
    close(torch.nn.functional.cross_entropy(logits, tensor([3])), 0.762441)  # the rating 4 of 1 … 5
    close(expected_rating(logits), [3.399080])
    close(expected_rating(logits, lowest=0), [2.399080])
    close(expected_rating(torch.zeros(2, 3, 5)), torch.full((2, 3), 3.0))


def test_moments():
    """Rewards 2, 4, 6, 8: gain 1/√5 = 0.447214 and bias −5/√5, by the population's deviation."""
    mean, std = moments(tensor([2.0, 4.0, 6.0, 8.0]))
    assert (1 / std, -mean / std) == pytest.approx((0.447214, -2.236068), abs=1e-6)
    for same in (torch.full((8,), 3.7), torch.full((8,), 1e4) + 1e-3 * torch.arange(8), tensor([float("nan"), 1.0])):
        with pytest.raises(TrainingError, match="expected rewards that differ"):
            moments(same)


def test_calibration_error():
    """Two bins of confidence: 0.75 sure and right three times in four; 0.95 sure and right once in two, off by 0.45."""
    sure, surer = math.log(3), math.log(19)
    found = calibration_error([sure, sure, sure, -sure, surer, -surer], list("abcdef"), draws=200)
    assert found.mean == pytest.approx(2 * 0.45 / 6) and found.n == 6 and found.low <= found.mean <= found.high
    assert calibration_error([0.0, 0.0], ["a", "a"]).mean == 0, "a model that knows nothing and says so"
    assert calibration_error([1e4, -1e4], ["a", "a"]).mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="clusters 2; expected one of each per pair, finite"):
        calibration_error([0.0] * 3, ["a", "b"])


# On a model


def with_head(models, algorithm, scale=0.05):
    algorithm.add_roles(models, seed=0)
    randomize(models, "reward", scale=scale)
    return models


@pytest.fixture
def reward_models(make_models):
    models = make_models()
    models.add_role("reference", trainable=False, seed=0)
    return with_head(models, RewardModel())


def ranked_examples(count=6, responses=4):
    """Every third row has a tie, every other row one response fewer."""
    made = []
    for index, example in enumerate(examples(count, responses)):
        size = responses - index % 2
        scores = [float(-k) for k in range(size)]
        if index % 3 == 0:
            scores[1] = scores[2]
        made.append(Example(example.prompt, example.responses[:size], [True] * size, scores, example.record))
    return made


@pytest.mark.parametrize("algorithm", [RewardModel(), RewardModel(view="ranked"), RatingModel()],
                         ids=["pairs", "ranked", "ratings"])
def test_right_padding_and_neighbours_do_not_change_a_score(make_models, algorithm):
    models = make_models()
    models.add_role("reference", trainable=False, seed=0)
    with_head(models, algorithm, 0.2)
    rows = ranked_examples()
    with torch.no_grad():
        together = algorithm.score(models, models.collate(rows))
        for index, example in enumerate(rows):
            for k, response in enumerate(example.responses):
                alone = Example(example.prompt, [response], [True], None, "alone")
                close(algorithm.score(models, collate([alone], "plain"))[0, 0], together[index, k], 1e-5)
    absent = ~models.collate(rows).present
    assert absent.any() and (together[absent] == 0).all()
    assert together[~absent].std() > 1e-3


def test_the_reward_is_read_at_the_last_token(reward_models):
    example = examples(1, 1)[0]
    models, ids = reward_models, example.prompt + example.responses[0]
    with torch.no_grad(), models.roles.use("reward"):
        module = models.roles.module.eval()
        states = module.model(input_ids=torch.tensor([ids])).last_hidden_state
        expected = models.role("reward").scalar(states[0, -1])
        found = RewardModel().rewards(models, models.collate([example]))
    close(found[0], expected, 1e-5)


def test_the_loss_starts_at_ln_2_whatever_the_states_and_all_weights_learn(make_models, tmp_path):
    models, rows, algorithm = make_models(), ranked_examples(8), RewardModel(view="ranked", centering=0.1)
    models.add_role("reference", trainable=False, seed=1)
    algorithm.add_roles(models, 3)
    role = models.role(algorithm.role)
    first = {name: weight.detach().clone() for name, weight in role.parameters().items()}
    assert role.scalar.weight.dtype == torch.float32 and role.scalar.weight.shape == (1, 32)
    context = make_context(models, tmp_path, rows, micro_batch_size=8)
    optimizer = torch.optim.AdamW(role.parameters().values(), lr=1e-2)
    losses = []
    for _ in range(4):  # the head; then LoRA's B, which has a gradient once the head has weight; then its A
        optimizer.zero_grad()
        found = run_losses(algorithm, context, algorithm.experience(context, rows), list(range(8)), train=True)
        losses.append(found["loss/reward"])
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and losses[-1] < losses[0]
    still = [name for name, weight in role.parameters().items() if torch.equal(weight, first[name])]
    assert not still or still == ["scalar.bias"]


def test_the_loss_of_a_batch_is_the_mean_of_its_prompts(reward_models, tmp_path):
    """K-wise, 8 micro-batches of 1 equal 1 of 8, values and gradients; each prompt's pairs are those of its records."""
    rows, algorithm = ranked_examples(8), RewardModel(view="ranked", margin=0.3, centering=0.1)
    results = []
    for size in (1, 8):
        context = make_context(reward_models, tmp_path / str(size), rows, micro_batch_size=size)
        for parameter in reward_models.role("reward").parameters().values():
            parameter.grad = None
        values = run_losses(algorithm, context, algorithm.experience(context, rows), list(range(8)), train=True)
        results.append((values, {k: p.grad.clone() for k, p in reward_models.role("reward").parameters().items()}))
    for name, value in results[0][0].items():
        assert value == pytest.approx(results[1][0][name], abs=1e-5), name
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], atol=1e-5, rtol=1e-4)

    by_hand, squares = [], []
    with torch.no_grad():
        for example in rows:
            r = algorithm.rewards(reward_models, reward_models.collate([example]))[0].tolist()
            pairs = [(i, j) for i in range(len(example.scores))
                     for j in range(len(example.scores)) if example.scores[i] > example.scores[j]]
            gaps = [r[i] - r[j] - 0.3 * (example.scores[i] - example.scores[j]) for i, j in pairs]
            by_hand.append(sum(math.log1p(math.exp(-gap)) for gap in gaps) / len(pairs))
            squares.append(sum((r[i] + r[j]) ** 2 for i, j in pairs) / len(pairs))
    assert values["loss/reward"] == pytest.approx(sum(by_hand) / 8, abs=1e-5)
    assert values["loss/centering"] == pytest.approx(0.1 * sum(squares) / 8, abs=1e-5)


def test_pairs_and_rankings_of_two_are_the_same(reward_models):
    rows = examples(5, 2)
    batch = reward_models.collate(rows)
    one, other = RewardModel().loss(reward_models, batch), RewardModel(view="ranked").loss(reward_models, batch)
    assert one.terms["reward"].sum.item() == other.terms["reward"].sum.item()
    rewards = RewardModel().rewards(reward_models, batch)
    close(one.terms["reward"].sum, pairwise_loss(rewards[:, 0], rewards[:, 1]).sum(), 1e-5)
    close(one.metrics["rewards/margin"], (rewards[:, 0] - rewards[:, 1]).detach(), 1e-6)
    assert one.metrics["rewards/accuracy"].tolist() == (rewards[:, 0] > rewards[:, 1]).float().tolist()


def test_at_the_start_of_a_zero_head_the_loss_is_ln_2(reward_models):
    for parameter in reward_models.role("reward").scalar.parameters():
        torch.nn.init.zeros_(parameter)
    batch = reward_models.collate(ranked_examples())
    terms = RewardModel(view="ranked").loss(reward_models, batch).terms
    assert terms["reward"].sum.item() / 6 == pytest.approx(math.log(2), abs=1e-6) and terms["centering"].sum == 0


# Normalisation


def data_with_prompts(count=20) -> DataSets:
    empty = Records.from_list([])
    return DataSets(preferences=empty, demonstrations=empty, evaluation=empty, heldout=empty, tuning=empty,
                    report=LoadReport(),
                    prompts=Records.from_list([Record(f" the room {i} was", []) for i in range(count)]))


def trained(make_models, folder, algorithm, steps=3, data=None, every=1):
    models = make_models(max_length=64)
    models.add_role("reference", trainable=False, seed=0)
    randomize(models, "reference")
    algorithm.add_roles(models, seed=0)
    context = make_context(models, folder, data or examples(12, 2), Recipe(lr=1e-2, batch_size=4, steps=steps),
                           checkpoint_every=every)
    context.data = data_with_prompts()
    algorithm.fit(context)
    return context


def test_rewards_of_reference_samples_have_mean_0_and_deviation_1(make_models, tmp_path):
    algorithm = RewardModel(normalize_on=8, max_new_tokens=6)
    context = trained(make_models, tmp_path, algorithm)
    models, prompts = context.models, context.data.prompts
    chosen = [prompts[i] for i in permutation(len(prompts), context.seed, "normalization")[:8]]
    drawn = sample(models, "reference", [models.prompt_ids(record.prompt, 6) for record in chosen],
                   Sampling(max_new_tokens=6),
                   derive(context.seed, "normalization"), keys=[record.key for record in chosen])
    batch = models.collate([Example(models.prompt_ids(record.prompt, 6), [one.ids], [one.finished], None, record.key)
                            for record, (one,) in zip(chosen, drawn)])
    with torch.no_grad():
        scores = algorithm.score(models, batch)[:, 0]
        as_critic = models.role("reward").final_outputs(batch)[:, 0, 0]
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    close(as_critic, scores)  # a critic that copies the head starts at the normalised reward
    assert abs(algorithm.std - 1) > 1e-3
    raw = trained(make_models, tmp_path / "raw", RewardModel(normalize_on=None)).models
    pair = models.collate(examples(4, 2, seed=9))
    with torch.no_grad():
        before = raw.role("reward").final_outputs(batch)[:, 0, 0]
        moments = before.mean().item(), before.std(correction=0).item()
        assert (algorithm.mean, algorithm.std) == pytest.approx(moments, rel=1e-3)
        r = raw.role("reward").final_outputs(pair)[..., 0]
        close(algorithm.preference_logits(algorithm.score(models, pair)), r[:, 0] - r[:, 1], 1e-5)
    fit = json.loads((context.target / "fit.json").read_text())
    assert fit["tokens_sampled"] == sum(len(one.ids) for one, in drawn)


def test_mean_and_deviation_are_kept_and_come_back(make_models, tmp_path):
    algorithm = RewardModel(normalize_on=8, max_new_tokens=6)
    context = trained(make_models, tmp_path, algorithm)
    other = RewardModel(normalize_on=8, max_new_tokens=6)
    other.load_state_dict(json.loads(json.dumps(algorithm.state_dict())))
    batch = context.models.collate(examples(3, 2))
    with torch.no_grad():
        assert other.score(context.models, batch).equal(algorithm.score(context.models, batch))


def test_a_killed_and_resumed_model_has_the_same_statistics(make_models, tmp_path, monkeypatch):
    whole = RewardModel(normalize_on=8, max_new_tokens=6)
    trained(make_models, tmp_path / "whole", whole)
    for call in ("loss", "reference_samples"):  # killed while training; killed after the last step
        with monkeypatch.context() as patch:
            original, calls = getattr(RewardModel, call), []

            def dies(self, *args, original=original, calls=calls, call=call):
                calls.append(1)
                if len(calls) == (2 if call == "loss" else 1):
                    raise KeyboardInterrupt
                return original(self, *args)

            patch.setattr(RewardModel, call, dies)
            with pytest.raises(KeyboardInterrupt):
                trained(make_models, tmp_path / call, RewardModel(normalize_on=8, max_new_tokens=6))
        again = RewardModel(normalize_on=8, max_new_tokens=6)
        context = trained(make_models, tmp_path / call, again)
        assert again.state_dict() == whole.state_dict()
        assert lines(context.target) == lines(tmp_path / "whole" / "target")


def test_a_model_without_spread_is_refused(make_models, tmp_path, monkeypatch):
    monkeypatch.setattr(RewardModel, "rewards", lambda self, models, batch:
                        models.role("reward").final_outputs(batch).squeeze(-1) * 0 + 3.5)
    with pytest.raises(TrainingError,
                       match="mean 3.5 and standard deviation 0 on 8 reference samples.*normalize_on=null"):
        trained(make_models, tmp_path, RewardModel(normalize_on=8, max_new_tokens=6))


def test_raw_rewards_by_option(make_models, tmp_path):
    algorithm = RewardModel(normalize_on=None)
    context = trained(make_models, tmp_path, algorithm)
    assert algorithm.state_dict() == {"mean": 0.0, "std": 1.0} and context.meter.tokens_sampled == 0


# Ratings


def rating_examples(count=12):
    return [Example(e.prompt, e.responses, e.finished, [float(1 + (i + k) % 5) for k in range(len(e.responses))],
                    e.record)
            for i, e in enumerate(examples(count, 2))]


def test_the_rating_loss_is_the_mean_over_responses(make_models):
    models = make_models()
    models.add_role("reference", trainable=False, seed=0)
    algorithm = RatingModel()
    with_head(models, algorithm)
    rows = rating_examples(4)
    batch = models.collate([Example(e.prompt, e.responses[:1 + i % 2], [True] * (1 + i % 2), e.scores[:1 + i % 2],
                                    e.record)
                            for i, e in enumerate(rows)])
    with torch.no_grad():
        logits = models.role("reward").final_outputs(batch)
        term = algorithm.loss(models, batch).terms["reward"]
    assert logits.shape == (4, 2, 5) and term.per == "responses"
    expected = sum(-logits[b, k].log_softmax(-1)[int(batch.scores[b, k]) - 1].item() for b in range(4)
                   for k in range(1 + b % 2))
    assert term.sum.item() == pytest.approx(expected, abs=1e-4)


def test_ratings_are_learned_and_become_the_reward(make_models, tmp_path):
    algorithm = RatingModel(normalize_on=8, max_new_tokens=6)
    context = trained(make_models, tmp_path, algorithm, steps=60, data=rating_examples(4), every=60)
    found = lines(context.target)
    assert found[-1]["loss/reward"] < 0.3 < 1.0 < found[0]["loss/reward"]
    batch = context.models.collate(rating_examples(4))
    with torch.no_grad():
        rewards = algorithm.rewards(context.models, batch)
    assert (rewards - batch.scores).abs().max() < 1
    assert algorithm.preference_logits(rewards) is None, "a classifier of ratings models no comparison"


@pytest.mark.parametrize("score, options, fix", [
    (5.0, {}, None), (0.0, {"lowest": 0}, None), (9.0, {"bins": 10}, None),
    (6.0, {}, "here.lowest=1 here.bins=6"), (0.0, {}, "here.lowest=0 here.bins=5"),
    (5.0, {"lowest": 0}, "here.lowest=1 here.bins=5"), (2.5, {}, "round them by data.mapper, or a reward_model"),
    (200.0, {}, "round them by data.mapper, or a reward_model")])
def test_ratings_that_are_no_class_are_refused_with_values_that_fit(score, options, fix):
    records = Records.from_list([Record("a", [" x", " y"], [1.0, 4.0]), Record("b", [" x"], [score]), Record("c", [])])
    algorithm = RatingModel(**options)
    if fix is None:
        algorithm.check_records(records, "here")
        return
    with pytest.raises(ConfigError, match="here.lowest: found ratings from .* to .*; expected whole ratings") as error:
        algorithm.check_records(records, "here")
    told = str(error.value).partition("; fix: ")[2]
    assert told.startswith(fix)
    if "here." in fix:
        values = dict(item.removeprefix("here.").split("=") for item in told.split())
        RatingModel(lowest=int(values["lowest"]), bins=int(values["bins"])).check_records(records, "here")


def test_rated_records_are_all_that_have_scores():
    records = Records.from_list([Record("a", [" x"], [4.0]), Record("b", [" x"]), Record("c", [" x", " y"], [2.0, 2.0]),
                                 Record("d", [])])
    assert [record.prompt for record in rated(records)] == ["a", "c"]


@pytest.mark.parametrize("kind, options, message", [
    (RewardModel, {"view": "prompts"}, "algorithm.view: found 'prompts'; expected pairs or ranked"),
    (RewardModel, {"margin": -1.0}, "algorithm.margin: found -1.0"),
    (RewardModel, {"centering": math.inf}, "algorithm.centering: found inf"),
    (RewardModel, {"normalize_on": 1}, "algorithm.normalize_on: found 1; expected at least 2, or null"),
    (RatingModel, {"bins": 1}, "algorithm.bins: found 1"),
    (RatingModel, {"max_new_tokens": 0}, "algorithm.max_new_tokens: found 0")])
def test_constants_that_cannot_be_used(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)


def test_the_loop_trains_the_reward_role_alone(make_models, tmp_path):
    """The frozen reference is bit-identical afterwards, and the model has learned its pairs."""
    models = make_models()
    models.add_role("reference", trainable=False, seed=0)
    before = {name: value.clone() for name, value in models.reference.parameters().items()}
    algorithm = RewardModel(normalize_on=None)
    algorithm.add_roles(models, seed=0)
    context = make_context(models, tmp_path, examples(8, 2), Recipe(lr=1e-2, batch_size=8, steps=40))
    fit(algorithm, context)
    found = lines(context.target)
    assert found[0]["loss/reward"] == pytest.approx(math.log(2), abs=0.2) and found[-1]["rewards/accuracy"] == 1.0
    assert all(before[name].equal(value) for name, value in models.reference.parameters().items())


def test_mean_over_pairs():
    values = torch.arange(9.0).view(1, 3, 3)  # values[i, j] = 3 i + j; pairs (0, 1), (0, 2), (1, 2) of scores 3 > 2 > 1
    close(mean_over_pairs(values, tensor([[3.0, 2.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)), [(1 + 2 + 5) / 3])
