"""RLHF by Proximal Policy Optimization: Ouyang et al. 2022 (InstructGPT), arXiv 2203.02155, eq. 2; after Ziegler
et al. 2019, arXiv 1909.08593, and Stiennon et al. 2020, arXiv 2009.01325. PPO itself: Schulman et al. 2017, arXiv
1707.06347.

Keeps    a frozen supervised reference, a frozen reward model, a critic that starts as the reward model; the KL
         penalty in every token's reward, the score at the response's last token; GAE; clipped losses for policy and
         critic; minibatches over each batch of rollouts, in ``inner_epochs`` of the recipe (2; Ziegler's code 4,
         InstructGPT 1); a fixed KL coefficient or Ziegler's controller. With ``ptx_coef``, off by default, the
         likelihood of given text in the same steps (PPO-ptx, eq. 2's γ term). With ``critic_batches``, off by default,
         the critic learns from the first batches of rollouts alone (MOSS-RLHF, arXiv 2307.04964, §5.3.3; its scores are
         normalised and clipped by ``score_scaling`` and ``score_clip``). With ``old_kl_coef`` above 0, a penalty
         on KL(π_old ‖ π), whose weight doubles and halves around a target (1707.06347 §4): PPO-penalty has it in the
         clip's place.
Changes  the four models are adapters on one base; old log-probabilities come from the training forward pass, not from
         sampling (the first ratio is 1); policy and critic are differentiated one after the other; advantages are
         whitened over all rollouts of a batch (as TRL did; lm-human-preferences: per minibatch); a response without
         end token loses ``missing_eos_penalty`` and is not drawn again; scores are kept within ±``score_clip``, 5.0
         by default (DeepSpeed-Chat, arXiv 2308.01320; null: as in the papers); critic and policy share one gradient
         clipping, and Adam's ε is 1e-8 (lm-human-preferences: 1e-5); ``loss/…`` in the metrics includes the
         coefficients; PPO-ptx learns from the data's demonstrations, one beside each rollout (InstructGPT:
         pretraining text, eight times as many), by the mean over their tokens; KL(π_old ‖ π) is estimated from the
         tokens drawn, and its weight set by ½ (log π/π_old)² of the last minibatch before its own step (§4: by the KL
         after all of them); β = 0.05 is TRL's (InstructGPT: 0.02), λ = 0.95 and the critic's weight are those of
         lm-human-preferences.
Drops    TRL's ratio guard; a score after the end token as in TRL ≥ 0.12. The EMA of the policy is ``recipe.ema``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Iterator

import torch
from torch import Tensor

from .common.algorithm import Context, Examples, Loss, Recipe, RewardSource, Term, TrainerConfig
from .common.data.batches import Batch
from .common.data.template import Example
from .common.data.tokenized import batch_indices
from .common.models.model import ModelConfig, Models
from .common.policy_gradient import explained_variance, gae, kl_penalty, masked_mean, squared_errors, whiten
from .common.rollouts import Estimates, Minibatch, PolicyGradient, Rollouts, Scored, columns
from .common.support.checks import NOT_NEGATIVE, POSITIVE, at_least, one_of, require, within
from .common.support.errors import ConfigError
from .common.support.seeds import derive


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
    models.role("value").add_scalar_head()


def critic_at_random(models: Models, seed: int) -> None:
    """A fresh adapter (the base's function), a fresh head."""
    models.add_role("value", trainable=True, seed=seed)
    models.role("value").add_scalar_head()


CRITICS = {"reward": critic_from_reward, "policy": critic_from_policy, "random": critic_at_random}


def adapted(coef: float, kl: float, target: float) -> float:
    """The weight of KL(π_old ‖ π) for the next batch, after a batch that moved the policy by ``kl`` (§4)."""
    return coef / 2 if kl < target / 1.5 else coef * 2 if kl > target * 1.5 else coef


@dataclass(frozen=True)
class ActorCritic(Estimates):
    """What the critic is fitted to, beside the policy's advantages; (B, K, T) each."""

    values: Tensor  # V_old
    returns: Tensor

    def figures(self, mask: Tensor) -> dict[str, float]:
        values, returns = self.values, self.returns
        return {**super().figures(mask), "returns/mean": masked_mean(returns, mask).item(),
                "value/mean": masked_mean(values, mask).item(),
                "value/explained_variance": explained_variance(values, returns, mask).item()}


@dataclass(frozen=True, kw_only=True)
class PtxMinibatch(Minibatch):
    demonstrations: Batch


@dataclass(frozen=True, kw_only=True)
class PtxRollouts(Rollouts):
    """Rollouts with a demonstration beside each prompt, learned in the same step; its tokens are counted as
    "demonstrated".
    """

    demonstrations: Examples

    def lengths(self) -> list[int]:
        return [own + other for own, other in zip(super().lengths(), self.demonstrations.lengths())]

    def counts(self, indices: list[int]) -> dict[str, int]:
        return {**super().counts(indices), "demonstrated": self.demonstrations.counts(indices)["tokens"]}

    def select(self, indices: list[int]) -> PtxMinibatch:
        return PtxMinibatch(**vars(super().select(indices)), demonstrations=self.demonstrations.select(indices))


@dataclass
class PPO(PolicyGradient):
    whiten_advantages: bool = True  # over the batch's tokens
    whiten_rewards: bool = False  # the same for the shaped rewards, their mean kept
    gamma: float = 1.0  # discount
    lam: float = 0.95  # λ of GAE
    value_clip: float = 0.2  # of the critic's change
    value_coefficient: float = 0.1  # of the critic's loss
    ptx_coef: float = 0.0  # γ: weight of the demonstrations' likelihood; 0: PPO without ptx
    old_kl_coef: float = 0.0  # β: weight of KL(π_old ‖ π) in the loss, where it starts; 0: without
    old_kl_target: float | None = None  # d_targ, nats per token; null: β stays
    critic: str = "reward"  # reward | policy | random: where the critic starts
    critic_batches: int = 0  # batches of rollouts, before all others, that the critic alone learns from

    in_trial: ClassVar[dict[str, int]] = {**PolicyGradient.in_trial, "critic_batches": 1}  # of two steps

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", critic=one_of(CRITICS), value_coefficient=NOT_NEGATIVE, value_clip=POSITIVE,
                ptx_coef=NOT_NEGATIVE, old_kl_coef=NOT_NEGATIVE, old_kl_target=POSITIVE.or_null(),
                gamma=within("[0, 1]"), lam=within("[0, 1]"), critic_batches=at_least(0))

    def check(self, source: RewardSource | None, model: ModelConfig) -> None:
        if self.critic != "reward":
            return
        needs = [self.needs.get("reward"), *(source.needs().values() if source else ())]
        own = [need.algorithm for need in needs if need and need.model is None and need.algorithm.role == "reward"]
        if not own:
            raise _no_start("no reward model on the policy's base")
        if getattr(own[0], "outputs", 1) != 1:
            raise _no_start("a reward model without a scalar head")

    def check_recipe(self, recipe: Recipe, trainer: TrainerConfig, records: int, key: str) -> None:
        one = recipe.inner_epochs == 1 and (recipe.minibatch_size or recipe.batch_size) >= recipe.batch_size
        if self.old_kl_target is not None and one:
            raise ConfigError(f"algorithm.old_kl_target: found {self.old_kl_target} with one step a batch, before "
                              "which the policy has not moved, so that the weight could only sink; expected several "
                              f"steps; fix: {key}.inner_epochs=2")
        batches = recipe.scheduled_steps(records)
        if self.critic_batches >= batches:
            raise ConfigError(f"algorithm.critic_batches: found {self.critic_batches}, and {batches} batches in all; "
                              "expected fewer, or the policy learns nothing; fix: "
                              f"algorithm.critic_batches={batches // 4}")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("demonstrations",) if self.ptx_coef else ()

    def add_roles(self, models: Models, seed: int) -> None:
        super().add_roles(models, seed)  # the policy: a copy of the reference
        CRITICS[self.critic](models, derive(seed, "value"))

    def parameter_groups(self, models: Models, recipe: Recipe) -> list[dict]:
        critic = list(models.role("value").parameters().values())
        return [*super().parameter_groups(models, recipe),
                {"name": "value", "params": critic, "lr": recipe.value_lr or recipe.lr}]

    def fit(self, context: Context) -> None:
        if self.ptx_coef:
            total = context.recipe.total_records(len(context.examples))
            for index in self._walk(context, total, total, 0):  # what cannot be tokenised is told before the first step
                context.demonstrations[index]
        super().fit(context)

    def start(self) -> None:
        super().start()
        self.old_kl, self.moved = self.old_kl_coef, None  # β, and the last KL(π_old ‖ π), nats per token
        self.critic_alone = False  # learns from this batch

    def stop(self, values: dict[str, float]) -> bool:
        if self.critic_alone:
            return False  # and the policy has not moved
        self.moved = values["policy/approx_kl"]
        return super().stop(values)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "old_kl": self.old_kl, "moved": self.moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.old_kl, self.moved = state["old_kl"], state["moved"]

    def experience(self, context: Context, examples: list[Example]) -> Rollouts:
        """Sample, score, penalise by the KL, estimate advantages, whiten; with ptx, add a demonstration a prompt."""
        if torch.is_grad_enabled() and self.old_kl_target is not None and self.moved is not None:
            self.old_kl = adapted(self.old_kl, self.moved, self.old_kl_target)
        self.critic_alone = context.step < self.critic_batches
        kl_coef = self.controller.coef
        rollouts = super().experience(context, examples)
        if self.critic_alone:
            self.controller.coef = kl_coef  # a policy that stands still says nothing of its weight
        if not self.ptx_coef or self.critic_alone or not torch.is_grad_enabled():  # what is only watched learns nothing
            return rollouts
        beside = Examples(context.models, self._demonstrations(context, len(rollouts)))
        return PtxRollouts(**vars(rollouts), demonstrations=beside)

    def estimate(self, context: Context, scored: Scored) -> ActorCritic:
        """Generalised advantages (1506.02438 eq. 16) of the rewards of InstructGPT eq. 2, token by token."""
        values, = columns(context, scored.examples, context.models.role("value").values)  # (B, K, T)
        mask, rewards = scored.mask, scored.rewards
        rewards = whiten(rewards, mask, shift_mean=False) if self.whiten_rewards else rewards
        advantages, returns = gae(rewards, values, mask, gamma=self.gamma, lam=self.lam)  # (B, K, T) each
        return ActorCritic(advantages, values, returns)

    def _demonstrations(self, context: Context, count: int) -> list[Example]:
        """Those of this step, one for each prompt, from a walk through one permutation per epoch."""
        size = context.recipe.batch_size
        chosen = self._walk(context, size, (context.step + 1) * size, context.step)
        return [context.demonstrations[index] for index in chosen[:count]]

    def _walk(self, context: Context, size: int, limit: int, step: int) -> list[int]:
        return batch_indices(len(context.demonstrations), size, limit, step, derive(context.seed, "ptx"))

    def loss(self, models: Models, minibatch: Minibatch) -> Iterator[Loss]:
        if not self.critic_alone:
            yield self._policy_loss(models, minibatch)
        yield self._value_loss(models, minibatch)
        if isinstance(minibatch, PtxMinibatch):
            yield self._ptx_loss(models, minibatch.demonstrations)

    def _policy_loss(self, models: Models, minibatch: Minibatch) -> Loss:
        mask, logprobs = minibatch.batch.mask, self.logprobs(models.policy, minibatch.batch)  # (B, K, T) each
        losses, metrics = self.surrogate(logprobs, minibatch)  # (B, K, T)
        terms = {"policy": Term(losses.sum(), per="tokens")}
        if self.old_kl_coef:  # 1707.06347 eq. 8's second term, with y ∼ π_old
            kl = torch.where(mask, kl_penalty(minibatch.logprobs, logprobs, "k3"), 0)  # (B, K, T)
            terms["old_kl"] = Term(kl.sum(), per="tokens", coefficient=self.old_kl)
            metrics = {**metrics, "kl/old_coef": torch.tensor([self.old_kl])}
        return Loss(terms, metrics)

    def _value_loss(self, models: Models, minibatch: Minibatch) -> Loss:
        old, mask = minibatch.estimates, minibatch.batch.mask
        values = models.role("value").values(minibatch.batch)  # (B, K, T)
        plain, clipped = squared_errors(values, old.values, old.returns, mask, clip=self.value_clip)
        term = Term(0.5 * torch.maximum(plain, clipped).sum(), per="tokens", coefficient=self.value_coefficient)
        return Loss({"value": term}, {"value/clip_fraction": (clipped > plain)[mask].float()})

    def _ptx_loss(self, models: Models, demonstrations: Batch) -> Loss:
        likelihood = models.policy.token_logprobs(demonstrations).sum()  # Σ log π(x), InstructGPT eq. 2's second term
        return Loss({"ptx": Term(-likelihood, per="demonstrated", coefficient=self.ptx_coef)}, {})


@dataclass
class PPOPenalty(PPO):
    """PPO with an adaptive penalty on KL(π_old ‖ π) in the clip's place: TRPO's constraint, softened."""

    clip: float | None = None
    old_kl_coef: float = 1.0
    old_kl_target: float | None = 0.01
