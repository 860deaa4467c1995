"""What scores a response: a trained reward model, the data's gold reward, a function, a classifier, a weighted sum.

A source is configured (``reward=…``); opened over the models of a stage it becomes a scorer, a plain function of
responses. Sources that must be trained first say so in ``needs``; what their settings only name is told by ``content``.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import torch

from .algorithm import Algorithm, Need
from .errors import ConfigError, TrainingError
from .models import PROJECT, ModelConfig, Models
from .optim import Recipe
from .records import Record, render_transcript
from .store import content_hash, weights_digest
from .template import Example

if TYPE_CHECKING:
    from .records import DataSets


@dataclass(frozen=True)
class Response:
    """One response to score, as text and as token ids."""

    prompt: str  # rendered
    text: str
    prompt_ids: list[int]
    ids: list[int]  # with the end token when finished
    finished: bool
    record: str  # key, for messages
    source: str | list[dict] | None = None  # the record's prompt before rendering; None: the same text

    @property
    def turns(self) -> str | list[dict]:
        """The prompt for whoever renders it anew: plain text or messages."""
        return self.prompt if self.source is None else self.source


Scorer = Callable[[list[Response]], list[float]]


class RewardSource:
    """Base of the sources."""

    def needs(self) -> dict[str, Need]:
        """Stages to train first, by name. Over the run's base each becomes its algorithm's frozen role."""
        return {}

    def content(self) -> Any:
        """Identity, as JSON, of what the settings only name: a kept stage depends on what files hold."""
        return {}

    def check(self, data: "DataSets") -> None:
        """ConfigError where it cannot score this data; asked before anything is trained. Default: nothing is refused."""

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        """A scorer over loaded models; ``folders`` holds the trained stages of ``needs``."""
        raise NotImplementedError


def checked(name: str, scorer: Callable[[list[Response]], Any]) -> Scorer:
    """The scorer, stopping with the record where it returns anything but one finite number per response.

    It may return a list, a NumPy array or a tensor.
    """

    def score(responses: list[Response]) -> list[float]:
        values = scorer(responses)
        values = values.tolist() if hasattr(values, "tolist") else values
        first = responses[0].record if responses else "none"
        if not isinstance(values, (list, tuple)):
            raise TrainingError(f"reward {name}: found {type(values).__name__}; expected a list of one number per "
                                f"response (first record {first})")
        if len(values) != len(responses):
            raise TrainingError(f"reward {name}: found {len(values)} scores for {len(responses)} responses; expected "
                                f"one each (first record {first})")
        return [_number(name, value, response) for value, response in zip(values, responses)]

    return score


def _number(name: str, value: Any, response: Response) -> float:
    number = value.item() if getattr(value, "ndim", None) == 0 else value  # a tensor's or an array's element
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise TrainingError(f"reward {name}: found {number!r} for a response to record {response.record}; expected a "
                            "finite number")
    return float(number)


@dataclass
class Trained(RewardSource):
    """A reward model trained on the run's preferences, as a frozen role on the policy's own base."""

    algorithm: Algorithm
    recipe: Recipe

    def needs(self) -> dict[str, Need]:
        return {"reward": Need(self.algorithm, self.recipe)}

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        self.algorithm.load_state_dict(json.loads((folders["reward"] / "state.json").read_text(encoding="utf-8")))

        def examples(responses: list[Response]) -> list[Example]:
            return [Example(r.prompt_ids, [r.ids], [r.finished], None, r.record) for r in responses]

        return checked("trained", lambda responses: _scores(self.algorithm, models, examples(responses), batch_size))


@torch.no_grad()
def _scores(algorithm: Algorithm, models: Models, examples: list[Example], batch_size: int) -> list[float]:
    """The algorithm's score of single responses."""
    values: list[float] = []
    for start in range(0, len(examples), batch_size):
        values += algorithm.score(models, models.collate(examples[start:start + batch_size]))[:, 0].tolist()
    return values


@dataclass
class NeedOver(Need):
    """A stage over a base of its own."""

    model: ModelConfig


