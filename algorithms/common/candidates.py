"""Candidates: scored responses for each prompt, from a mix of sources, made before training and kept as a stage.

    prompts → sources → one text each, cut at a turn the model invented → duplicates out → scores → examples

Kept under all that determines them (model, reference, sources, prompts, reward, seed), so another learning rate or loss
trains on the same candidates. What making them took is kept too: found ones are charged what they once cost.
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Callable, NamedTuple

import pandas as pd

from .models.beam import diverse_beams
from .context import Context
from .support.digests import content_hash
from .support.errors import ConfigError, TrainingError
from .support.memory import peak_memory_bytes, release, reset_peak_memory
from .models.model import ModelConfig, Models, model_digest
from .support.provenance import code_of, versions
from .data.records import Record
from .rewards.sources import Response
from .models.roles import BASE
from .models.sampling import Sample, Sampling, sample
from .support.seeds import derive
from .data.template import Example

log = logging.getLogger(__name__)
PART = 512  # prompts whose candidates are saved together: what a kill loses
_TURN = re.compile(r"\n\n(Human|Assistant):")  # the plain transcript's marks


class Prompt(NamedTuple):
    """One prompt to answer."""

    record: Record
    example: Example
    ids: list[int]  # with room for the answer and for the record's own responses


@dataclass(frozen=True)
class Candidate:
    """One response as this model's token ids (the end token included when ``finished``), and what it cost to sample."""

    ids: list[int]
    finished: bool
    sampled: int = 0  # tokens


Draw = Callable[[list[Prompt]], list[list[Candidate]]]


class Source:
    """Base of the sources."""

    def content(self) -> dict:
        """Identity of the files that its settings name, beside their names."""
        return {}

    def open(self, context: Context, new_tokens: int, seed: int) -> Draw:
        """What answers prompts with up to ``new_tokens``; loads what it needs, once."""
        raise NotImplementedError


def _at_least(settings: object, **least: float) -> None:
    for key, value in least.items():
        if getattr(settings, key) < value:
            raise ConfigError(f"source.{key}: found {getattr(settings, key)}; expected at least {value}")


@dataclass
class Sampled(Source):
    """Samples of the policy that training starts from."""

    count: int = 4  # at each temperature
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    top_p: float = 1.0
    batch_size: int = 128  # sequences decoded at the same time

    def __post_init__(self):
        _at_least(self, count=1, batch_size=1)
        if not self.temperatures or not all(value > 0 for value in self.temperatures):
            raise ConfigError(f"source.temperatures: found {self.temperatures}; expected numbers above 0")

    def open(self, context: Context, new_tokens: int, seed: int) -> Draw:
        def draw(prompts: list[Prompt]) -> list[list[Candidate]]:
            found: list[list[Candidate]] = [[] for _ in prompts]
            for number, temperature in enumerate(self.temperatures):
                settings = Sampling(new_tokens, temperature, self.top_p, batch_size=self.batch_size)
                drawn = sample(context.models, "reference", [p.ids for p in prompts], settings, derive(seed, number),
                               n=self.count, keys=[p.record.key for p in prompts])
                for of_prompt, prompt, samples in zip(found, prompts, drawn):
                    of_prompt += _own(context.models, prompt, samples)
            return found

        return draw


@dataclass
class DiverseBeams(Source):
    """Diverse beam search of the policy that training starts from, at temperature 1."""

    beams: int = 4  # candidates
    groups: int = 4
    penalty: float = 1.0
    batch_size: int = 128  # sequences decoded at the same time

    def __post_init__(self):
        _at_least(self, beams=1, groups=1, penalty=0, batch_size=1)
        if self.beams % self.groups:
            raise ConfigError(f"source.groups: found {self.groups} for {self.beams} beams; expected equal groups")

    def open(self, context: Context, new_tokens: int, seed: int) -> Draw:
        def draw(prompts: list[Prompt]) -> list[list[Candidate]]:
            found = diverse_beams(context.models, "reference", [p.ids for p in prompts], beams=self.beams,
                                  groups=self.groups, penalty=self.penalty, max_new_tokens=new_tokens,
                                  batch_size=self.batch_size)
            return [_own(context.models, prompt, samples) for prompt, samples in zip(prompts, found)]

        return draw


