"""Candidates: scored responses for each prompt, from a mix of sources, made before training and kept as a stage.

    prompts → sources → one text each, cut at a turn the model invented → duplicates out → scores → examples

Kept under all that determines them (model, policy, generation, sources, prompts, reward, seed), so another learning
rate or loss trains on the same candidates. What making them took is kept too: found ones are charged what they once
cost.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import pandas as pd

from ..algorithm import Context, Response
from ..data.cuts import tell_cut_prompts
from ..data.records import Record
from ..data.template import Example, Template
from ..models.model import Models
from ..support.checks import at_least, one_of, require
from ..support.digests import content_hash
from ..support.errors import ConfigError, TrainingError
from ..support.memory import peak_memory_bytes, release, reset_peak_memory
from ..support.pieces import Pieces, write_whole
from ..support.provenance import code_of, versions
from ..support.seeds import derive
from .sources import Candidate, Draw, FromRecords, Prompt, Sampled, Source

log = logging.getLogger(__name__)
PART = 512  # prompts whose candidates are saved together: what a kill loses
SCORED = 128  # candidates whose scores are saved together


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

    in_trial: ClassVar[dict[str, int]] = {"max_new_tokens": 16}

    def __post_init__(self):
        require(self, "candidates", scores=one_of(("reward", "records")), max_new_tokens=at_least(1))
        if not self._used:
            raise ConfigError("candidates.sources: found none; expected at least one, such as own")
        if self.scores == "records" and not all(isinstance(source, FromRecords) for source in self._used.values()):
            raise ConfigError(f"candidates.scores: found records with the sources {', '.join(self._used)}; expected "
                              "the records' responses alone, nothing else has their scores; fix: scores=reward")

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

    @property
    def asks_policy(self) -> bool:
        """Whether a policy that learned would give others."""
        return any(source.asks_policy for source in self._used.values())

    def make(self, context: Context, records: list[Record], examples: list[Example], policy: str = "reference",
             generation: int = 1) -> Made:
        """The records' prompts with their candidates, found in the store or made.

        examples: the records' tokens; policy: the role that samples; each ``generation`` has random streams of its own.
        """
        prompts = [self._prompt(context.models, record, example) for record, example in zip(records, examples)]
        tell_cut_prompts(f"candidates of {context.name}", [one.example.prompt for one in prompts],
                         [one.ids for one in prompts], context.models.config.max_length, self.max_new_tokens)
        description = self._description(context, prompts, policy, generation)

        def build(target: Path, work: Path) -> None:
            self._build(context, prompts, policy, generation, target, work)

        alike = ("model.base", "sources", "generation")
        folder = context.store.get("candidates", description, build, f"candidates of {context.name}", alike)
        frame = pd.read_parquet(folder / "candidates.parquet")
        cost = json.loads((folder / "cost.json").read_text(encoding="utf-8"))
        by_prompt = dict(iter(frame.groupby("prompt")))
        return Made([_example(prompt, by_prompt[number]) for number, prompt in enumerate(prompts)], frame, cost)

    def _prompt(self, models: Models, record: Record, example: Example) -> Prompt:
        """Cut for the longer of what is generated and what is there: all candidates have the same prompt."""
        to_answer = models.prompt_ids(record.prompt, self.max_new_tokens)
        return Prompt(record, example, min(example.prompt, to_answer, key=len))

    def _description(self, context: Context, prompts: list[Prompt], policy: str, generation: int) -> dict:
        identity = context.identity
        return {"model": identity.get("model"),
                "policy": identity.get("needs", {}).get(policy), "generation": generation,
                "reward": identity.get("reward") if self.scores == "reward" else None,
                "sources": {name: [type(source).__qualname__, asdict(source)] for name, source in self._used.items()},
                "content": self.content(), "max_new_tokens": self.max_new_tokens, "scores": self.scores,
                "seed": context.seed, "code": code_of(self), "versions": versions(),
                "prompts": content_hash([[one.record.key, one.example.key, len(one.ids)] for one in prompts])}

    def _build(self, context: Context, prompts: list[Prompt], policy: str, generation: int, target: Path,
               work: Path) -> None:
        log.info("candidates: %d prompts from %s", len(prompts), ", ".join(self._used))
        parts = [_Part.of(work, start) for start in range(0, len(prompts), PART)]
        draws: dict[str, Draw] = {}
        for part in parts:
            if not part.whole:
                began = time.monotonic()
                draws = draws or self._open(context, policy, generation)
                pieces = Pieces(work, lambda: peak_memory_bytes(context.models.device))
                frame, cost = self._made(context, draws, part.start, prompts[part.start:part.start + PART], pieces)
                part.save(frame, {**cost, "seconds": time.monotonic() - began + pieces.seconds})
        costs = [part.cost() for part in parts]
        self._check_drawn([cost.pop("drawn") for cost in costs], len(prompts))
        draws.clear()  # another model goes before training begins
        release()
        pd.concat([part.frame() for part in parts]).to_parquet(target / "candidates.parquet", index=False)
        (target / "cost.json").write_text(json.dumps(_together(costs)), encoding="utf-8")

    def _check_drawn(self, parts: list[dict[str, int]], prompts: int) -> None:
        for name in self._used:
            if not sum(part[name] for part in parts):
                raise TrainingError(f"candidates.sources.{name}: found no response to any of {prompts} prompts; "
                                    "expected some; fix: another algorithm.view, "
                                    f"or algorithm.candidates.sources.{name}=null")

    def _open(self, context: Context, policy: str, generation: int) -> dict[str, Draw]:
        streams = {name: ("candidates", name, *([generation] if generation > 1 else [])) for name in self._used}
        return {name: source.open(context, self.max_new_tokens, derive(context.seed, *streams[name]), policy)
                for name, source in self._used.items()}

    def _made(self, context: Context, draws: dict[str, Draw], start: int, prompts: list[Prompt], pieces: Pieces
              ) -> tuple[pd.DataFrame, dict]:
        """The scored candidates of these prompts, numbered from ``start``, and what they cost but for the time."""
        models = context.models
        reset_peak_memory(models.device)
        drawn = {name: [[Candidate(*one) for one in of_prompt] for of_prompt in pieces.kept(
            f"drawn-{start}-{name}", lambda draw=draw: [list(map(astuple, of_prompt)) for of_prompt in draw(prompts)])]
            for name, draw in draws.items()}
        numbered = dict(enumerate(prompts, start))
        rows = []
        for number, prompt in numbered.items():
            of_prompt = {name: found[number - start] for name, found in drawn.items()}
            rows += self._distinct(models.template, number, prompt, of_prompt)
        frame = pd.DataFrame(rows)
        queries = self._score(context, frame, numbered, f"scores-{start}", pieces)
        given = {name: [one for of_prompt in found for one in of_prompt] for name, found in drawn.items()}
        return frame, {"tokens_sampled": sum(one.sampled for found in given.values() for one in found),
                       "reward_queries": queries, "drawn": {name: len(found) for name, found in given.items()},
                       "peak_memory_bytes": max([peak_memory_bytes(models.device), *pieces.noted])}

    def _distinct(self, template: Template, number: int, prompt: Prompt, candidates: dict[str, list[Candidate]]
                  ) -> list[dict]:
        """A row for every candidate of a prompt whose text no earlier one has; ``candidates``: by source."""
        scores = prompt.example.scores if self.scores == "records" else None
        rows: dict[str, dict] = {}  # by text
        for name, found in candidates.items():
            for place, one in enumerate(found):
                text = template.clean_response(prompt.record.prompt, template.decode(one.ids))
                if text not in rows:
                    rows[text] = {"prompt": number, "source": name, "response": text, "ids": one.ids,
                                  "finished": one.finished, "score": None if scores is None else scores[place]}
        if not rows:
            raise TrainingError(f"candidates: found none for record {prompt.record.key} from {', '.join(candidates)}; "
                                "expected responses; fix: algorithm.view=ranked, or another source")
        return list(rows.values())

    def _score(self, context: Context, frame: pd.DataFrame, prompts: dict[int, Prompt], name: str,
               pieces: Pieces) -> int:
        """Fill in the scores; returns how many were asked for."""
        if self.scores == "records":
            missing = frame["score"].isna()
            if missing.any():
                first = prompts[frame["prompt"][missing].iloc[0]].record.key
                raise TrainingError(f"candidates: found no scores in record {first}; expected scored responses; "
                                    "fix: algorithm.view=ranked, or scores=reward")
            return 0
        asked = [_judged(context.models.template, prompts[row.prompt], row) for row in frame.itertuples()]
        frame["score"] = pieces.asked(name, asked, context.reward, SCORED, Response.length)
        return len(frame)


@dataclass(frozen=True)
class _Part:
    """The saved candidates of up to PART prompts, from the prompt ``start`` on."""

    start: int
    rows_file: Path
    cost_file: Path

    @classmethod
    def of(cls, work: Path, start: int) -> "_Part":
        return cls(start, work / f"{start}.parquet", work / f"{start}.json")

    @property
    def whole(self) -> bool:
        return self.cost_file.is_file()

    def save(self, frame: pd.DataFrame, cost: dict) -> None:
        with open(self.rows_file, "wb") as file:
            frame.to_parquet(file, index=False)
            file.flush()
            os.fsync(file.fileno())
        write_whole(self.cost_file, json.dumps(cost))  # last: it says that the part is whole

    def frame(self) -> pd.DataFrame:
        return pd.read_parquet(self.rows_file)

    def cost(self) -> dict:
        return json.loads(self.cost_file.read_text(encoding="utf-8"))


def _together(costs: list[dict[str, float]]) -> dict[str, float]:
    """What all parts cost: memory is used again, the rest adds up."""
    return {key: (max if key == "peak_memory_bytes" else sum)(cost[key] for cost in costs) for key in costs[0]}


def _judged(template: Template, prompt: Prompt, row: NamedTuple) -> Response:
    """A candidate's row as a reward takes it."""
    record = prompt.record
    return Response(template.prompt_text(record.prompt), row.response, prompt.ids, row.ids, row.finished,
                    record.key, record.prompt, record.meta)


def _example(prompt: Prompt, rows: pd.DataFrame) -> Example:
    """A prompt's tokens with its candidates and their scores."""
    example = prompt.example
    return replace(example, prompt=prompt.ids, responses=[list(map(int, ids)) for ids in rows["ids"]],
                   finished=rows["finished"].tolist(), scores=rows["score"].tolist(), key="",
                   truncated=example.truncated or len(prompt.ids) < len(example.prompt))
