"""K responses to a prompt, for any policy gradient: what is sampled, scored and penalised, and what a step learns."""

from dataclasses import dataclass, fields

import pytest
import torch

from algorithms.common.algorithm import Meter
from algorithms.common.data.records import Record
from algorithms.common.data.template import Example
from algorithms.common.models import sampling
from algorithms.common.policy_gradient import RunningMoments
from algorithms.common.recipe import Recipe
from algorithms.common.rollouts import Estimates, PolicyGradient, generate
from algorithms.common.support.errors import ConfigError
from algorithms.common.training.loop import evaluate_loss, fit, run_losses
from algorithms.dr_grpo import DrGRPO
from algorithms.grpo import GRPO
from algorithms.ppo import PPO
from algorithms.reinforce import Reinforce
from algorithms.rloo import RLOO
from training_setup import lines, make_context, randomize

K = 3
PROMPTS = ["the film", "a hotel with a view", "we", "the laptop in the box", "my phone", "a concert at night"]
RECIPE = Recipe(lr=1e-2, batch_size=3, steps=4, inner_epochs=2, minibatch_size=2, warmup=0.0)


@dataclass
class LeaveOneOut(PolicyGradient):
    """The baseline of a response is the mean of the prompt's others; it remembers how many it has seen."""

    samples: int = K

    def start(self):
        super().start()
        self.seen = RunningMoments()

    def estimate(self, context, scored):
        returns = scored.rewards.sum(-1)  # (B, K)
        if torch.is_grad_enabled():
            self.seen.update(returns)
        others = (returns.sum(1, keepdim=True) - returns) / (returns.shape[1] - 1)
        return Estimates((returns - others).unsqueeze(-1))

    def state_dict(self):
        return {**super().state_dict(), "seen": self.seen.state_dict()}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.seen = RunningMoments(**state["seen"])


def scorer(responses) -> list[float]:
    return [sum(token % 7 for token in r.ids) / len(r.ids) - 3.0 + 0.1 * len(r.record) for r in responses]


def make(make_models, folder, algorithm, recipe=RECIPE, trainer=None, **options):
    """A context whose policy is neither the reference nor the base."""
    models = make_models(**options)
    models.template.stop_ids = list(range(0, 1536, 6))  # a random model would hardly ever stop
    for name, seed in (("reference", 1), ("reward", 2)):
        models.add_role(name, trainable=False, seed=seed)
        randomize(models, name, seed)
    models.role("reward").add_scalar_head(seed=4)
    algorithm.add_roles(models, seed=5)
    randomize(models, "policy", seed=8)
    records = [Record(prompt, [], None, {}) for prompt in PROMPTS]
    data = [models.tokenize(record) for record in records]
    context = make_context(models, folder, data, recipe, **(trainer or {}))
    context.records, context.reward = records, scorer
    return context


def method(**options) -> LeaveOneOut:
    return LeaveOneOut(**{"max_new_tokens": 6, "kl_coef": 0.3, "rollout_batch_size": 8, **options})


# Sampling and scoring


def test_a_prompt_is_read_once_for_all_its_responses(make_models, tmp_path, monkeypatch):
    context, read = make(make_models, tmp_path, method()), []
    monkeypatch.setattr(sampling, "prefill", lambda models, prompts, *more, prefill=sampling.prefill:
                        read.extend(prompts) or prefill(models, prompts, *more))
    options = {"max_new_tokens": 6, "temperature": 1.0, "batch_size": 8}
    rolled = generate(context, "policy", context.examples, samples=K, **options)
    assert sorted(read) == sorted(example.prompt for example in context.examples)
    assert all(len(example.responses) == K == len(example.finished) for example in rolled)
    assert len({tuple(ids) for example in rolled for ids in example.responses}) > 2 * len(rolled), "no copies"
    assert context.meter.tokens_sampled == sum(len(ids) for example in rolled for ids in example.responses)
    first = generate(context, "policy", context.examples, **options)
    assert [one.responses[0] for one in first] == [one.responses[0] for one in rolled], "more samples change none"


def test_every_response_is_scored_beside_its_own_prompt(make_models, tmp_path):
    algorithm, seen = method(), []
    context = make(make_models, tmp_path, algorithm)
    context.reward = lambda responses: seen.extend(responses) or scorer(responses)
    rollouts = algorithm.experience(context, context.examples)
    expected = [(record.prompt, record.key, ids, end) for record, example in zip(context.records, rollouts.examples)
                for ids, end in zip(example.responses, example.finished)]
    assert [(r.prompt, r.record, r.ids, r.finished) for r in seen] == expected
    assert context.meter.reward_queries == len(PROMPTS) * K == algorithm.moments.count


