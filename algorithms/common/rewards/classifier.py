"""A Hugging Face sequence classifier as a reward: what it can read, what it is given, which of its outputs counts."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..algorithm import Response, RewardSource, Scorer
from ..data.records import render_transcript
from ..models.families import check_findable, check_vocabulary, misspelt_folder, position_limit
from ..models.model import Models
from ..support.checkout import local_folder
from ..support.checks import at_least, one_of, require
from ..support.digests import content_hash, weights_digest
from ..support.errors import ConfigError
from ..support.phases import in_parts
from .sources import checked, counted

if TYPE_CHECKING:
    from ..data.records import DataSets

log = logging.getLogger(__name__)


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
        require(self, "reward", input=one_of(INPUTS), precision=one_of(("fp32", "bf16")), max_length=at_least(1),
                label=at_least(0).or_null())
        self._told_of_cut = False

    def folder(self) -> str:
        return local_folder(self.name)

    def content(self) -> str:
        if Path(self.folder()).is_dir():
            return weights_digest(Path(self.folder()))
        from transformers import AutoConfig

        check_findable(self.name, "reward.name")
        try:
            told = AutoConfig.from_pretrained(self.name, revision=self.revision,
                                              trust_remote_code=self.trust_remote_code)
        except (OSError, ValueError) as error:
            raise self._not_loaded(error) from error
        return content_hash({"hub": self.name, "commit": getattr(told, "_commit_hash", None) or self.revision})

    def check(self, data: "DataSets") -> None:
        """Also of what its chat template refuses: every sequence of roles in the data is rendered once."""
        tokenizer = self._described()
        sets = (data.preferences, data.demonstrations, data.prompts, data.evaluation, data.heldout, data.tuning)
        seen = set()
        columns = (records.column("messages") for records in sets if self.input == "chat")
        for turns in itertools.chain.from_iterable(columns):
            roles = () if turns is None else tuple(turn["role"] for turn in turns)
            if roles not in seen:
                seen.add(roles)
                self._rendered(tokenizer, turns or "a question", "an answer")

    def _rendered(self, tokenizer, turns: str | list[dict], text: str) -> dict:
        """What its tokenizer is given of a prompt and a response. ConfigError where its chat template refuses them."""
        import jinja2

        try:
            return INPUTS[self.input](tokenizer, turns, text)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            roles = ["user"] if isinstance(turns, str) else [turn["role"] for turn in turns]
            raise ConfigError(f"reward.input: found chat, but the chat template of {self.name} refuses the turns "
                              f"{[*roles, 'assistant']} ({error}); expected one that takes the data's; fix: "
                              "reward.input=pair or reward.input=text") from error

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        model, tokenizer = self._load(models.device)
        self._told_of_cut = False
        # transformers takes several texts at once only where the model has a pad id
        size = batch_size if model.config.get_text_config().pad_token_id is not None else 1

        def score(responses: list[Response]) -> list[float]:
            rows = [self._encoded(tokenizer, response) for response in responses]
            values = [0.0] * len(rows)
            parts = of_equal_length([_shape(row["input_ids"], model.config) for row in rows], size)
            for part in in_parts("scoring", parts, "answers"):
                for place, value in zip(part, self._batch(model, [rows[place] for place in part])):
                    values[place] = value
            return values

        return counted(models, checked("classifier", score))

    def _not_loaded(self, error: Exception) -> ConfigError:
        if not Path(self.folder()).is_dir() and (misspelt := misspelt_folder(self.name, "reward.name")):
            return ConfigError(misspelt)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return ConfigError(f"reward.name: found {self.name!r}, which could not be loaded ({first}); expected a "
                           "sequence classifier's hub id or folder, with safetensors; fix: check the name, or run "
                           "hf auth login")

    def _no_head(self, found: str) -> ConfigError:
        return ConfigError(f"reward.name: found {self.name!r}, {found}: its head would be random; expected a sequence "
                           "classifier (…ForSequenceClassification); fix: reward.name=… of one")

    def _described(self):
        """Its tokenizer. ConfigError, before its weights load, for settings that it cannot serve."""
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        if not Path(self.folder()).is_dir():
            check_findable(self.name, "reward.name")
        options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder(), truncation_side="left", **options)
            config = AutoConfig.from_pretrained(self.folder(), **options)
            with torch.device("meta"):  # layers without numbers
                model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=self.trust_remote_code)
        except (OSError, ValueError, AssertionError) as error:  # torch asserts that a pad id is in the vocabulary
            raise self._not_loaded(error) from error
        own_code = "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})
        named = list(getattr(config, "architectures", None) or [])
        if named and not own_code and not any(one.endswith("ForSequenceClassification") for one in named):
            raise self._no_head(f"a {' or '.join(named)}")
        check_vocabulary(config, tokenizer, self.name, "reward.name")
        labels = config.num_labels
        if self.label is None and labels != 1 or self.label is not None and not self.label < labels > 1:
            raise ConfigError(f"reward.label: found {self.label} for a classifier of {labels} outputs; expected "
                              f"{'null' if labels == 1 else f'a class from 0 to {labels - 1}'}")
        if self.input == "chat" and tokenizer.chat_template is None:
            raise ConfigError(f"reward.input: found chat, but {self.name} has no chat template; expected pair or text")
        # RoBERTa and its kin; others have the attribute and do not use it
        if any(getattr(module, "padding_idx", 0) is None for name, module in model.named_modules()
               if name.endswith(".embeddings")):
            raise ConfigError(f"reward.name: found {self.name!r}, a {config.model_type} without pad_token_id in its "
                              "config.json; expected one, from which this family counts positions; fix: add it there")
        if config.is_encoder_decoder and config.eos_token_id not in tokenizer("a").input_ids:
            raise ConfigError(f"reward.name: found {self.name!r}, a {config.model_type}, which reads a text at its end "
                              f"token, and a tokenizer that sets none (token {config.eos_token_id}); expected one that "
                              "does; fix: give its tokenizer.json a post-processor that adds it")
        least, most = self._special_tokens(tokenizer) + 1, _readable(model, tokenizer)
        if not least <= self.max_length <= most:
            word, bound = ("least", least) if self.max_length < least else ("most", most)
            raise ConfigError(f"reward.max_length: found {self.max_length}; expected at {word} {bound}, the tokens "
                              f"that {self.name} takes; fix: reward.max_length={bound}")
        return tokenizer

    def _load(self, device: torch.device):
        from transformers import AutoModelForSequenceClassification

        tokenizer = self._described()
        try:
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                self.folder(), use_safetensors=True, output_loading_info=True,
                dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision],
                revision=self.revision, trust_remote_code=self.trust_remote_code)
        except (OSError, ValueError) as error:
            raise self._not_loaded(error) from error
        if loaded["missing_keys"]:
            raise self._no_head(f"without weights for {', '.join(sorted(loaded['missing_keys'])[:3])}")
        return model.to(device).eval().requires_grad_(False), tokenizer

    def _special_tokens(self, tokenizer) -> int:
        """Tokens that are not the response's, at least: of a pair's prompt one stays."""
        pair = self.input == "pair"
        return tokenizer.num_special_tokens_to_add(pair=pair) + pair

    def _encoded(self, tokenizer, response: Response):
        """A text as tokens, without its beginning where it is too long. A pair loses its prompt first."""
        alone = tokenizer(response.text, add_special_tokens=False, verbose=False).input_ids
        fits = len(alone) + self._special_tokens(tokenizer) <= self.max_length
        if not fits and not self._told_of_cut:
            self._told_of_cut = True
            log.warning("reward classifier: the response to record %s has %d tokens, too many for "
                        "reward.max_length=%d; its beginning is cut off, as that of others like it", response.record,
                        len(alone), self.max_length)
        row = self._rendered(tokenizer, response.turns, response.text)
        return tokenizer(**row, truncation="only_first" if fits else "longest_first", max_length=self.max_length)

    @torch.no_grad()
    def _batch(self, model, rows: list) -> list[float]:
        """The scores of texts of the same number of tokens."""
        # each (B, T)
        inputs = {name: torch.tensor([row[name] for row in rows], device=model.device) for name in rows[0]}
        logits = model(**inputs).logits.float()  # (B, labels)
        return (logits[:, 0] if self.label is None else logits.softmax(-1)[:, self.label]).tolist()


def _shape(ids: list[int], config) -> tuple[int, int]:
    """Tokens of a text, and its end tokens: encoder-decoders take texts at once only where they have as many."""
    return len(ids), ids.count(config.get_text_config().eos_token_id)


def of_equal_length(lengths: list[Hashable], most: int) -> list[list[int]]:
    """Places of texts that go through a model together, at most so many at once.

    Nothing is padded: families find the token that they read by pad ids, by end tokens or by place, and few of them
    behind padding of any kind and side.
    """
    by_length: dict[Hashable, list[int]] = {}
    for place, length in enumerate(lengths):
        by_length.setdefault(length, []).append(place)
    return [places[start:start + most] for places in by_length.values() for start in range(0, len(places), most)]


def _readable(model, tokenizer) -> int:
    """Tokens of the longest text that a model and its tokenizer state to read."""
    limits = [tokenizer.model_max_length, position_limit(model.config)]
    # RoBERTa and its kin count positions from behind their padding's
    limits += [table.num_embeddings - table.padding_idx - 1 for name, table in model.named_modules()
               if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None]
    return min(limit for limit in limits if limit is not None and limit > 0)  # XLNet states -1
