"""PPO's options reach the advantages and the losses, and its critic starts where it is told to."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import log_softmax

from algorithms.common.data.records import Record
from algorithms.common.models.model import ModelConfig
from algorithms.common.models.roles import state
from algorithms.common.policy_gradient import gae, kl_penalty, whiten
from algorithms.common.recipe import Recipe, TrainerConfig
from algorithms.common.rewards.sources import Gold, Trained, TrainedOwn, Weighted
from algorithms.common.support.errors import ConfigError
from algorithms.common.training.loop import fit, run_losses
from algorithms.ppo import PPO, PtxRollouts
from algorithms.reward_model import RatingModel, RewardModel
from ppo_setup import RECIPE, make, ppo, scorer, with_ptx
from training_setup import lines, randomize


def every_kl(models, examples, temperature: float) -> torch.Tensor:
    """(B, T): Σ_v π(v) (log π(v) − log π_ref(v)) at each token's state, one example at a time by the plain model."""
    rows = []
    for example in examples:
        ids, start = example.prompt + example.responses[0], len(example.prompt)
        both = []
        for name in ("policy", "reference"):
            with models.roles.use(name):
                logits = models.roles.module(torch.tensor([ids])).logits[0, start - 1:-1].float() / temperature
            both.append(log_softmax(logits, -1))  # (T, V)
        rows.append((both[0].exp() * (both[0] - both[1])).sum(-1))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("options", [
    {}, {"kl_coef": 0.7}, {"kl_estimator": "k2", "kl_coef": 0.7}, {"kl_estimator": "k3", "kl_coef": 0.7},
    {"kl_estimator": "full", "kl_coef": 0.7}, {"kl_estimator": "full", "kl_coef": 0.7, "temperature": 0.6},
    {"gamma": 0.9}, {"lam": 0.5}, {"whiten_advantages": False}, {"whiten_rewards": True}, {"score_clip": 0.1},
    {"score_clip": None}, {"score_scaling": "scale"}, {"score_scaling": "normalize"}, {"missing_eos": "replace"},
    {"missing_eos_penalty": 3.0}], ids=str)
def test_options_reach_the_advantages(make_models, tmp_path, options):
    algorithm = ppo(**options)
    context = make(make_models, tmp_path, algorithm, score=lambda rs: [10 * value for value in scorer(rs)])
    randomize(context.models, "policy", seed=8)
    found = algorithm.experience(context, context.examples)
    batch = context.models.collate(found.examples)
    mask = batch.mask[:, 0]
    finished = [example.finished[0] for example in found.examples]
    assert 0 < sum(finished) < 8
    with torch.no_grad():
        models = context.models
        logprobs, refs = (role.token_logprobs(batch, algorithm.temperature)[:, 0]
                          for role in (models.policy, models.reference))
        values = models.role("value").values(batch)[:, 0]
        kl = (every_kl(models, found.examples, algorithm.temperature) if algorithm.kl_estimator == "full" else
              kl_penalty(logprobs, refs, algorithm.kl_estimator))  # (B, T)
    raw = torch.tensor([10 * (sum(t % 7 for t in e.responses[0]) / len(e.responses[0]) - 3.0) for e in found.examples])
    mean, std = raw.mean(), raw.std()
    scores = {"none": raw, "scale": raw / std, "normalize": (raw - mean) / std}[algorithm.score_scaling]
    if algorithm.score_clip:
        scores = scores.clamp(-algorithm.score_clip, algorithm.score_clip)
    penalty = algorithm.missing_eos_penalty
    scores = torch.tensor([s if end else (-penalty if algorithm.missing_eos == "replace" else s - penalty)
                           for s, end in zip(scores.tolist(), finished)])
    rewards = -algorithm.kl_coef * kl * mask
    for row, (score, example) in enumerate(zip(scores, found.examples)):
        rewards[row, len(example.responses[0]) - 1] += score
    if algorithm.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(rewards, values, mask, gamma=algorithm.gamma, lam=algorithm.lam)
    torch.testing.assert_close(found.estimates.returns[:, 0], returns, atol=1e-4, rtol=1e-4)
    expected = whiten(advantages, mask) if algorithm.whiten_advantages else advantages
    torch.testing.assert_close(found.estimates.advantages[:, 0], expected, atol=1e-4, rtol=1e-4)
    assert found.figures["reward/proxy"] == pytest.approx(mean.item(), rel=1e-5)
    assert found.figures["advantage/mean"] == pytest.approx((advantages.sum() / mask.sum()).item(), abs=1e-4)