@dataclass
class OtherModel(Source):
    """Samples of another model, loaded for as long as it answers; it reads and writes text in its own template."""

    model: ModelConfig
    count: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 32  # sequences decoded at the same time

    def __post_init__(self):
        _at_least(self, count=1, temperature=0, batch_size=1)

    def content(self) -> dict:
        return {"base": model_digest(self.model)}

    def open(self, context: Context, new_tokens: int, seed: int) -> Draw:
        other = Models(self.model, context.trainer.mixed_precision)
        settings = Sampling(new_tokens, self.temperature, self.top_p, batch_size=self.batch_size)

        def translated(record: Record, one: Sample) -> Candidate:
            text = other.template.decode(one.ids)
            cut = _before_turn(other, record, text)
            text = other.template.clean_response(record.prompt, text if cut is None else cut)
            return _retokenised(context.models, record, text, one.finished or cut is not None, new_tokens, len(one.ids))

        def draw(prompts: list[Prompt]) -> list[list[Candidate]]:
            ids = [other.prompt_ids(p.record.prompt, new_tokens) for p in prompts]
            drawn = sample(other, BASE, ids, settings, seed, n=self.count, keys=[p.record.key for p in prompts])
            return [[translated(prompt.record, one) for one in samples] for prompt, samples in zip(prompts, drawn)]

        return draw


@dataclass
class FromRecords(Source):
    """The responses that the data has: a view with responses, such as ranked."""

    def open(self, context: Context, new_tokens: int, seed: int) -> Draw:
        def draw(prompts: list[Prompt]) -> list[list[Candidate]]:
            return [[Candidate(ids, over) for ids, over in zip(example.responses, example.finished)]
                    for _, example, _ in prompts]

        return draw


def _own(models: Models, prompt: Prompt, samples: list[Sample]) -> list[Candidate]:
    """This model's samples; one that goes on with a turn of the user's is cut there, and then it has ended."""
    found = []
    for one in samples:
        cut = _before_turn(models, prompt.record, models.template.decode(one.ids))
        if cut is None:
            found.append(Candidate(one.ids, one.finished, len(one.ids)))
        else:
            text = models.template.clean_response(prompt.record.prompt, cut)
            found.append(_retokenised(models, prompt.record, text, True, len(one.ids), len(one.ids)))
    return found


def _before_turn(models: Models, record: Record, text: str) -> str | None:
    """A generated text up to the next turn of a transcript; None where there is none, or turns are tokens there."""
    found = None if isinstance(record.prompt, str) or models.template.chat else _TURN.search(text)
    return text[:found.start()] if found else None


def _retokenised(models: Models, record: Record, text: str, finished: bool, most: int, sampled: int) -> Candidate:
    """A text as this model's tokens, at most so many of them beside the end token."""
    ids = models.template.response_ids(record.prompt, text)
    finished = finished and len(ids) <= most
    return Candidate([*ids[:most], models.template.turn_end] if finished else ids[:most], finished, sampled)


@dataclass
class Made:
    """Candidates of some prompts."""

    examples: list[Example]
    frame: pd.DataFrame  # prompt, source, response, ids, finished, score
    cost: dict[str, float]  # seconds, tokens_sampled, reward_queries, peak_memory_bytes


