"""Supervised fine-tuning: the likelihood of demonstrations (Ouyang et al. 2022, arXiv 2203.02155, step 1).

Keeps    next-token cross-entropy on the response and its end token; the prompt masked (``train_on_prompt``, off by
         default); token mean. With ``turns: all`` the assistant's turns in the prompt are responses too, each with
         its end token.
Changes  the mean is over the tokens of the whole optimiser step, however it is cut into micro-batches; packing
         (``packing``, off by default) keeps examples apart by mask and restarted positions, so but for rounding it
         changes speed and memory only. All turns of a conversation lie in one row, whose loss is the sum of what its
         answers give one by one (a warning says where the tokenizer reads the text before an answer as other tokens
         than in a prompt).
Drops    residual dropout; InstructGPT's choice of checkpoint by a reward model.

Preferred-FT (Rafailov et al. 2023, arXiv 2305.18290, §6) is this with ``view: preferred``: the likelihood of the
better response of each pair. It also starts DPO where no supervised model of the data exists (§4, "DPO outline").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .common.algorithm import Algorithm, Context, Examples, Loss, likelihood_loss
from .common.data.batches import Batch
from .common.data.template import Example
from .common.models.model import Models
from .common.support.checks import one_of, require
from .common.support.errors import ConfigError


@dataclass
class SFT(Algorithm):
    view: str = "demonstrations"  # or preferred: Preferred-FT
    turns: str = "last"  # or all: learn every turn of the assistant in a conversation, not its last alone
    train_on_prompt: bool = False  # learn the prompt's tokens too
    packing: bool = False  # several examples in a row

    def __post_init__(self):
        require(self, "algorithm", turns=one_of(("last", "all")))
        if self.every_turn and self.train_on_prompt:
            raise ConfigError("algorithm.train_on_prompt: found true with algorithm.turns=all; "
                              "expected one of the two: the prompt's tokens include its answers; "
                              "fix: algorithm.turns=last, or algorithm.train_on_prompt=false")

    @property
    def every_turn(self) -> bool:
        return self.turns == "all"

    @property
    def learns_prompt(self) -> bool:
        return self.train_on_prompt

    def experience(self, context: Context, examples: list[Example]) -> Examples:
        if self.train_on_prompt:
            examples = [with_prompt(example) for example in examples]
        return Examples(context.models, examples, pack=self.packing)

    def loss(self, models: Models, batch: Batch) -> Loss:
        return likelihood_loss(models, batch)  # (B, 1, T)


def with_prompt(example: Example) -> Example:
    """The same text with everything after its first token to be learned (the first has nothing to
    be predicted from)."""
    first, rest = example.prompt[:1], example.prompt[1:]
    return replace(example, prompt=first, responses=[rest + response for response in example.responses], key="")
