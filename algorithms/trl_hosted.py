"""TRL's own trainers (von Werra et al., github.com/huggingface/trl) as rows of the same table: SFT; DPO (arXiv
2305.18290); KTO (arXiv 2402.01306); GRPO (arXiv 2402.03300).

Keeps    TRL's losses, batches, sampling and updates, and its defaults for what no field or option here says.
Changes  the start, the records, their order and their tokens are ours: TRL's preparation of text is left out, since
         it tokenises prompt and answer as one text and cuts others than we do. Ours too are optimiser, schedule and
         precision (but in 4 bits TRL trains the adapter in bf16), the tokens that end an answer, and the rewards. KTO
         has a row for each response; the KL of a micro-batch is that of its responses after one another's prompts (of a
         record alone: its own). A short last batch of GRPO is filled from the next epoch. By default TRL's GRPO is
         neither the paper's nor ours: ``options={loss_type: grpo, use_bias_correction_kl: false}`` is like ``grpo``
         with ``score_clip=null missing_eos_penalty=0``. TRL's telemetry is not sent.
Drops    checkpoints, held-out losses while training, several devices.

TRL changes the model it is given, so it gets a base of its own, which stands beside ours while it trains:
``peak_memory_bytes`` counts both. ``seconds`` are those of making its trainer and of its steps. ``tokens_trained``
counts a prompt once for all its responses, as in every row, though TRL computes it with each.
"""

from __future__ import annotations

import copy
import difflib
import importlib.metadata
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from .common.algorithm import Algorithm, Context, Recipe, TrainerConfig
from .common.data.batches import Batch
from .common.data.cuts import tell_cut_prompts
from .common.data.records import Records
from .common.models.export import load_role, save_role
from .common.models.families import disable_dropout
from .common.models.model import Models, load_base
from .common.rollouts import COMPARED, score, shown
from .common.support.checks import NOT_NEGATIVE, POSITIVE, at_least, require, within
from .common.support.errors import ConfigError, TrainingError
from .common.support.memory import no_memory_explained, peak_memory_bytes, release, reset_peak_memory
from .common.support.seeds import derive
from .common.training.loop import display, walk
from .common.training.loop import fit as common
from .common.training.optim import build_optimizer
from .common.training.written import write_report

OURS = {"learning_rate": "recipe.lr", "per_device_train_batch_size": "trainer.micro_batch_size",
        "gradient_accumulation_steps": "recipe.batch_size", "num_train_epochs": "recipe.epochs",
        "max_steps": "recipe.steps", "lr_scheduler_type": "recipe.schedule", "warmup_steps": "recipe.warmup",
        "weight_decay": "recipe.weight_decay", "adam_beta1": "recipe.betas", "adam_beta2": "recipe.betas",
        "max_grad_norm": "recipe.max_grad_norm", "optim": "trainer.optimizer", "bf16": "trainer.mixed_precision",
        "gradient_checkpointing": "model.gradient_checkpointing", "report_to": "trainer.trackers", "seed": "seed",
        "max_length": "model.max_length"}  # TRL's keys that we set → where
UNTOLD = ("loss", "learning_rate", "step", "epoch", "num_tokens")  # of what TRL logs: a line says it in our way


