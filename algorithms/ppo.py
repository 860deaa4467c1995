"""RLHF by Proximal Policy Optimization: Ouyang et al. 2022 (InstructGPT), arXiv 2203.02155, eq. 2; after Ziegler
et al. 2019, arXiv 1909.08593, and Stiennon et al. 2020, arXiv 2009.01325. PPO itself: Schulman et al. 2017, arXiv
1707.06347.

Keeps    a frozen supervised reference, a frozen reward model, a critic that starts as the reward model; the KL
         penalty in every token's reward, the score at the response's last token; GAE; clipped losses for policy and
         critic; minibatches over each batch of rollouts, in ``inner_epochs`` of the recipe (2; Ziegler's code 4,
         InstructGPT 1); a fixed KL coefficient or Ziegler's controller. With ``ptx_coef``, off by default, the
         likelihood of given text in the same steps (PPO-ptx, eq. 2's γ term).
Changes  the four models are adapters on one base; old log-probabilities come from the training forward pass, not from
         sampling (the first ratio is 1); policy and critic are differentiated one after the other; advantages are
         whitened over all rollouts of a batch (as TRL did; lm-human-preferences: per minibatch); a response without
         end token loses ``missing_eos_penalty`` and is not drawn again; scores are kept within ±``score_clip``, 5.0
         by default (DeepSpeed-Chat, arXiv 2308.01320; null: as in the papers); critic and policy share one gradient
         clipping, and Adam's ε is 1e-8 (lm-human-preferences: 1e-5); ``loss/…`` in the metrics includes the
         coefficients; PPO-ptx learns from the data's demonstrations, one beside each rollout (InstructGPT:
         pretraining text, eight times as many), by the mean over their tokens.
Drops    the EMA of the policy, TRL's ratio guard; a score after the end token as in TRL ≥ 0.12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Iterator

import torch
from torch import Tensor

from .common import rollouts
from .common.algorithm import Algorithm, Loss, Term
from .common.batches import Batch
from .common.clock import Clock
from .common.context import Context
from .common.errors import ConfigError
from .common.loop import batch_indices
from .common.models import ModelConfig, Models
from .common.optim import Recipe
from .common.policy_gradient import (ESTIMATORS, MISSING_EOS, SCALINGS, KLController, RunningMoments,
                                     explained_variance, gae, kl_penalty, masked_mean, masked_variance, shape_rewards,
                                     shape_scores, squared_errors, surrogates, whiten)
from .common.rollouts import Minibatch, Rollouts
from .common.seeds import derive
from .common.template import Example

if TYPE_CHECKING:  # a source is asked for its needs only
    from .common.rewards import RewardSource


def _no_start(found: str) -> ConfigError:
    return ConfigError(f"algorithm.critic: found reward, but {found}; expected reward=trained with a scalar; "
                       "fix: algorithm.critic=policy")


def critic_from_reward(models: Models, seed: int) -> None:
    """Adapter and head of the reward model."""
    reward = models.role("reward") if "reward" in models.roles.names() else None
    if reward is None or reward.scalar is None or reward.scalar.out_features != 1:
        found = "no reward model on the policy's base" if reward is None else "a reward model without a scalar head"
        raise _no_start(found)
    models.add_role("value", trainable=True, like="reward")
    models.role("value").add_scalar_head(like=reward)


def critic_from_policy(models: Models, seed: int) -> None:
    """The policy's adapter, a fresh head."""
    models.add_role("value", trainable=True, like=models.policy.name)
    models.role("value").add_scalar_head(seed=seed)


def critic_at_random(models: Models, seed: int) -> None:
    """A fresh adapter (the base's function), a fresh head."""
    models.add_role("value", trainable=True, seed=seed)
    models.role("value").add_scalar_head(seed=seed)


CRITICS = {"reward": critic_from_reward, "policy": critic_from_policy, "random": critic_at_random}