@dataclass
class Candidates:
    """Which candidates, and what scores them."""

    sources: dict[str, Source | None] = field(default_factory=lambda: {"own": Sampled()})
    max_new_tokens: int = 56
    scores: str = "reward"  # reward: the configured source | records: the data's own

    def __post_init__(self):
        if self.scores not in ("reward", "records"):
            raise ConfigError(f"candidates.scores: found {self.scores!r}; expected reward or records")
        if not self._used:
            raise ConfigError("candidates.sources: found none; expected at least one, such as own")
        if self.scores == "records" and not all(isinstance(source, FromRecords) for source in self._used.values()):
            raise ConfigError(f"candidates.scores: found records with the sources {', '.join(self._used)}; "
                              "expected the records' responses alone, nothing else has their scores; fix: scores=reward")
        _at_least(self, max_new_tokens=1)

    @property
    def _used(self) -> dict[str, Source]:
        return {name: source for name, source in self.sources.items() if source is not None}

    @property
    def takes_responses(self) -> list[str]:
        """The sources that give the records' own responses."""
        return [name for name, source in self._used.items() if isinstance(source, FromRecords)]

    def check(self, view: str) -> None:
        """ConfigError where the records of that view have nothing for a source to give."""
        if view == "prompts" and self.takes_responses:
            raise ConfigError(f"algorithm.view: found prompts with candidates.sources.{self.takes_responses[0]}, which "
                              "gives the records' responses; expected a view that has some; fix: algorithm.view=ranked")

    def content(self) -> dict:
        """Identity of the files that the sources name."""
        return {name: content for name, source in self._used.items() if (content := source.content())}

    def make(self, context: Context, records: list[Record], examples: list[Example]) -> Made:
        """The records' prompts with their candidates, found in the store or made; ``examples``: the records' tokens."""
        prompts = [self._prompt(context.models, record, example) for record, example in zip(records, examples)]
        description = self._description(context, prompts)

        def build(target: Path, work: Path) -> None:
            self._build(context, prompts, target, work)

        alike = ("model.base", "sources")
        folder = context.store.get("candidates", description, build, f"candidates of {context.name}", alike)
        frame = pd.read_parquet(folder / "candidates.parquet")
        cost = json.loads((folder / "cost.json").read_text(encoding="utf-8"))
        by_prompt = dict(iter(frame.groupby("prompt")))
        return Made([_example(prompt, by_prompt[number]) for number, prompt in enumerate(prompts)], frame, cost)

    def _prompt(self, models: Models, record: Record, example: Example) -> Prompt:
        """Cut for the longer of what is generated and what is there: all candidates have the same prompt."""
        to_answer = models.prompt_ids(record.prompt, self.max_new_tokens)
        return Prompt(record, example, min(example.prompt, to_answer, key=len))

    def _description(self, context: Context, prompts: list[Prompt]) -> dict:
        identity = context.identity
        return {"model": identity.get("model"),
                "reference": identity.get("needs", {}).get("reference"),
                "reward": identity.get("reward") if self.scores == "reward" else None,
                "sources": {name: [type(source).__qualname__, asdict(source)] for name, source in self._used.items()},
                "content": self.content(), "max_new_tokens": self.max_new_tokens, "scores": self.scores,
                "seed": context.seed, "code": code_of(self), "versions": versions(),
                "prompts": content_hash([[one.record.key, one.example.key, len(one.ids)] for one in prompts])}

    def _build(self, context: Context, prompts: list[Prompt], target: Path, work: Path) -> None:
        log.info("candidates: %d prompts from %s", len(prompts), ", ".join(self._used))
        frames, costs, draws = [], [], {}
        for start in range(0, len(prompts), PART):
            rows, cost = work / f"{start}.parquet", work / f"{start}.json"
            if not cost.is_file():
                began = time.monotonic()
                draws = draws or self._open(context)
                frame, took = self._part(context, draws, start, prompts[start:start + PART])
                took["seconds"] = time.monotonic() - began
                frame.to_parquet(rows, index=False)
                temporary = cost.with_suffix(".writing")
                temporary.write_text(json.dumps(took), encoding="utf-8")
                temporary.replace(cost)  # last: it says that the part is whole
            frames.append(pd.read_parquet(rows))
            costs.append(json.loads(cost.read_text(encoding="utf-8")))
        self._check_drawn([cost.pop("drawn") for cost in costs], len(prompts))
        draws.clear()  # another model goes before training begins
        release()
        pd.concat(frames).to_parquet(target / "candidates.parquet", index=False)
        together = {key: (max if key == "peak_memory_bytes" else sum)(cost[key] for cost in costs) for key in costs[0]}
        (target / "cost.json").write_text(json.dumps(together), encoding="utf-8")

    def _check_drawn(self, parts: list[dict[str, int]], prompts: int) -> None:
        for name in self._used:
            if not sum(part[name] for part in parts):
                raise TrainingError(f"candidates.sources.{name}: found no response to any of {prompts} prompts; expected "
                                    f"some; fix: another algorithm.view, or algorithm.candidates.sources.{name}=null")

    def _open(self, context: Context) -> dict[str, Draw]:
        return {name: source.open(context, self.max_new_tokens, derive(context.seed, "candidates", name))
                for name, source in self._used.items()}

    def _part(self, context: Context, draws: dict[str, Draw], start: int, prompts: list[Prompt]
              ) -> tuple[pd.DataFrame, dict]:
        models = context.models
        reset_peak_memory(models.device)
        drawn = {name: draw(prompts) for name, draw in draws.items()}
        rows = []
        for index, prompt in enumerate(prompts):
            seen: set[str] = set()
            for name, found in drawn.items():
                for number, one in enumerate(found[index]):
                    text = models.template.clean_response(prompt.record.prompt, models.template.decode(one.ids))
                    if text in seen:
                        continue
                    seen.add(text)
                    own = self.scores == "records" and prompt.example.scores is not None
                    rows.append({"prompt": start + index, "source": name, "response": text, "ids": one.ids,
                                 "finished": one.finished, "score": prompt.example.scores[number] if own else None})
            if not seen:
                raise TrainingError(f"candidates: found none for record {prompt.record.key} from {', '.join(drawn)}; "
                                    "expected responses; fix: algorithm.view=ranked, or another source")
        frame = pd.DataFrame(rows)
        queries = self._score(context, frame, {start + index: prompt for index, prompt in enumerate(prompts)})
        given = {name: sum(map(len, found)) for name, found in drawn.items()}
        sampled = sum(one.sampled for found in drawn.values() for of_prompt in found for one in of_prompt)
        return frame, {"tokens_sampled": sampled, "reward_queries": queries, "drawn": given,
                       "peak_memory_bytes": peak_memory_bytes(models.device)}

    def _score(self, context: Context, frame: pd.DataFrame, prompts: dict[int, Prompt]) -> int:
        """Fill in the scores; returns how many were asked for."""
        if self.scores == "records":
            missing = frame["score"].isna()
            if missing.any():
                first = prompts[frame["prompt"][missing].iloc[0]].record.key
                raise TrainingError(f"candidates: found no scores in record {first}; expected scored responses; "
                                    "fix: algorithm.view=ranked, or scores=reward")
            return 0
        template, responses = context.models.template, []
        for row in frame.itertuples():
            record, _, ids = prompts[row.prompt]
            responses.append(Response(template.prompt_text(record.prompt), row.response, ids, row.ids, row.finished,
                                      record.key, record.prompt, record.meta))
        frame["score"] = context.reward(responses)
        return len(frame)


def _example(prompt: Prompt, rows: pd.DataFrame) -> Example:
    """A prompt's tokens with its candidates and their scores."""
    example = prompt.example
    return replace(example, prompt=prompt.ids, responses=[list(map(int, ids)) for ids in rows["ids"]],
                   finished=rows["finished"].tolist(), scores=rows["score"].tolist(), key="",
                   truncated=example.truncated or len(prompt.ids) < len(example.prompt))