@dataclass
class Hosted(Algorithm):
    """One of TRL's trainers; a subclass says which, what our fields are called there, and what a row is."""

    options: dict[str, Any] | None = None  # further keys of TRL's config, of those in ``free``; null: none

    declines: ClassVar[tuple[str, ...]] = ("micro_batches", "resume")
    theirs: ClassVar[str]  # what TRL calls it
    names: ClassVar[dict[str, str]] = {}  # field → TRL's name of it
    free: ClassVar[tuple[str, ...]] = ("loss_type",)

    def __post_init__(self):
        set_here = OURS | {theirs: f"algorithm.{name}" for name, theirs in self.names.items()}
        for key in sorted({*(self.options or {})} - set(self.free)):
            near = difflib.get_close_matches(key, self.free, 1)
            fix = f"{set_here[key]}=…" if key in set_here else near and f"algorithm.options={{{near[0]}: …}}"
            raise ConfigError(f"algorithm.options: found {key}; expected keys of TRL's config that nothing else here "
                              f"sets: {', '.join(self.free)}; fix: {fix or 'leave it out'}")

    def repeats(self, context: Context) -> int:
        """Rows of a record."""
        return 1

    def row(self, context: Context, micro: list[int], place: int) -> dict[str, Any]:
        """A row, as tokens, of the micro-batch that these records make."""
        raise NotImplementedError(f"TRL prepares the data of {self.theirs}")

    def settings(self, context: Context) -> dict[str, Any]:
        """Further keys of TRL's config."""
        return {"max_length": context.models.config.max_length}

    def content(self) -> dict[str, Any]:
        return {"trl": importlib.metadata.version("trl")}

    def check_recipe(self, recipe: Recipe, trainer: TrainerConfig, records: int, key: str) -> None:
        for place, found, expected in (("trainer.evaluate_every", trainer.evaluate_every, "null"),
                                       (f"{key}.minibatch_size", recipe.minibatch_size, "null"),
                                       (f"{key}.ema", recipe.ema, "null"),
                                       (f"{key}.inner_epochs", recipe.inner_epochs, 1)):
            if found not in (None, expected):
                raise ConfigError(f"{place}: found {found}; expected {expected}, since {type(self).__name__} takes the "
                                  f"steps of TRL's trainer; fix: {place}={expected}")

    def fit(self, context: Context) -> None:
        if not len(context.examples):
            raise TrainingError(f"{context.name}: found no records in the view {self.view!r}; expected at least one; "
                                "fix: give data that has them (task=inspect shows what was read)")
        if context.loop is common:
            self._train(context, Watch(self, context, walk(context, filled=self.uses_reward)))
        else:  # a rehearsal, or a few steps to find a pace
            context.loop(self, context, trainer=lambda batches, told: self._train(
                context, Watch(self, context, batches, told)))

    def _train(self, context: Context, watch: Watch) -> None:
        models = context.models
        context.work.mkdir(parents=True, exist_ok=True)
        with (TemporaryDirectory(dir=context.work) as folder, display(watch) as watch.show,
              no_memory_explained(lambda told: f"{context.name}: found no memory left on {models.device} ({told}); "
                                  "expected room for TRL's model beside ours and for its micro-batches; fix: lower "
                                  "trainer.micro_batch_size or model.max_length")):
            model = their_model(models, self.role, Path(folder))
            reset_peak_memory(models.device)
            models.used.clear()
            models.used.update((self.role, *self.needs))
            began = time.monotonic()
            hosted = self._hosted(context, model, watch, folder)
            hosted.train()
            write_report(context, watch.lines, time.monotonic() - began, watch.total, watch.tokens,
                         sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))
            adapter = {"selected_adapters": ["default"], "save_embedding_layers": False} if models.config.lora else {}
            model.save_pretrained(Path(folder, "trained"), **adapter)
            load_role(models, self.role, Path(folder, "trained"))
        del hosted, model
        release()

    def _hosted(self, context: Context, model, watch: Watch, folder: str):
        """TRL's trainer over our rows."""
        import trl
        from datasets import Dataset
        from transformers.trainer_callback import PrinterCallback

        models, recipe, size, order = context.models, context.recipe, context.recipe.batch_size, watch.order()
        # the largest micro-batch that batches are made of without a rest
        micro = max(n for n in range(1, min(size, context.trainer.micro_batch_size) + 1) if size % n == 0)
        kind, config = getattr(trl, f"{self.theirs}Trainer"), getattr(trl, f"{self.theirs}Config")
        repeats, cuda = self.repeats(context), models.device.type == "cuda"
        scheduled = recipe.scheduled_steps(len(context.examples))
        groups = [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]
        optimizer = build_optimizer(context.trainer.optimizer, groups, recipe, models.device)
        try:
            arguments = config(
                output_dir=folder, gradient_accumulation_steps=size // micro, max_steps=watch.total,
                learning_rate=recipe.lr, max_grad_norm=recipe.max_grad_norm, bf16=models.autocast_dtype is not None,
                gradient_checkpointing=models.config.gradient_checkpointing, use_cpu=not cuda, logging_steps=1,
                gradient_checkpointing_kwargs={"use_reentrant": False}, dataloader_pin_memory=cuda,
                save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
                train_sampling_strategy="sequential", seed=derive(context.seed, "hosted") % 2**31,
                **{theirs: getattr(self, name) for name, theirs in self.names.items()}, **(self.options or {}),
                per_device_train_batch_size=micro * repeats, **self.settings(context))
            hosted = observed(kind, Rows(self, context, order, micro), watch)(
                model=model, args=arguments, processing_class=copy.deepcopy(models.template.tokenizer),
                train_dataset=Dataset.from_dict({"prompt": [str(index) for index in order]}),
                optimizers=(optimizer, LambdaLR(optimizer, lambda step: recipe.factor(step, scheduled))),
                **({"reward_funcs": watch.rewards} if self.uses_reward else {}))
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ConfigError(f"algorithm.options: found {self.options}; expected what TRL's trainer takes: {error}"
                              ) from error
        hosted.remove_callback(PrinterCallback)
        return hosted