@dataclass
class TrainedOwn(RewardSource):
    """A reward model trained on the run's preferences over a base of its own, of any size and family."""

    algorithm: Algorithm
    recipe: Recipe
    model: ModelConfig

    def needs(self) -> dict[str, Need]:
        return {"reward": NeedOver(self.algorithm, self.recipe, self.model)}

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        from .export import frozen_role

        own = Models(self.model, "bf16" if models.autocast_dtype is not None else "no", device=models.device)
        self.algorithm.load_state_dict(json.loads((folders["reward"] / "state.json").read_text(encoding="utf-8")))
        frozen_role(own, self.algorithm.role, folders["reward"])

        def score(responses: list[Response]) -> list[float]:
            return _scores(self.algorithm, own, [_retokenized(own, response) for response in responses], batch_size)

        return checked("trained on its own base", score)


def _retokenized(models: Models, response: Response) -> Example:
    """A response as another model's tokens; an unfinished one has no end token there either."""
    example = replace(models.tokenize(Record(response.turns, [response.text])), record=response.record)
    if response.finished or not example.finished[0]:
        return example
    return replace(example, responses=[example.responses[0][:-1]], finished=[False], key="")


@dataclass
class Gold(RewardSource):
    """The data's own true reward, where it has one."""

    def check(self, data: "DataSets") -> None:
        if data.gold is None:
            raise ConfigError("reward: found gold, but this data has no gold reward; expected data=reviews; fix: "
                              "reward=trained")

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        def score(responses: list[Response]) -> list[float]:
            prompts, texts = [r.prompt for r in responses], [r.text for r in responses]
            return data.gold(prompts, texts, [r.finished for r in responses])

        return checked("gold", score)


@dataclass
class Function(RewardSource):
    """A Python function of (prompts, responses), two lists of texts, to one number for each.

    Prompts come as the policy sees them, its chat template applied.
    """

    function: Callable[[list[str], list[str]], Any]

    def content(self) -> str | None:
        """The source file it is written in: an edited function is another reward."""
        function = self.function
        while isinstance(function, functools.partial):
            function = function.func
        try:
            return content_hash(Path(inspect.getsourcefile(inspect.unwrap(function))).read_text(encoding="utf-8"))
        except TypeError:  # written in C: its name and the environment say what it is
            return None

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        return checked("function", lambda rs: self.function([r.prompt for r in rs], [r.text for r in rs]))


def pair_input(tokenizer, turns: str | list[dict], text: str) -> dict:
    """Prompt and response as the two segments of the tokenizer."""
    return {"text": turns if isinstance(turns, str) else render_transcript(turns), "text_pair": text}


def text_input(tokenizer, turns: str | list[dict], text: str) -> dict:
    """One text: the prompt and what follows it; messages as a transcript."""
    return {"text": turns + text if isinstance(turns, str) else f"{render_transcript(turns)} {text}"}


def chat_input(tokenizer, turns: str | list[dict], text: str) -> dict:
    """The conversation in the classifier's own chat template; a plain prompt is the user's turn."""
    messages = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
    bos = tokenizer.bos_token
    adds_bos = bos and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return {"text": whole.removeprefix(bos) if adds_bos else whole}


INPUTS = {"pair": pair_input, "text": text_input, "chat": chat_input}