@pytest.mark.parametrize("options, changed", [
    ({"clip": 0.01}, "policy/clip_fraction"), ({"value_clip": 0.001}, "value/clip_fraction"),
    ({"value_coefficient": 0.7}, "loss/value")])
def test_options_reach_the_losses(make_models, tmp_path, options, changed):
    found = []
    for chosen in ({}, options):
        algorithm = ppo(**chosen)
        context = make(make_models, tmp_path, algorithm)
        rollouts = algorithm.experience(context, context.examples)
        randomize(context.models, "policy", seed=8, scale=0.01)
        randomize(context.models, "value", seed=9, scale=0.01)
        found.append(run_losses(algorithm, context, rollouts, list(range(8)), train=False))
    if changed == "loss/value":
        assert found[1][changed] == pytest.approx(7 * found[0][changed], rel=1e-5)
    else:
        assert found[1][changed] > found[0][changed]


def test_the_critic_alone_learns_from_the_first_batches(make_models, tmp_path):
    algorithm, recipe = ppo(critic_batches=2, target_kl=1e-9, old_kl_coef=0.5), RECIPE
    context = make(make_models, tmp_path, algorithm, recipe)
    start, seen = {name: state(context.models.roles, name) for name in ("policy", "value")}, []
    start = {name: {key: value.clone() for key, value in tensors.items()} for name, tensors in start.items()}
    estimate = algorithm.estimate

    def watched(context, scored):
        seen.append({name: any(not torch.equal(value, start[name][key])
                               for key, value in state(context.models.roles, name).items()) for name in start})
        return estimate(context, scored)

    algorithm.estimate = watched
    fit(algorithm, context)
    assert seen == [{"policy": False, "value": False}, {"policy": False, "value": True},
                    {"policy": False, "value": True}, {"policy": True, "value": True}]
    told = lines(context.target)
    assert ["loss/policy" in line for line in told] == [False, False, True, True]
    assert all("loss/value" in line for line in told) and "loss/old_kl" not in told[0]


def test_what_is_the_policys_rests_while_the_critic_learns_alone(make_models, tmp_path):
    """The KL coefficient is not lowered for a policy that stands still, and no demonstration is learned or counted."""
    algorithm, context = with_ptx(make_models, tmp_path, critic_batches=2, kl_coef=0.1, kl_target=1.0, kl_horizon=200.0)
    fit(algorithm, context)
    told = lines(context.target)
    coefs = [line["kl/coef"] for line in told]
    assert coefs[:3] == [0.1] * 3 and coefs[3] != 0.1
    assert ["loss/ptx" in line for line in told] == [False, False, True, True]
    context.step = 0
    assert not isinstance(algorithm.experience(context, context.examples), PtxRollouts)


def test_a_policy_that_would_learn_from_no_batch_is_refused():
    recipe, trainer = Recipe(lr=1e-3, batch_size=4, epochs=2.0), TrainerConfig()  # 20 records: ten batches
    with pytest.raises(ConfigError, match="algorithm.critic_batches: found 10, and 10 batches in all; .* fix: "
                                          "algorithm.critic_batches=2"):
        ppo(critic_batches=10).check_recipe(recipe, trainer, 20, "recipe")
    for batches in (2, 9):
        ppo(critic_batches=batches).check_recipe(dataclasses.replace(recipe, stop_after=1), trainer, 20, "recipe")


