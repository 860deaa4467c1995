"""A language model's own rating as a reward, without labels or a reward model: direct RLAIF (Lee et al. 2023, arXiv
2309.00267, §2.3).

It is asked for a whole number from 1 to 10; the score is the expected one under its probabilities of the ten numbers,
s = Σ_i i · P(i) / Σ_i P(i), brought to [−1, 1]. Nothing is sampled: the same answer has the same score.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..algorithm import Response, RewardSource, Scorer
from ..data.records import Record, render_transcript
from ..data.template import Example
from ..models.model import ModelConfig, Models, load_config, model_digest
from ..models.roles import BASE
from ..support.checks import at_least, one_of, require
from ..support.errors import ConfigError, beneath
from ..support.phases import in_parts, parts_of
from .sources import checked, counted

if TYPE_CHECKING:
    from ..data.records import DataSets

log = logging.getLogger(__name__)
NUMBERS = [str(number) for number in range(1, 11)]
ROOM = 8  # tokens for a number and its end
# A wording that was used is never changed: a better one is a version of its own.
QUESTIONS = {"v1": """Someone wrote the text below, and a reply to it was written. Rate how well the reply serves that \
person, with a whole number from 1, useless, to 10, it could hardly be better. What counts is whether it does what the \
text asks for, whether what it says is right, and whether it is clear. That a reply is long counts for nothing.

=== The text
{prompt}

=== The reply
{reply}

=== End of the reply

Write the number, from 1 to 10, and nothing else."""}


def question(version: str, prompt: str, reply: str) -> str:
    """The whole text that is asked."""
    texts = {"{prompt}": prompt, "{reply}": reply}  # at once: a reply may hold {prompt}
    return "".join(texts.get(part, part) for part in re.split(r"(\{prompt\}|\{reply\})", QUESTIONS[version]))


def alone(logprobs: Tensor, options: list[list[int]]) -> Tensor:
    """(…, K) log-probabilities that a text begins with each option's tokens → (…, K) probabilities that it does and is
    not a longer one of them: where tokens are digits, 10 begins as 1 does."""
    begins = logprobs.exp()
    longer = [[place for place, other in enumerate(options) if len(other) > len(one) and other[:len(one)] == one]
              for one in options]
    return torch.stack([begins[..., place] - begins[..., beyond].sum(-1) for place, beyond in enumerate(longer)],
                       -1).clamp(min=0)


def expected_rating(probabilities: Tensor) -> Tensor:
    """(…, 10) probabilities of the numbers 1 … 10, up to a constant → (…,): their mean, brought from [1, 10] to
    [−1, 1]."""
    numbers = torch.arange(1, 11, dtype=probabilities.dtype, device=probabilities.device)
    mean = (probabilities * numbers).sum(-1) / probabilities.sum(-1)
    return 2 * (mean - 1) / 9 - 1


@dataclass
class Judged(RewardSource):
    """A causal language model's expected rating of a response."""

    model: ModelConfig
    prompt: str = "v1"  # the wording of the question
    batch_size: int = 8  # questions in one pass

    def __post_init__(self):
        require(self, "reward", prompt=one_of(QUESTIONS), batch_size=at_least(1))
        if self.model.lora is not None:
            raise ConfigError("reward.model.lora: found adapters; expected null: this model learns nothing; fix: "
                              "reward.model.lora=null")
        if self.model.max_length <= ROOM + 1:
            raise ConfigError(f"reward.model.max_length: found {self.model.max_length}; expected room for a question; "
                              "fix: reward.model.max_length=1024")
        self.model = dataclasses.replace(self.model, max_prompt_length=self.model.max_length - ROOM)
        self._told_of_cut = False

    def content(self) -> Any:
        template = self.model.chat_template and Path(self.model.chat_template).read_text(encoding="utf-8")
        return {"base": model_digest(self.model), "template": template}

    def check(self, data: "DataSets") -> None:
        try:
            load_config(self.model)
        except ConfigError as error:
            raise beneath(error, "reward") from error

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        own = Models(self.model, "bf16" if models.autocast_dtype is not None else "no", device=models.device)

        def score(responses: list[Response]) -> list[float]:
            examples = [self._asked(own, response) for response in responses]
            order = sorted(range(len(examples)), key=lambda place: examples[place].length)
            values = [0.0] * len(examples)
            for part in in_parts("scoring", parts_of(order, self.batch_size), "answers"):
                for place, value in zip(part, self._scores(own, [examples[place] for place in part])):
                    values[place] = value
            return values

        return counted(models, checked("judged", score))

    def _asked(self, own: Models, response: Response) -> Example:
        turns = response.turns
        text = question(self.prompt, turns if isinstance(turns, str) else render_transcript(turns), response.text)
        asked = [{"role": "user", "content": text}] if own.template.chat else f"{text}\n"
        example = own.tokenize(Record(asked, NUMBERS))
        if example.truncated and not self._told_of_cut:
            self._told_of_cut = True
            log.warning("reward.model.max_length: found %d, too few tokens for the question about the response to "
                        "record %s; its beginning is cut off, as that of others like it", self.model.max_length,
                        response.record)
        return example

    @torch.no_grad()
    def _scores(self, own: Models, examples: list[Example]) -> list[float]:
        batch = own.collate(examples)
        logprobs = own.role(BASE).token_logprobs(batch).double()  # (B, 10, T)
        begins = logprobs.masked_fill(batch.ends, 0).sum(-1)  # (B, 10): of the number's own tokens
        options = [ids[:-1] if finished else ids for ids, finished in zip(examples[0].responses, examples[0].finished)]
        # relative to the likeliest number: a model that would rather write something else has tiny probabilities
        return expected_rating(alone(begins - begins.max(-1, keepdim=True).values, options)).tolist()