@dataclass
class PPO(Algorithm):
    view: str = "prompts"
    kl_coef: float = 0.05  # β: weight of the KL penalty in the reward; where the controller starts
    kl_estimator: str = "k1"  # k1 | k2 | k3, of the penalty
    kl_target: float | None = None  # nats per response the controller steers to; null: β stays
    kl_horizon: float = 10_000.0  # episodes, of the controller
    gamma: float = 1.0  # discount
    lam: float = 0.95  # λ of GAE
    clip: float = 0.2  # ε of the policy's ratio
    value_clip: float = 0.2  # of the critic's change
    value_coefficient: float = 0.1  # of the critic's loss
    whiten_advantages: bool = True  # over the batch's rollouts
    whiten_rewards: bool = False  # the same for the shaped rewards, their mean kept
    score_scaling: str = "none"  # none | scale | normalize, by the scores so far
    score_clip: float | None = 5.0  # scores are kept within ± this; null: off, as in the papers
    missing_eos: str = "subtract"  # subtract | replace: what the penalty does to the score of an unfinished response
    missing_eos_penalty: float = 1.0
    ptx_coef: float = 0.0  # γ: weight of the demonstrations' likelihood; 0: PPO without ptx
    target_kl: float | None = None  # a batch is left before a step with KL(π_old ‖ π) above 1.5 times this; null: never
    critic: str = "reward"  # reward | policy | random: where the critic starts
    temperature: float = 1.0  # of the rollouts, and of every log-probability; the evaluation has its own
    max_new_tokens: int = 56  # of a rollout
    rollout_batch_size: int | None = None  # sequences decoded together; null: what the memory of an update holds

    uses_reward: ClassVar[bool] = True
    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        for key, allowed in {"kl_estimator": ESTIMATORS, "score_scaling": SCALINGS, "missing_eos": MISSING_EOS,
                             "critic": CRITICS}.items():
            if getattr(self, key) not in allowed:
                raise ConfigError(f"algorithm.{key}: found {getattr(self, key)!r}; expected one of {', '.join(allowed)}")
        for keys, ok, expected in (
                (("kl_coef", "value_coefficient", "missing_eos_penalty", "ptx_coef"), lambda x: x >= 0, "a finite number of 0 or more"),
                (("kl_horizon", "value_clip", "temperature"), lambda x: x > 0, "a finite number above 0"),
                (("kl_target", "score_clip", "target_kl"), lambda x: x is None or x > 0, "a number above 0, or null"),
                (("gamma", "lam"), lambda x: 0 <= x <= 1, "a number in [0, 1]"),
                (("clip",), lambda x: 0 < x < 1, "a number in (0, 1)"),
                (("max_new_tokens",), lambda x: x >= 1, "at least 1"),
                (("rollout_batch_size",), lambda x: x is None or x >= 1, "at least 1, or null")):
            for key in keys:
                value = getattr(self, key)
                if not (ok(value) and (value is None or math.isfinite(value))):
                    raise ConfigError(f"algorithm.{key}: found {value}; expected {expected}")
        if self.kl_target is not None and not self.kl_coef:
            raise ConfigError(f"algorithm.kl_target: found {self.kl_target} with algorithm.kl_coef=0, which stays 0 however it is "
                              "steered; expected kl_coef above 0, or kl_target=null")
        self.needs.setdefault("reference", None)  # without a supervised stage the reference is the base
        self._start()

    def _start(self) -> None:
        self.controller = KLController(self.kl_coef, self.kl_target, self.kl_horizon)
        self.moments = RunningMoments()

    def check(self, source: "RewardSource | None", model: ModelConfig) -> None:
        if self.critic != "reward":
            return
        needs = [self.needs.get("reward"), *(source.needs().values() if source else ())]
        own = [need.algorithm for need in needs if need and need.model is None and need.algorithm.role == "reward"]
        if not own:
            raise _no_start("no reward model on the policy's base")
        if getattr(own[0], "outputs", 1) != 1:
            raise _no_start("a reward model without a scalar head")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("demonstrations",) if self.ptx_coef else ()

    def add_roles(self, models: Models, seed: int) -> None:
        super().add_roles(models, seed)  # the policy: a copy of the reference
        CRITICS[self.critic](models, derive(seed, "value"))

    def parameter_groups(self, models: Models, recipe: Recipe) -> list[dict]:
        critic = list(models.role("value").parameters().values())
        return [*super().parameter_groups(models, recipe), {"name": "value", "params": critic, "lr": recipe.value_lr or recipe.lr}]

    def fit(self, context: Context) -> None:
        if self.kl_target is not None and self.kl_horizon <= 0.2 * context.recipe.batch_size:
            raise ConfigError(f"algorithm.kl_horizon: found {self.kl_horizon}; expected more than a fifth of recipe.batch_size "
                              f"({context.recipe.batch_size}), or one batch can turn the KL coefficient negative")
        self._start()  # no trace of a run that was cut off before its first checkpoint
        if self.ptx_coef:
            total = context.recipe.total_records(len(context.examples))
            for index in self._walk(context, total, total, 0):  # what cannot be tokenised is told before the first step
                context.demonstrations[index]
        super().fit(context)

    def experience(self, context: Context, examples: list[Example]) -> Rollouts:
        """Sample, score, turn scores and KL into advantages. Held-out prompts move neither controller nor moments."""
        models, learning, clock = context.models, torch.is_grad_enabled(), Clock()
        rolled = rollouts.generate(context, "policy", examples, max_new_tokens=self.max_new_tokens,
                                   temperature=self.temperature, batch_size=self.rollout_batch_size)
        clock.lap("timing/rollout")
        scores = rollouts.score(context, rolled)  # (N,)
        policy, reference = (partial(role.token_logprobs, temperature=self.temperature)
                             for role in (models.policy, models.reference))
        answers = (policy, reference, models.role("value").values)
        mask, logprobs, refs, values = rollouts.columns(context, rolled, *answers)  # (N, T) each
        clock.lap("timing/score")
        if learning:
            self.moments.update(scores)
        finished = torch.tensor([example.finished[0] for example in rolled], device=scores.device)
        shaped = shape_scores(scores, finished, self.moments, scaling=self.score_scaling, clip=self.score_clip,
                              missing_eos=self.missing_eos, penalty=self.missing_eos_penalty)  # (N,)
        kl = kl_penalty(logprobs, refs, self.kl_estimator)
        rewards = shape_rewards(shaped, kl, mask, kl_coef=self.controller.coef)  # InstructGPT eq. 2, token by token
        weighed = whiten(rewards, mask, shift_mean=False) if self.whiten_rewards else rewards
        advantages, returns = gae(weighed, values, mask, gamma=self.gamma, lam=self.lam)
        figures = {"kl/coef": self.controller.coef, "reward/shaped": rewards.sum(-1).mean().item(),
                   "reward/non_score": (rewards.sum(-1) - shaped).mean().item(),
                   **kl_figures(logprobs, refs, mask), **score_figures(scores, mask, finished),
                   **advantage_figures(advantages, returns, values, mask), **rollouts.shown(context, rolled, scores), **clock.laps}
        if learning:
            self.controller.update(figures["kl/k1"], len(rolled))
        if self.whiten_advantages:
            advantages = whiten(advantages, mask)
        return Rollouts(models, rolled, mask=mask, logprobs=logprobs, values=values, advantages=advantages, returns=returns,
                        figures=figures, demonstrations=self._demonstrations(context, len(rolled)) if learning else [])

    def _demonstrations(self, context: Context, count: int) -> list[Example]:
        """Those of this step, one for each rollout, from a walk through one permutation per epoch."""
        if not self.ptx_coef:
            return []
        size = context.recipe.batch_size
        chosen = self._walk(context, size, (context.step + 1) * size, context.step)
        return [context.demonstrations[index] for index in chosen[:count]]

    def _walk(self, context: Context, size: int, limit: int, step: int) -> list[int]:
        return batch_indices(len(context.demonstrations), size, limit, step, derive(context.seed, "ptx"))

    def loss(self, models: Models, batch: Minibatch) -> Iterator[Loss]:
        yield self._policy_loss(models, batch)
        yield self._value_loss(models, batch)
        if batch.demonstrations is not None:
            yield self._ptx_loss(models, batch.demonstrations)

    def _policy_loss(self, models: Models, batch: Minibatch) -> Loss:
        mask, old = batch.mask, batch.logprobs
        logprobs = models.policy.token_logprobs(batch.batch, temperature=self.temperature)[:, 0]  # (B, T)
        plain, clipped = surrogates(logprobs, old, batch.advantages, mask, clip=self.clip)
        change = (logprobs.detach() - old)[mask]  # (N,): log ρ
        return Loss({"policy": Term(torch.maximum(plain, clipped).sum(), per="tokens")}, {  # 1707.06347 eq. 7
            "policy/clip_fraction": (clipped > plain)[mask].float(), "policy/approx_kl": change**2 / 2,
            "policy/ratio_mean": change.exp(), "policy/ratio_max": change.exp()})

    def _value_loss(self, models: Models, batch: Minibatch) -> Loss:
        values = models.role("value").values(batch.batch)[:, 0]  # (B, T)
        plain, clipped = squared_errors(values, batch.values, batch.returns, batch.mask, clip=self.value_clip)
        term = Term(0.5 * torch.maximum(plain, clipped).sum(), per="tokens", coefficient=self.value_coefficient)
        return Loss({"value": term}, {"value/clip_fraction": (clipped > plain)[batch.mask].float()})

    def _ptx_loss(self, models: Models, demonstrations: Batch) -> Loss:
        likelihood = models.policy.token_logprobs(demonstrations).sum()  # Σ log π(x), InstructGPT eq. 2's second term
        return Loss({"ptx": Term(-likelihood, per="demonstrated", coefficient=self.ptx_coef)}, {})

    def stop(self, values: dict[str, float]) -> bool:
        return self.target_kl is not None and values["policy/approx_kl"] > 1.5 * self.target_kl

    def state_dict(self) -> dict:
        return {"kl_coef": self.controller.coef, "scores": self.moments.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.controller.coef, self.moments = state["kl_coef"], RunningMoments(**state["scores"])


def kl_figures(logprobs: Tensor, refs: Tensor, mask: Tensor) -> dict[str, float]:
    """KL(π ‖ π_ref) in nats, summed over tokens, mean over responses; a token's entropy, as −log π of what was drawn."""
    sums = {name: torch.where(mask, kl_penalty(logprobs, refs, name), 0).sum(-1).mean().item() for name in ("k1", "k3")}
    return {"kl/k1": sums["k1"], "kl/k3": sums["k3"], "policy/entropy": -masked_mean(logprobs, mask).item()}


def score_figures(scores: Tensor, mask: Tensor, finished: Tensor) -> dict[str, float]:
    lengths = mask.sum(-1).float()
    return {"reward/proxy": scores.mean().item(), "reward/proxy_std": scores.std(correction=0).item(),
            "length/mean": lengths.mean().item(), "length/std": lengths.std(correction=0).item(),
            "eos_rate": finished.float().mean().item(), "truncation_rate": 1 - finished.float().mean().item()}


def advantage_figures(advantages: Tensor, returns: Tensor, values: Tensor, mask: Tensor) -> dict[str, float]:
    """Of the advantages before whitening."""
    return {"advantage/mean": masked_mean(advantages, mask).item(),
            "advantage/std": masked_variance(advantages, mask).sqrt().item(),
            "returns/mean": masked_mean(returns, mask).item(), "value/mean": masked_mean(values, mask).item(),
            "value/explained_variance": explained_variance(values, returns, mask).item()}
