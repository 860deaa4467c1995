"""A language model on this machine as a judge: which of the letters A and B it gives the higher probability.

Each pair is asked in both orders. With the orders averaged, p = (P(left first) + P(left second)) / 2 is the soft label
of reinforcement learning from AI feedback (Lee et al. 2023, arXiv 2309.00267, §2.1, whose options are numbers).
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...data.records import Record
from ...models.model import ModelConfig, Models, model_digest
from ...models.roles import BASE
from ...support.checks import at_least, one_of, require
from ...support.digests import content_hash
from ...support.errors import ConfigError, beneath
from ...support.phases import in_parts, parts_of
from ...support.plain import plain
from . import wording
from .judge import Court, Judge
from .pairings import Pair
from .records import Verdict

log = logging.getLogger(__name__)
LETTERS = ["A", "B"]
_LETTER = 8     # tokens of room for one and its end
_TOO_LONG = re.compile(r"not asked: more than (\d+) tokens")


def left_shares(letters: Tensor) -> Tensor:
    """Log-probabilities (N, 2 orders, 2 letters) of A and B, the left answer being A in the first order and B in the
    second → (N, 2): the left answer's share of what the two letters hold, in each order."""
    shares = letters.softmax(-1)
    return torch.stack([shares[:, 0, 0], shares[:, 1, 1]], -1)


@dataclass
class LocalJudge(Judge):
    """A causal language model, by log-probabilities: it always answers, so one order alone says little."""

    model: ModelConfig
    prompt: str = "v1"      # the wording of the question
    batch_size: int = 8     # questions in one pass

    orders: ClassVar[tuple[str, ...]] = ("left_first", "right_first")

    def __post_init__(self):
        require(self, "judge", prompt=one_of(wording.QUESTIONS), batch_size=at_least(1))
        if self.model.max_length <= _LETTER + 1:
            raise ConfigError(f"judge.model.max_length: found {self.model.max_length}; expected room for a question")
        if self.model.lora is not None:
            raise ConfigError("judge.model.lora: found adapters; expected null: a judge learns nothing")
        self.model = dataclasses.replace(self.model, max_prompt_length=self.model.max_length - _LETTER)

    @cached_property
    def name(self) -> str:
        """Told apart by what decides its verdicts: two models may lie in folders of one name."""
        template = self.model.chat_template and Path(self.model.chat_template).read_text(encoding="utf-8")
        decides = {"base": self._of_model(model_digest), "template": template,
                   "arguments": plain(self.model.template_arguments), "precision": self.model.precision}
        return f"{Path(self.model.name).name}-{content_hash(decides)[:6]}@{self.prompt}"

    @property
    def room(self) -> int:
        return self.model.max_length

    def answered(self, kept: Verdict) -> bool:
        """A question that was too long is asked once there is more room: it is never cut, so that nothing else of a
        verdict depends on how much there is."""
        told = _TOO_LONG.fullmatch(kept.raw or "")
        return told is None or int(told[1]) >= self.model.max_length

    def judge(self, pairs: Sequence[Pair], court: Court) -> Iterator[list[Verdict]]:
        for part in self._read(pairs, court):
            found: list[Verdict] = []
            for pair, shares, held in part:
                for order, share, both_letters in zip(self.orders, shares, held):
                    if share is None:
                        found.append(self.verdict(pair, "none", order, f"not asked: more than {self.model.max_length} "
                                                                       "tokens"))
                        continue
                    outcome = "tie" if share == 0.5 else "left" if share > 0.5 else "right"
                    mean = "none" if None in shares else f"{sum(shares) / 2:.4f}"
                    raw = f"left {share:.4f}, both orders {mean}; A and B hold {both_letters:.4f}"
                    found.append(self.verdict(pair, outcome, order, raw))
            yield found

    def shares(self, pairs: Sequence[Pair], court: Court) -> Iterator[tuple[Pair, list[float | None]]]:
        """The shares themselves, which verdicts round: their mean over the orders is the soft label."""
        for part in self._read(pairs, court):
            yield from ((pair, shares) for pair, shares, _ in part)

    def _read(self, pairs: Sequence[Pair], court: Court
              ) -> Iterator[list[tuple[Pair, list[float | None], list[float]]]]:
        """Each pair with the left answer's share in each order, None where the question is too long, and with what the
        two letters hold together."""
        models = self._models(court)
        long = 0
        for part in in_parts("judging", parts_of(pairs, self.batch_size), "pairs"):
            examples = [models.tokenize(Record(self._asked(models, text), LETTERS))
                        for pair in part for text in self._questions(pair)]
            fits = [not example.truncated for example in examples]
            batch = models.collate(examples)
            with torch.no_grad():
                logprobs = models.role(BASE).token_logprobs(batch)                              # (2N, 2, T)
            sums = logprobs.masked_fill(batch.ends, 0).sum(-1)                                  # (2N, 2)
            letters = sums.reshape(len(part), 2, 2).double()
            long += fits.count(False)
            orders = [fits[2 * place:2 * place + 2] for place in range(len(part))]
            yield [(pair, [share if fit else None for share, fit in zip(shares, of_pair)], held)
                   for pair, shares, of_pair, held in zip(part, left_shares(letters).tolist(), orders,
                                                          letters.exp().sum(-1).tolist())]
        if long:
            log.warning("%s: %d questions had more than judge.model.max_length = %d tokens, and no verdict", self.name,
                        long, self.model.max_length)

    def _models(self, court: Court) -> Models:
        return self._of_model(Models, court.mixed_precision)

    def _of_model(self, read: Callable[..., Any], *options: Any) -> Any:
        try:
            return read(self.model, *options)
        except ConfigError as error:    # of a model; this one stands beneath judge
            raise beneath(error, "judge") from error

    def _questions(self, pair: Pair) -> list[str]:
        """One for each order."""
        both = (pair.left_response, pair.right_response)
        return [wording.question(self.prompt, pair.prompt, *texts, tie=False) for texts in (both, both[::-1])]

    def _asked(self, models: Models, text: str) -> str | list[dict]:
        """As the model's chat template takes it; a model without one continues the text."""
        return [{"role": "user", "content": text}] if models.template.chat else f"{text}\n"