@pytest.mark.parametrize("rows", ["shared", "plain"])
def test_advantages_and_gradients_equal_one_response_at_a_time(make_models, tmp_path, rows):
    """Every number of an update again, from single rows: rewards add up to score − β KL, less the others' mean."""
    algorithm = method(missing_eos_penalty=0.5)
    context = make(make_models, tmp_path, algorithm, trainer={"micro_batch_size": 2}, rows=rows)
    models = context.models
    rollouts = algorithm.experience(context, context.examples)
    count = len(PROMPTS)
    values = run_losses(algorithm, context, rollouts, list(range(count)), train=True)
    found = {key: parameter.grad.clone() for key, parameter in models.policy.parameters().items()}

    total, tokens, returns, kls = 0.0, 0, torch.zeros(count, K), []
    singles = [[Example(example.prompt, [ids], [end], None, example.record)
                for ids, end in zip(example.responses, example.finished)] for example in rollouts.examples]
    with torch.no_grad():
        for b, row in enumerate(singles):
            for k, one in enumerate(row):
                batch = models.collate([one])
                kl = (models.policy.token_logprobs(batch) - models.reference.token_logprobs(batch)).sum().item()
                raw = sum(token % 7 for token in one.responses[0]) / len(one.responses[0]) - 3.0 + 0.1 * len(one.record)
                returns[b, k] = max(-5.0, min(5.0, raw)) - (0 if one.finished[0] else 0.5) - 0.3 * kl
                kls.append(kl)
    for parameter in models.policy.parameters().values():
        parameter.grad = None
    for b, row in enumerate(singles):
        for k, one in enumerate(row):
            others = [returns[b, j].item() for j in range(K) if j != k]
            advantage = returns[b, k].item() - sum(others) / len(others)
            assert rollouts.estimates.advantages[b, k].item() == pytest.approx(advantage, abs=1e-4)
            # on policy ρ is 1 and its gradient that of log π: REINFORCE
            total = total - advantage * models.policy.token_logprobs(models.collate([one])).sum()
            tokens += len(one.responses[0])
    (total / tokens).backward()
    for key, parameter in models.policy.parameters().items():
        torch.testing.assert_close(found[key], parameter.grad, atol=1e-5, rtol=1e-3)
    assert any(gradient.abs().max() > 1e-2 for gradient in found.values())
    assert values["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
    assert rollouts.figures["kl/k1"] == pytest.approx(sum(kls) / len(kls), abs=1e-4)
    assert rollouts.figures["reward/shaped"] == pytest.approx(returns.mean().item(), abs=1e-4)


# Steps


@pytest.mark.parametrize("algorithm", [method(), method(whiten_advantages=True),
                                       PPO(critic="policy", samples=K, max_new_tokens=6, rollout_batch_size=8)],
                         ids=["group", "whitened", "critic"])
def test_six_times_one_equals_one_times_six(make_models, tmp_path, algorithm):
    """The responses of a prompt stay in one row, so a micro-batch of 1 holds K of them."""
    found = {}
    for micro in (1, 6):
        recipe = Recipe(lr=1e-3, batch_size=6, steps=2, inner_epochs=2, minibatch_size=3, max_grad_norm=0.05)
        context = make(make_models, tmp_path / str(micro), algorithm, recipe, {"micro_batch_size": micro})
        algorithm.fit(context)
        found[micro] = lines(context.target), context.models.policy.parameters()
    for one, other in zip(found[1][0], found[6][0]):
        assert one == pytest.approx(other, rel=2e-4, abs=5e-5)
    for key, value in found[6][1].items():
        torch.testing.assert_close(found[1][1][key], value, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", [RLOO, Reinforce, GRPO, DrGRPO])
def test_advantages_of_whole_responses_are_whitened_over_responses(make_models, tmp_path, kind):
    """However long each is; and the loss is that of the whitened ones."""
    plain, whitened = (kind(samples=K, max_new_tokens=6, whiten_advantages=whiten) for whiten in (False, True))
    context = make(make_models, tmp_path, plain)
    before = plain.experience(context, context.examples).estimates.advantages  # (B, K, 1)
    rollouts = whitened.experience(context, context.examples)
    found = rollouts.estimates.advantages
    assert found.shape == before.shape == (6, K, 1)
    expected = (before - before.mean()) / before.std(correction=0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.std(correction=0).item() == pytest.approx(1, rel=1e-3)
    for indices in ([0], [2, 4], list(range(6))):  # a single prompt, too
        values = run_losses(whitened, context, rollouts, indices, train=True)
        assert values["policy/ratio_max"] == pytest.approx(1, abs=1e-4)
        if kind in (RLOO, Reinforce):  # ρ = 1: minus the mean advantage
            assert values["loss/policy"] == pytest.approx(-expected[indices].mean().item(), abs=1e-4)


def test_a_minibatch_has_whole_prompts(make_models, tmp_path):
    algorithm = method()
    context = make(make_models, tmp_path, algorithm)
    rollouts = algorithm.experience(context, context.examples)
    assert len(rollouts) == len(PROMPTS) and rollouts.counts([1, 4])["responses"] == 2 * K
    assert rollouts.lengths() == [len(e.prompt) + sum(map(len, e.responses)) for e in rollouts.examples]
    minibatch = rollouts.select([4, 1])
    assert minibatch.batch.mask.shape[:2] == (2, K) and minibatch.batch.records == tuple(
        context.records[index].key for index in (4, 1))
    assert minibatch.logprobs.shape == minibatch.ref_logprobs.shape == minibatch.batch.mask.shape
    assert minibatch.estimates.advantages.shape == (2, K, 1)
    with torch.no_grad():
        torch.testing.assert_close(minibatch.logprobs, context.models.policy.token_logprobs(minibatch.batch))
        torch.testing.assert_close(minibatch.ref_logprobs, context.models.reference.token_logprobs(minibatch.batch))


def test_a_critic_treats_each_response_as_an_episode_of_its_own(make_models, tmp_path):
    """PPO with K responses to each of 6 prompts: the estimates of PPO with one response to each of 6 · K."""
    algorithm = PPO(critic="reward", samples=K, max_new_tokens=6, kl_coef=0.3, rollout_batch_size=8)
    context = make(make_models, tmp_path, algorithm)
    rollouts = algorithm.experience(context, context.examples)
    single = PPO(critic="reward", max_new_tokens=6, kl_coef=0.3)
    drawn = [Example(example.prompt, [ids], [end], None, example.record) for example in rollouts.examples
             for ids, end in zip(example.responses, example.finished)]
    single.sample = lambda *_: drawn
    expected = single.experience(context, context.examples)
    for field in fields(expected.estimates):
        found = getattr(rollouts.estimates, field.name).flatten(0, 1)
        torch.testing.assert_close(found, getattr(expected.estimates, field.name)[:, 0], atol=1e-4, rtol=1e-4)
    numbers = {key: value for key, value in expected.figures.items() if not key.startswith(("timing/", "sample/"))}
    assert {key: rollouts.figures[key] for key in numbers} == pytest.approx(numbers, abs=1e-4, rel=1e-4)


def test_every_method_logs_the_same(make_models, tmp_path):
    found = []
    for name, algorithm in {"group": method(), "critic": PPO(max_new_tokens=6)}.items():
        context = make(make_models, tmp_path / name, algorithm)
        algorithm.fit(context)
        found.append(set(lines(context.target, timing=True)[-1]))
    assert found[0] < found[1] and all("value" in name or "returns" in name for name in found[1] - found[0])


def test_a_batch_is_left_on_kl(make_models, tmp_path):
    algorithm = method(target_kl=1e-9)
    context = make(make_models, tmp_path, algorithm)
    algorithm.fit(context)
    assert all(line["stopped"] == 1 for line in lines(context.target))


def test_a_method_without_advantages_says_so(make_models, tmp_path):
    algorithm = PolicyGradient(max_new_tokens=6)
    with pytest.raises(NotImplementedError, match="PolicyGradient is a policy gradient, so it needs to estimate"):
        algorithm.experience(context := make(make_models, tmp_path, algorithm), context.examples)


def test_the_controller_counts_every_response(make_models, tmp_path):
    algorithm = method(kl_target=1e-3, kl_horizon=100.0)
    context = make(make_models, tmp_path, algorithm)
    algorithm.experience(context, context.examples)
    assert algorithm.controller.coef == pytest.approx(0.3 * (1 + 0.2 * len(PROMPTS) * K / 100))
    with pytest.raises(ConfigError, match=r"kl_horizon: found 1.8; expected more than a fifth .* responses \(9\)"):
        method(kl_target=1e-3, kl_horizon=1.8).fit(context)


# State


def test_held_out_prompts_move_no_state(make_models, tmp_path):
    algorithm = method()
    context = make(make_models, tmp_path, algorithm)
    context.heldout, context.heldout_records = context.examples[:2], context.records[:2]
    before = algorithm.state_dict()
    assert {"eval/reward/proxy", "eval/kl/k1", "eval/loss/policy"} <= evaluate_loss(algorithm, context).keys()
    assert algorithm.state_dict() == before and vars(context.meter) == vars(Meter())


class Killed(Exception):
    pass


def train(make_models, folder, die: int | None = None):
    """Train in models of its own, from whatever the folder holds; ``die``: at which loss."""
    algorithm = method(score_scaling="normalize", kl_target=0.5, kl_horizon=50.0)
    context = make(make_models, folder, algorithm, trainer={"checkpoint_every": 1, "micro_batch_size": 1})
    loss, calls = algorithm.loss, []

    def dies(*given):
        calls.append(1)
        if len(calls) == die:
            raise Killed
        return loss(*given)

    algorithm.loss = dies
    if die is None:
        fit(algorithm, context)
        policy = {key: value.detach().clone() for key, value in context.models.policy.parameters().items()}
        return lines(context.target), policy, algorithm.state_dict(), vars(context.meter)
    with pytest.raises(Killed):
        fit(algorithm, context)


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on_to_the_same(make_models, tmp_path):
    whole = train(make_models, tmp_path / "whole")
    assert whole[2]["seen"]["count"] == RECIPE.steps * RECIPE.batch_size * K
    train(make_models, tmp_path / "killed", die=9)  # in the second of four steps, each of 2 epochs of 3 prompts
    again = train(make_models, tmp_path / "killed")
    assert again[0] == whole[0] and again[2:] == whole[2:]
    assert all(torch.equal(again[1][key], value) for key, value in whole[1].items())
