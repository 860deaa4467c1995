"""Direct Preference Optimization: Rafailov et al. 2023, arXiv 2305.18290.

Keeps    the loss of eq. 7; sequence log-probabilities summed over the response and its end token; the reference is the
         supervised policy, which is also where training starts.
Changes  the reference's log-probabilities come from the store (the same numbers, no second forward pass per step);
         both responses of a pair share their prompt's row; label smoothing by option (``label_smoothing``, off by
         default; Mitchell 2023, conservative DPO), of each label its own where labels are probabilities
         (``soft_labels``, off by default); by option the chosen response's likelihood beside it (``sft_coef``, off by
         default; RPO, Pang et al. 2024, arXiv 2404.19733v3), or log-probabilities averaged over tokens
         (``length_normalized``, off by default; Lambert et al. 2024, Tülu 3, arXiv 2411.15124, who take β = 5).
Drops    RMSprop; the optimiser is the trainer's choice.

Where the data has no comparisons of the reference's own answers, the paper's outline begins with making them (§4): two
answers of it to each prompt, labelled. ``OnlineDPO`` does, with a reward source for the label, and by ``generations``
goes on: fresh answers of the latest policy, again as pairs (iterated DPO, as in Xu et al. 2023, arXiv 2312.16682; the
best and the worst of more than two, as in Yuan et al. 2024, arXiv 2401.10020). Each generation's reference is the
policy that answered; with ``reference: first`` the supervised policy stays it, as in online DPO (Guo et al. 2024, arXiv
2402.04792, who draw anew at each step and ask a language model for the label). Equal scores make no pair, nor do
answers of the same text.

IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17) has another loss, of log-probabilities averaged over tokens: so its
authors ran it, the equation has sums. The hinge loss of log-ratios is that of RSO (Liu et al. 2023, arXiv 2309.06657,
eq. 10, hinge-norm), whose pairs are drawn by rejection sampling; SLiC-HF's (Zhao et al. 2023, arXiv 2305.10425) has no
reference, a margin δ where this has 1/β nats, and a likelihood term beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .common.algorithm import Algorithm, Loss, Term
from .common.data.batches import Batch
from .common.data.soft_labels import check_probabilities
from .common.data.template import Example
from .common.generations import Candidates, Generations, best, own_samples, taken, worst
from .common.logprobs import per_length
from .common.models.model import Models
from .common.pairs import pair_metrics
from .common.support.checks import NOT_NEGATIVE, POSITIVE, one_of, require, within
from .common.support.errors import ConfigError

if TYPE_CHECKING:
    from .common.data.records import Records


def dpo_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float,
             label_smoothing: float | Tensor = 0.0) -> Tensor:
    """Eq. 7, from summed log-probabilities in nats, each (B,) → (B,). Label smoothing e: a label is wrong with
    probability e, one for all or (B,) of their own.
    """
    h = (chosen - ref_chosen) - (rejected - ref_rejected)  # (B,)
    return -(1 - label_smoothing) * logsigmoid(beta * h) - label_smoothing * logsigmoid(-beta * h)


def ipo_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float) -> Tensor:
    """IPO eq. 17 with τ = beta, from length-averaged log-probabilities, each (B,) → (B,)."""
    h = (chosen - ref_chosen) - (rejected - ref_rejected)  # (B,)
    return (h - 1 / (2 * beta)) ** 2


def hinge_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float) -> Tensor:
    """RSO eq. 10: max(0, 1 − βh), from summed log-probabilities, each (B,) → (B,)."""
    h = (chosen - ref_chosen) - (rejected - ref_rejected)  # (B,)
    return torch.relu(1 - beta * h)


@dataclass
class LogRatioLoss(Algorithm):
    """What DPO, IPO and the hinge share: pairs, a reference, and a loss of the two log-ratios."""

    view: str = "pairs"
    beta: float = 0.1  # strength of the KL constraint (eq. 3), inverse temperature of the implicit reward

    stores_reference: ClassVar[bool] = True
    compares_logprobs: ClassVar[bool] = True

    @property
    def anchor(self) -> str:
        """The role that the policy is compared with."""
        return "reference"

    def __post_init__(self):
        require(self, "algorithm", beta=POSITIVE)
        self.needs.setdefault("reference", None)  # without a supervised stage the reference is the base

    def objective(self, logps: Tensor, refs: Tensor, scores: Tensor) -> Tensor:
        """(B, 2) log-probabilities of (chosen, rejected) under policy and reference, and their scores → (B,)."""
        raise NotImplementedError

    def log_likelihood(self, logps: Tensor, batch: Batch) -> Tensor:
        """(B, K) summed log-probabilities → what the method compares; default: the sums themselves."""
        return logps

    def loss(self, models: Models, batch: Batch) -> Loss:
        sums = models.policy.response_logprobs(batch)  # (B, 2)
        logps = self.log_likelihood(sums, batch)  # (B, 2)
        refs = self.log_likelihood(models.role(self.anchor).response_logprobs(batch), batch)  # (B, 2)
        losses = self.objective(logps, refs, batch.scores)  # (B,)
        rewards = self.beta * (logps - refs)  # (B, 2): DPO's implicit rewards, eq. 5 without β log Z
        return Loss({"policy": Term(losses.sum()), **self.beside(sums, batch)}, {
            **pair_metrics(rewards, logps),
            # where training starts at the reference, the change since step 0
            "logps/chosen_change": (logps - refs)[:, 0].detach(),
        })

    def beside(self, sums: Tensor, batch: Batch) -> dict[str, Term]:
        """Further terms, from the policy's (B, 2) summed log-probabilities; default: none."""
        return {}

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K): the implicit reward β log π/π_ref."""
        ratios = models.policy.response_logprobs(batch) - models.role(self.anchor).response_logprobs(batch)
        return self.beta * self.log_likelihood(ratios, batch)


@dataclass
class DPO(LogRatioLoss):
    label_smoothing: float = 0.0  # probability that a label is wrong
    soft_labels: bool = False  # a pair's scores are probabilities: each label has a smoothing of its own
    length_normalized: bool = False  # log-probabilities averaged over tokens, in place of their sums
    sft_coef: float = 0.0  # α of RPO: weight of the chosen response's likelihood, a mean over its tokens; 0: without

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", sft_coef=NOT_NEGATIVE, label_smoothing=within("[0, 0.5)"))
        if self.soft_labels and self.label_smoothing:
            raise ConfigError(f"algorithm.label_smoothing: found {self.label_smoothing} with soft_labels, which say of "
                              "each label how likely it is wrong; expected 0; fix: algorithm.label_smoothing=0")

    def check_records(self, records: Records, key: str) -> None:
        if self.soft_labels:
            check_probabilities(records, key)

    def objective(self, logps: Tensor, refs: Tensor, scores: Tensor) -> Tensor:
        smoothing = scores[:, 1] if self.soft_labels else self.label_smoothing  # P(the rejected one is better)
        return dpo_loss(*logps.unbind(1), *refs.unbind(1), beta=self.beta, label_smoothing=smoothing)

    def log_likelihood(self, logps: Tensor, batch: Batch) -> Tensor:
        return per_length(logps, batch.mask) if self.length_normalized else logps  # Tülu 3 eq. 6

    def beside(self, sums: Tensor, batch: Batch) -> dict[str, Term]:
        if not self.sft_coef:
            return {}
        likelihood = per_length(sums, batch.mask)[:, 0]  # (B,): log π(y_w)/|y_w|, RPO's second term
        return {"sft": Term(-likelihood.sum(), coefficient=self.sft_coef)}

    def preference_logits(self, scores: Tensor) -> Tensor:
        """The Bradley-Terry model of the implicit rewards (eq. 6)."""
        return scores[:, 0] - scores[:, 1]


def extremes(examples: list[Example]) -> list[Example]:
    """Every prompt with its best and its worst response by score, (chosen, rejected), the first of equals each; prompts
    whose scores are all the same are left out."""
    return [taken(one, [best(one), worst(one)]) for one in examples if max(one.scores) > min(one.scores)]


@dataclass
class OnlineDPO(Generations, DPO):
    """DPO on pairs of the latest policy's own answers."""

    candidates: Candidates = own_samples(2)
    reference: str = "latest"  # what the policy is held to: latest, the one that answered | first, the supervised one
    soft_labels: bool = False  # a field as DPO's is: of two bases the first one's class variable would hide it

    stores_reference: ClassVar[bool] = False  # no pair is seen twice, and none is there before it was drawn

    def __post_init__(self):
        DPO.__post_init__(self)
        Generations.__post_init__(self)
        require(self, "algorithm", reference=one_of(("latest", "first")))
        if self.soft_labels:
            raise ConfigError("algorithm.soft_labels: found true, but these pairs are labelled by scores, which are no "
                              "probabilities; expected false; fix: algorithm.soft_labels=false")

    @property
    def anchor(self) -> str:
        return self.latest if self.reference == "latest" else "reference"

    def lessons(self, examples: list[Example]) -> list[Example]:
        return extremes(examples)


@dataclass
class IPO(LogRatioLoss):
    """IPO: regresses the log-ratio to 1/2τ, so certain labels do not drive margins to infinity. τ = beta."""

    def log_likelihood(self, logps: Tensor, batch: Batch) -> Tensor:
        return per_length(logps, batch.mask)  # averaged over tokens, as its authors ran it

    def objective(self, logps: Tensor, refs: Tensor, scores: Tensor) -> Tensor:
        return ipo_loss(*logps.unbind(1), *refs.unbind(1), beta=self.beta)


@dataclass
class Hinge(LogRatioLoss):
    """The hinge loss on the implicit reward's margin."""

    def objective(self, logps: Tensor, refs: Tensor, scores: Tensor) -> Tensor:
        return hinge_loss(*logps.unbind(1), *refs.unbind(1), beta=self.beta)