@pytest.mark.parametrize("key, value", [
    ("kl_coef", -1.0), ("kl_coef", math.nan), ("kl_estimator", "k4"), ("critic_batches", -1), ("kl_target", 0.0),
    ("kl_horizon", 0.0),
    ("gamma", 1.1), ("lam", -0.1), ("clip", 0.0), ("clip", 1.0), ("value_clip", 0.0), ("value_coefficient", -1.0),
    ("score_scaling", "std"), ("score_clip", 0.0), ("missing_eos", "ignore"), ("missing_eos_penalty", -1.0),
    ("ptx_coef", -0.1), ("target_kl", 0.0), ("critic", "base"), ("temperature", 0.0), ("temperature", math.inf),
    ("samples", 0), ("max_new_tokens", 0), ("rollout_batch_size", 0)])
def test_options_that_cannot_be_used(key, value):
    with pytest.raises(ConfigError, match=f"algorithm.{key}: found"):
        PPO(**{key: value})


# Where the critic starts


def test_critics(make_models, tmp_path):
    outputs = {}
    for critic in ("reward", "policy", "random"):
        context = make(make_models, tmp_path, ppo(critic=critic))
        models = context.models
        batch = models.collate([models.tokenize(Record("a b", ["c d e"], None, {}))])
        with torch.no_grad():
            outputs[critic] = models.role("value").hidden_states(batch)
            expected = {"reward": models.role("reward"), "policy": models.policy, "random": models.role("base")}[critic]
            assert torch.equal(outputs[critic], expected.hidden_states(batch))
        same = torch.equal(models.role("value").scalar.weight, models.role("reward").scalar.weight)
        assert same == (critic == "reward")
        if same:
            scores = models.role("reward").final_outputs(batch)
            torch.testing.assert_close(models.role("value").final_outputs(batch).detach(), scores)
            assert models.role("value").scalar.weight.data_ptr() != models.role("reward").scalar.weight.data_ptr()


def test_a_critic_from_the_reward_needs_one(make_models):
    models = make_models()
    models.add_role("reference", trainable=False, seed=1)
    with pytest.raises(ConfigError, match="algorithm.critic: found reward, but no reward model.*"
                                          "fix: algorithm.critic=policy"):
        ppo().add_roles(models, 0)
    models = make_models()
    models.add_role("reference", trainable=False, seed=1)
    models.add_role("reward", trainable=False, seed=1)
    models.role("reward").add_scalar_head(5)
    with pytest.raises(ConfigError, match="algorithm.critic: found reward, but a reward model without a scalar head"):
        ppo().add_roles(models, 0)


@pytest.mark.parametrize("source, refused", [
    (Gold(), "no reward model"), (TrainedOwn(RewardModel(), RECIPE, ModelConfig("x")), "no reward model"),
    (Trained(RatingModel(), RECIPE), "a reward model without a scalar head"), (Trained(RewardModel(), RECIPE), None),
    (Weighted({"a": Trained(RewardModel(), RECIPE), "b": Gold()}, {"a": 1.0, "b": 1.0}), None)])
def test_a_critic_from_the_reward_is_asked_for_before_training(source, refused):
    ppo(critic="policy").check(source, ModelConfig("x"))
    if refused is None:
        ppo().check(source, ModelConfig("x"))
        return
    with pytest.raises(ConfigError, match=f"algorithm.critic: found reward, but {refused}.*"
                                          "fix: algorithm.critic=policy"):
        ppo().check(source, ModelConfig("x"))


def test_without_a_supervised_stage_the_reference_is_the_base(make_models):
    models = make_models()
    models.alias("reference", "base")
    algorithm = ppo(critic="policy")
    assert algorithm.needs == {"reference": None}
    algorithm.add_roles(models, 0)
    assert sorted(models.roles.names()) == ["policy", "value"]
