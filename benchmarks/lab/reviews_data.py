"""The reviews lab as a data source (`data=reviews`): demonstrations, labelled comparisons and prompts, with their gold.

The compared responses are samples of an SFT policy, committed beside the model (`reviews/samples.jsonl.gz`). Annotators
are drawn from a Bradley-Terry model over the gold reward, so they err, and may be biased: what a reward model learns
from them is an imperfect proxy, and the gold reward says how far it misleads.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random
from typing import ClassVar

from algorithms.common.data.records import DataSets, LoadReport, Record, Records
from algorithms.common.support.errors import ConfigError
from benchmarks.lab import grammar
from benchmarks.lab.gold import closes, gold_rewards
from benchmarks.lab.samples import TRAIN_PROMPTS, Samples, read_samples

PAIRS = ((0, 1), (2, 3))                # the samples of a prompt that are compared: disjoint, so pairs are independent
MOST = 100_000                          # demonstrations or prompts a set may be asked for


@dataclass
class ReviewsData:
    """Sizes of the sets and the annotators' habits. Sets are disjoint by prompt; the larger set extends the smaller."""

    demonstrations: int = 3072      # true reviews for SFT
    preferences: int = 2048         # labelled comparisons, two to a prompt
    audit: int = 0                  # further comparisons, from which the auditor learns and no method does
    prompts: int = 1536             # bare prompts for algorithms that sample
    tuning: int = 256               # held-out prompts for choosing settings
    evaluation: int = 256           # held-out prompts of the reported evaluation, each with one true review
    temperature: float = 1.0        # tau: P(a preferred to b) = sigmoid((gold_a - gold_b) / tau)
    length_bias: float = 0.0        # biased annotators: added to that logit per ten words a is longer than b
    closing_bias: float = 0.0       # added where only a ends with a closing phrase, subtracted where only b does

    in_trial: ClassVar[dict[str, int]] = {"demonstrations": 64, "preferences": 64, "audit": 64, "prompts": 64,
                                          "tuning": 16, "evaluation": 16}

    def load(self, seed: int) -> DataSets:
        """The named sets. The seed draws the annotators' labels and nothing else.

        Raises ConfigError for a size or temperature that cannot be used.
        """
        self._check()
        rows = _judged()
        train = rows[:self.preferences // len(PAIRS)]
        audited = rows[TRAIN_PROMPTS - self.audit // len(PAIRS):TRAIN_PROMPTS]
        preferences = self._labelled(train, Random(f"labels/preferences/{seed}"))
        heldout = self._labelled(rows[TRAIN_PROMPTS:], Random(f"labels/heldout/{seed}"))
        sets = {
            "preferences": preferences,
            "heldout": heldout,
            "demonstrations": _demonstrations("demonstrations", self.demonstrations),
            "prompts": [Record(review.prompt, []) for review in _reviews("prompts", self.prompts)],
            "tuning": _demonstrations("tuning", self.tuning),
            "evaluation": _demonstrations("evaluation", self.evaluation),
        }
        audit = self._labelled(audited, Random(f"labels/audit/{seed}"))
        count = sum(map(len, sets.values())) + len(audit)
        return DataSets(
            **{name: Records.from_list(records) for name, records in sets.items()},
            report=LoadReport(read=count, kept=count, strict_pairs=len(preferences) + len(heldout) + len(audit)),
            gold=gold_rewards, audit=Records.from_list(audit) if audit else None, texts=_unread(self.evaluation),
        )

    def _check(self) -> None:
        most = TRAIN_PROMPTS * len(PAIRS)
        self._check_size("preferences", len(PAIRS), most)
        self._check_size("audit", 0, most - self.preferences)
        for name, up_to in (("preferences", most), ("audit", most - self.preferences)):
            if getattr(self, name) % len(PAIRS):
                raise _bad(name, getattr(self, name), f"an even number up to {up_to}: two comparisons a prompt")
        for name, least in (("demonstrations", 1), ("prompts", 1), ("tuning", 0), ("evaluation", 1)):
            self._check_size(name, least, MOST)
        for name in ("temperature", "length_bias", "closing_bias"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise _bad(name, value, "a finite number")
        if self.temperature <= 0:
            raise _bad("temperature", self.temperature, "a positive number; the smaller, the less annotators err")

    def _check_size(self, name: str, least: int, most: int) -> None:
        size = getattr(self, name)
        if not isinstance(size, int) or not least <= size <= most:
            raise _bad(name, size, f"a whole number from {least} to {most}")

    def _labelled(self, rows: list[tuple[Samples, list[float]]], random: Random) -> list[Record]:
        """Two records per prompt; scores 1 and 0 say which response the annotator preferred."""
        records = []
        for row, gold in rows:
            for a, b in PAIRS:
                preferred = random.random() < _sigmoid(self._logit(row, gold, a, b))
                scores = [1.0, 0.0] if preferred else [0.0, 1.0]
                records.append(Record(row.prompt, [row.responses[a], row.responses[b]], scores))
        return records

    def _logit(self, row: Samples, gold: list[float], a: int, b: int) -> float:
        """Log-odds that an annotator prefers response a to response b."""
        words = len(row.responses[a].split()) - len(row.responses[b].split())
        closing = closes(row.responses[a]) - closes(row.responses[b])
        return (gold[a] - gold[b]) / self.temperature + self.length_bias * words / 10 + self.closing_bias * closing


@cache
def _judged() -> list[tuple[Samples, list[float]]]:
    """The committed samples, training prompts first, each with the gold rewards of its responses."""
    return [
        (row, gold_rewards([row.prompt] * len(row.responses), row.responses, row.finished)) for row in read_samples()
    ]


@cache
def _reviews(name: str, count: int) -> list[grammar.Review]:
    return grammar.take(name, count)


@cache
def _unread(count: int) -> tuple[str, ...]:
    """Documents like those that the base was pretrained on, of a stream that was kept from it."""
    return tuple(islice(grammar.documents(seed=1), count))


def _demonstrations(name: str, count: int) -> list[Record]:
    return [Record(review.prompt, [review.response]) for review in _reviews(name, count)]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _bad(name: str, found: object, expected: str) -> ConfigError:
    return ConfigError(f"data.{name}: found {found!r}; expected {expected}; fix: set data.{name} to such a number")