def their_model(models: Models, role: str, folder: Path):
    """TRL's own model, which starts as the role does."""
    from peft import PeftModel

    config, start = models.config, folder / "start"
    start.mkdir()
    save_role(models, role, start)
    if config.lora is None:  # TRL loads its reference from the place that the model names
        config = replace(config, name=str(start), revision=None)
    model = load_base(config, models.device)
    disable_dropout(model)
    model.generation_config.eos_token_id = models.template.stop_ids
    return PeftModel.from_pretrained(model, str(start), is_trainable=True) if config.lora else model


class Rows(torch.utils.data.Dataset):
    """Rows of the records to walk through, each made when it is asked for; ``micro``: records of a micro-batch."""

    def __init__(self, method: Hosted, context: Context, order: list[int], micro: int):
        self._method, self._context, self._order, self._micro = method, context, order, micro
        self._repeats = method.repeats(context)

    def __len__(self) -> int:
        return len(self._order) * self._repeats

    def __getitem__(self, place: int) -> dict[str, Any]:
        block, inside = divmod(place, self._micro * self._repeats)
        return self._method.row(self._context, self._order[block * self._micro:(block + 1) * self._micro], inside)


class Watch:
    """What a hosted trainer does on these batches, as lines of metrics; told: see ``algorithm.Steps``."""

    def __init__(self, method: Hosted, context: Context, batches: list[list[int]],
                 told: Callable[[int], None] = lambda tokens: None):
        self.method, self.context, self.total, self.tokens = method, context, len(batches), 0
        self.lines: list[dict] = []
        self._batches, self._told = batches, told
        self.show: Callable[[dict], None]  # told each line
        self._begin()

    @property
    def step(self) -> int:
        """Steps that are done."""
        return len(self.lines)

    def _begin(self) -> None:
        self.loss, self._sampled, self._beside, self._time = 0.0, [], {}, time.monotonic()

    def order(self) -> list[int]:
        """Records to walk through."""
        return [index for batch in self._batches for index in batch]

    def prompt(self, index: str) -> list[int]:
        """Tokens of a prompt to answer, by its place among the examples."""
        return self.context.to_answer(self.context.examples[int(index)], self.method.max_new_tokens)

    def rewards(self, prompts: list[str], completion_ids: list[list[int]], **_) -> list[float]:
        """TRL's reward function: those of our source."""
        context, group, ends = self.context, self.method.samples, self.context.models.template.stop_ids
        rolled = [replace(context.examples[int(prompts[at])], prompt=self.prompt(prompts[at]), key="",
                          responses=completion_ids[at:at + group],
                          finished=[ids[-1] in ends for ids in completion_ids[at:at + group]])
                  for at in range(0, len(prompts), group)]
        whole = [context.examples[int(prompts[at])].prompt for at in range(0, len(prompts), group)]
        if "rollouts" not in context.said and tell_cut_prompts(f"{context.name}, step {self.step + 1}", whole, [
                example.prompt for example in rolled], context.models.config.max_length, self.method.max_new_tokens):
            context.said.add("rollouts")  # other steps' are like the first's
        scores = score(context, rolled)
        context.meter.tokens_sampled += sum(map(len, completion_ids))
        self._sampled, self._beside = rolled, shown(context, rolled, scores)
        return scores.flatten().tolist()

    def end(self, told: dict[str, Any]) -> None:
        """A step is done, of which TRL tells this."""
        context, step, now = self.context, self.step + 1, time.monotonic()
        if not (math.isfinite(self.loss) and math.isfinite(told["grad_norm"])):
            raise TrainingError(f"{context.name}, step {step}: found loss {self.loss} and gradient norm "
                                f"{told['grad_norm']}; expected finite numbers; fix: lower recipe.lr")
        trained = self._sampled or [context.examples[index] for index in self._batches[step - 1]]
        tokens = sum(example.length for example in trained)
        numbers = {name: float(value) for name, value in told.items() if name not in UNTOLD
                   and isinstance(value, (int, float)) and math.isfinite(value)}
        line = {"step": step, "epoch": step * context.recipe.batch_size / len(context.examples),
                "loss/policy": self.loss, **numbers, **self._beside, "lr": told["learning_rate"],
                "tokens_per_second": tokens / (now - self._time),
                "peak_memory_bytes": peak_memory_bytes(context.models.device)}
        self.tokens += tokens
        self.lines.append(line)
        self.show(line)
        self._told(tokens)
        self._begin()


def observed(kind: type, rows: Rows, watch: Watch) -> type:
    """TRL's trainer with our rows, and a watch on its steps."""

    class Observed(kind):
        def _send_telemetry(self):
            pass

        def _prepare_dataset(self, *_, **__):
            return rows

        def _tokenize_prompts(self, prompts):
            return [watch.prompt(index) for index in prompts], None, {}

        def training_step(self, *arguments, **more):
            loss = super().training_step(*arguments, **more)
            watch.loss += loss.item()
            return loss

        def log(self, *arguments, **more):
            super().log(*arguments, **more)
            if "grad_norm" in self.state.log_history[-1]:
                watch.end(self.state.log_history[-1])

    return Observed