@dataclass
class Classifier(RewardSource):
    """A Hugging Face sequence classifier, which sees the text rendered and tokenised its own way."""

    name: str  # hub id or local folder
    revision: str | None = None
    input: str = "pair"  # pair: two segments | text: prompt and response as one text | chat: its own chat template
    label: int | None = None  # the class whose probability is the reward; null: the logit of a model that has one
    precision: str = "fp32"  # fp32 | bf16
    max_length: int = 512  # tokens; the end of a longer text, where the response is, stays
    trust_remote_code: bool = False

    def __post_init__(self):
        for key, allowed in {"input": tuple(INPUTS), "precision": ("fp32", "bf16")}.items():
            if getattr(self, key) not in allowed:
                raise ConfigError(f"reward.{key}: found {getattr(self, key)!r}; expected one of {', '.join(allowed)}")
        for key, least in (("max_length", 1), ("label", 0)):
            if getattr(self, key) is not None and getattr(self, key) < least:
                raise ConfigError(f"reward.{key}: found {getattr(self, key)}; expected at least {least}")

    def folder(self) -> str:
        for path in (Path(self.name), PROJECT / self.name):
            if path.is_dir():
                return str(path.resolve())
        return self.name

    def content(self) -> str:
        if Path(self.folder()).is_dir():
            return weights_digest(Path(self.folder()))
        from transformers import AutoConfig

        try:
            told = AutoConfig.from_pretrained(self.name, revision=self.revision,
                                              trust_remote_code=self.trust_remote_code)
        except (OSError, ValueError) as error:
            raise self._not_loaded(error) from error
        return content_hash({"hub": self.name, "commit": getattr(told, "_commit_hash", None) or self.revision})

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        model, tokenizer = self._load(models.device)
        # without a pad id of its own the model would read its answer at the padding of short rows
        size = batch_size if model.config.pad_token_id is not None else 1

        def score(responses: list[Response]) -> list[float]:
            values: list[float] = []
            for start in range(0, len(responses), size):
                values += self._batch(model, tokenizer, responses[start:start + size])
            return values

        return checked("classifier", score)

    def _not_loaded(self, error: Exception) -> ConfigError:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return ConfigError(f"reward.name: found {self.name!r}, which could not be loaded ({first}); expected a "
                           "sequence classifier's hub id or folder, with safetensors; fix: check the name, or run hf auth login")

    def _load(self, device: torch.device):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder(), truncation_side="left", padding_side="right",
                                                      **options)
            model = AutoModelForSequenceClassification.from_pretrained(self.folder(), use_safetensors=True, dtype=dtype,
                                                                       **options)
        except (OSError, ValueError) as error:
            raise self._not_loaded(error) from error
        labels = model.config.num_labels
        if self.label is None and labels != 1 or self.label is not None and not self.label < labels > 1:
            raise ConfigError(f"reward.label: found {self.label} for a classifier of {labels} outputs; expected "
                              f"{'null' if labels == 1 else f'a class from 0 to {labels - 1}'}")
        if self.input == "chat" and tokenizer.chat_template is None:
            raise ConfigError(f"reward.input: found chat, but {self.name} has no chat template; expected pair or text")
        if tokenizer.pad_token_id is None:
            model.config.pad_token_id = None  # then nothing is padded: one text at a time
        return model.to(device).eval().requires_grad_(False), tokenizer

    @torch.no_grad()
    def _batch(self, model, tokenizer, responses: list[Response]) -> list[float]:
        rows = [INPUTS[self.input](tokenizer, r.turns, r.text) for r in responses]
        inputs = {key: [row[key] for row in rows] for key in rows[0]}
        strategy = "only_first" if "text_pair" in inputs else True  # a pair loses its prompt first
        inputs = tokenizer(**inputs, truncation=strategy, max_length=self.max_length, padding=len(rows) > 1,
                           return_tensors="pt")
        logits = model(**inputs.to(model.device)).logits.float()  # (B, labels)
        return (logits[:, 0] if self.label is None else logits.softmax(-1)[:, self.label]).tolist()


@dataclass
class Weighted(RewardSource):
    """A weighted sum of named sources."""

    sources: dict[str, RewardSource] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)  # one for each source

    def __post_init__(self):
        if not self.sources or set(self.sources) != set(self.weights):
            raise ConfigError(f"reward.weights: found {sorted(self.weights)} for the sources {sorted(self.sources)}; "
                              "expected one weight for each of at least one source")
        for name, weight in self.weights.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise ConfigError(f"reward.weights.{name}: found {weight!r}; expected a finite number")
        shared = [need.algorithm.role for need in self.needs().values() if need.model is None]
        if len(shared) > len(set(shared)):
            raise ConfigError(f"reward.sources: found {len(shared)} trained sources on the run's base, where there is "
                              "one role for such; expected one; fix: trained_own for the others")

    def needs(self) -> dict[str, Need]:
        return {f"{name}.{role}": need for name, source in self.sources.items()
                for role, need in source.needs().items()}

    def content(self) -> dict[str, Any]:
        return {name: source.content() for name, source in self.sources.items()}

    def check(self, data: "DataSets") -> None:
        for source in self.sources.values():
            source.check(data)

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        scorers = {}
        for name, source in self.sources.items():
            own = {role: folders[f"{name}.{role}"] for role in source.needs()}
            scorers[name] = source.open(models, own, data, batch_size)

        def score(responses: list[Response]) -> list[float]:
            parts = [[self.weights[name] * value for value in scorer(responses)] for name, scorer in scorers.items()]
            return [sum(values) for values in zip(*parts)]

        return checked("weighted", score)