@dataclass
class TRLSFT(Hosted):
    view: str = "demonstrations"

    theirs: ClassVar[str] = "SFT"

    def row(self, context: Context, micro: list[int], place: int) -> dict[str, Any]:
        example = context.examples[micro[place]]
        return {"input_ids": example.prompt + example.responses[0],
                "labels": [-100] * len(example.prompt) + example.responses[0]}


@dataclass
class Referred(Hosted):
    """What has a reference; without a supervised stage it is the base."""

    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        self.needs.setdefault("reference", None)


@dataclass
class TRLDPO(Referred):
    view: str = "pairs"
    beta: float = 0.1  # strength of the KL constraint, inverse temperature of the implicit reward

    theirs: ClassVar[str] = "DPO"
    names: ClassVar[dict[str, str]] = {"beta": "beta"}
    free: ClassVar[tuple[str, ...]] = ("loss_type", "loss_weights", "label_smoothing", "ld_alpha", "f_divergence_type",
                                       "f_alpha_divergence_coef", "use_weighting", "discopop_tau")

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", beta=POSITIVE)

    def row(self, context: Context, micro: list[int], place: int) -> dict[str, Any]:
        example = context.examples[micro[place]]
        return {"prompt_ids": example.prompt, "chosen_ids": example.responses[0], "rejected_ids": example.responses[1]}

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K): the implicit reward β log π/π_ref."""
        return self.beta * (models.policy.response_logprobs(batch) - models.reference.response_logprobs(batch))


@dataclass
class TRLKTO(TRLDPO):
    view: str = "rated"
    threshold: float = 0.5  # a score above it is desirable
    desirable_weight: float = 1.0  # λ_D
    undesirable_weight: float = 1.0  # λ_U

    theirs: ClassVar[str] = "KTO"
    names: ClassVar[dict[str, str]] = {name: name for name in ("beta", "desirable_weight", "undesirable_weight")}
    free: ClassVar[tuple[str, ...]] = ("loss_type",)

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", desirable_weight=POSITIVE, undesirable_weight=POSITIVE)

    def check_records(self, records: Records, key: str) -> None:
        found = sorted(set(records.column("k")))
        if len(found) > 1:
            raise ConfigError(f"{key}.view: found records of {', '.join(map(str, found))} responses; expected as many "
                              "in each, since TRL's batches have as many rows; fix: algorithm=kto")

    def repeats(self, context: Context) -> int:
        return len(context.examples[0].responses)

    def row(self, context: Context, micro: list[int], place: int) -> dict[str, Any]:
        """All first responses of a micro-batch, then all second ones; beside each the one before it, round again."""
        examples = [context.examples[index] for index in micro]
        rows = [(one.prompt, ids, value) for of_each in zip(*(zip(one.responses, one.scores) for one in examples))
                for one, (ids, value) in zip(examples, of_each)]
        prompt, ids, value = rows[place]
        return {"prompt_ids": prompt, "completion_ids": ids, "KL_completion_ids": rows[place - 1][1],
                "label": value > self.threshold}


@dataclass
class TRLGRPO(Referred):
    view: str = "prompts"
    samples: int = 8  # G, responses to a prompt
    kl_coef: float = 0.04  # β: weight of the KL in the loss
    clip: float = 0.2  # ε of the policy's ratio
    temperature: float = 1.0  # of the rollouts
    max_new_tokens: int = 56  # of a rollout

    in_trial: ClassVar[dict[str, int]] = {"samples": 4, "max_new_tokens": 16}
    uses_reward: ClassVar[bool] = True
    theirs: ClassVar[str] = "GRPO"
    names: ClassVar[dict[str, str]] = {"samples": "num_generations", "kl_coef": "beta", "clip": "epsilon",
                                       "temperature": "temperature", "max_new_tokens": "max_completion_length"}
    free: ClassVar[tuple[str, ...]] = ("loss_type", "scale_rewards", "epsilon_high", "delta", "use_bias_correction_kl",
                                       "importance_sampling_level", "mask_truncated_completions", "top_p", "top_k")

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", samples=COMPARED, kl_coef=NOT_NEGATIVE, clip=within("(0, 1)"), temperature=POSITIVE,
                max_new_tokens=at_least(1))

    def repeats(self, context: Context) -> int:
        return self.samples

    def settings(self, context: Context) -> dict[str, Any]:
        return {"shuffle_dataset": False}
