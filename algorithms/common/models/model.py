"""One base, loaded once; the roles that compute over it; what a run exports.

Everything about rows, masks, autocast and which adapter is active stays in here and in its roles.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable

import torch

from ..data.batches import Batch, collate, least_padded, longest_first
from ..data.template import Example, Template
from ..support.checkout import local_folder
from ..support.checks import SHARE_BELOW_1, at_least, one_of, require
from ..support.digests import content_hash, weights_digest
from ..support.errors import ConfigError
from ..support.phases import in_parts
from . import precision
from .families import (
    check_causal,
    check_findable,
    check_head,
    check_quantized,
    check_vocabulary,
    disable_cpu_repacking,
    disable_dropout,
    merged_by,
    misspelt_folder,
    position_limit,
    shared_rows_refusal,
)
from .role import Role
from .roles import BASE, AdapterRoles, CopyRoles, enable_checkpointing

log = logging.getLogger(__name__)
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it asks for a package that is optional


@dataclass
class Lora:
    """LoRA: Hu et al. 2021, arXiv 2106.09685; all linear layers by default,
    as QLoRA (arXiv 2305.14314) found necessary."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0  # off: log-probabilities are compared with one another
    target_modules: str | list[str] = "all-linear"

    def __post_init__(self):
        require(self, "lora", r=at_least(1), alpha=at_least(1), dropout=SHARE_BELOW_1)

    def peft_config(self):
        """What PEFT calls these settings."""
        from peft import LoraConfig

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        return LoraConfig(r=self.r, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets,
                          bias="none", task_type="CAUSAL_LM")


@dataclass
class ModelConfig:
    """Which model, in which precision, laid out how."""

    name: str  # hub id or local folder
    revision: str | None = None
    precision: str = "nf4"  # nf4 (4-bit, double quantisation, bf16 compute) | bf16 | fp32: the base's weights
    lora: Lora | None = field(default_factory=Lora)  # null: full fine-tuning, roles are copies
    attention: str = "sdpa"  # sdpa | eager
    rows: str = "auto"  # auto | shared | plain; auto: shared wherever it is exact, the choice is logged
    gradient_checkpointing: bool = True
    max_length: int = 1024  # tokens of prompt + one response
    max_prompt_length: int = 512
    keep: str = "end"  # end | start: which side of an over-long prompt stays
    chat_template: str | None = None  # a Jinja file that replaces the tokenizer's
    # null in YAML: Hydra adds no keys to a mapping that is there
    template_arguments: dict[str, Any] | None = None  # what the chat template is given besides the messages
    trust_remote_code: bool = False

    def __post_init__(self):
        require(self, "model", precision=one_of(("nf4", "bf16", "fp32")), attention=one_of(("sdpa", "eager")),
                rows=one_of(("auto", "shared", "plain")), keep=one_of(("end", "start")))
        if not 0 < self.max_prompt_length < self.max_length:
            raise ConfigError(f"model.max_prompt_length: found {self.max_prompt_length}; expected 1 … "
                              f"max_length − 1 = {self.max_length - 1}; fix: leave room for a response")
        if self.chat_template is not None and not Path(self.chat_template).is_file():
            raise ConfigError(f"model.chat_template: found no file {self.chat_template}; expected a Jinja file; "
                              "fix: give its path")

    def folder(self) -> str:
        """A local folder as an absolute path (the project's own models are found from anywhere), or the hub id."""
        return local_folder(self.name)


def load_config(config: ModelConfig):
    """The base's own config. ConfigError for what this project cannot train, before any weights load."""
    from transformers import AutoConfig

    folder = Path(config.folder())
    if not folder.is_dir():
        check_findable(config.name, "model.name")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ConfigError(f"model.name: found the adapter in {config.name}; expected a whole model; fix: "
                          f"{merged_by(folder)}, and then model.name=… of what it writes")
    try:
        told = AutoConfig.from_pretrained(config.folder(), revision=config.revision,
                                          trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise _not_loaded(config, error) from error
    check_described(config, told)
    return told


def check_described(config: ModelConfig, told) -> None:
    """ConfigError where a base's own config rules out these settings."""
    check_causal(told, config.name)
    limit = position_limit(told)
    if limit is not None and config.max_length > limit:
        shorter = f" model.max_prompt_length={limit // 2}" if config.max_prompt_length >= limit else ""
        raise ConfigError(f"model.max_length: found {config.max_length}; expected at most {limit}, the positions "
                          f"{config.name} has; fix: model.max_length={limit}{shorter}")


def load_tokenizer(config: ModelConfig):
    """The base's tokenizer, once its config is known to fit."""
    from transformers import AutoTokenizer

    told = load_config(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.folder(), revision=config.revision,
                                                  trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise _not_loaded(config, error) from error
    check_vocabulary(told, tokenizer, config.name)
    return tokenizer


def end_ids(config: ModelConfig) -> list[int]:
    """The tokens that end an answer of the base by its own generation_config.json; none where it has none."""
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(config.folder(), revision=config.revision).eos_token_id
    except (OSError, ValueError):
        return []
    return [] if found is None else [found] if isinstance(found, int) else list(found)


def _not_loaded(config: ModelConfig, error: Exception) -> ConfigError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    own_code = "set model.trust_remote_code=true if you trust its code"
    convert = "convert .bin weights to safetensors"
    if Path(config.folder()).is_dir():
        return ConfigError(f"model.name: found the folder {config.name!r}, which could not be loaded ({first}); "
                           "expected config.json, a tokenizer and model.safetensors in it; fix: save_pretrained of a "
                           f"model and of its tokenizer writes them, {convert}, or {own_code}")
    if misspelt := misspelt_folder(config.name, "model.name"):
        return ConfigError(misspelt)
    return ConfigError(f"model.name: found {config.name!r}, which could not be loaded ({first}); expected a hub id "
                       "or a local folder with config.json, tokenizer and model.safetensors; fix: check the name, run "
                       "hf auth login (and accept the licence on its page) for a gated repository, "
                       f"{convert}, or {own_code}")


def load_base(config: ModelConfig, device: torch.device):
    """The causal LM, frozen precision as configured. safetensors only."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    # bf16 weights where they are computed in bf16 anyway; a device without bf16 arithmetic computes in fp32
    compute = torch.bfloat16 if precision.has_bf16(device) else torch.float32
    quantization = None
    if config.precision == "nf4":
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                          bnb_4bit_compute_dtype=compute)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "nf4": compute}[config.precision]
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            config.folder(), output_loading_info=True, revision=config.revision, dtype=dtype,
            quantization_config=quantization,
            attn_implementation=config.attention, use_safetensors=True, trust_remote_code=config.trust_remote_code,
            device_map={"": device.index or 0} if device.type == "cuda" else {"": "cpu"})
    except (OSError, ValueError) as error:
        if "attention implementation" in str(error):
            raise ConfigError(f"model.attention: found {config.attention}, which {config.name} does not have; "
                              "expected eager; fix: model.attention=eager") from error
        raise _not_loaded(config, error) from error
    if loaded["missing_keys"]:
        missing = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise ConfigError(f"model.name: found no weights for {missing} in {config.name}, which would be random; "
                          "expected those of a whole causal language model; fix: model.name=… of one")
    if config.precision == "nf4":
        check_quantized(model)
        disable_cpu_repacking(model)
    return model.eval()


def model_digest(config: ModelConfig) -> str:
    """Content identity of a base: its files, or a hub repository at a commit."""
    folder = Path(config.folder())
    if not folder.is_dir():
        told = load_config(config)
        return content_hash({"hub": config.name, "commit": getattr(told, "_commit_hash", None) or config.revision})
    return weights_digest(folder)


def no_room(new_tokens: int, max_length: int, key: str) -> str:
    """The message where answers leave no token for their prompts; key: of the answers' length."""
    return (f"{key}: found {new_tokens}; expected less than model.max_length = {max_length}; "
            "fix: lower the one or raise the other")


class Models:
    """One base and its roles. ``policy`` is trained; ``reference`` is what it is held close to."""

    def __init__(self, config: ModelConfig, mixed_precision: str = "auto", device: torch.device | None = None,
                 base=None, tokenizer=None):
        self.config = config
        self.device = device or precision.pick_device()
        peft_config = None if config.lora is None else config.lora.peft_config()
        self.template = Template(tokenizer or load_tokenizer(config), config.chat_template, config.template_arguments)
        base = base if base is not None else load_base(config, self.device)
        disable_dropout(base)
        self.hf_config, self._width = base.config, base.get_input_embeddings().weight.shape[-1]
        self.autocast_dtype = precision.autocast_dtype(mixed_precision, self.device)
        log.info("%s on %s, weights %s, %s", config.name, self.device, config.precision,
                 f"autocast {self.autocast_dtype}" if self.autocast_dtype else "no autocast")
        refusal = shared_rows_refusal(base.config, config.max_length)
        check_described(config, base.config)
        check_vocabulary(base.config, self.template.tokenizer, config.name)
        check_head(base, self.autocast())
        if config.rows == "shared" and refusal:
            raise ConfigError(f"model.rows: found shared, but {refusal}; expected plain; fix: model.rows=plain")
        self.layout = "plain" if config.rows == "plain" or refusal else "shared"
        if config.rows == "auto" and refusal:
            log.warning("rows: plain, since %s", refusal)
        self.roles = CopyRoles(base) if peft_config is None else AdapterRoles(base, peft_config)
        self.weights_dtype = next(p.dtype for p in base.parameters() if p.is_floating_point())
        self.mask_dtype = self.weights_dtype
        self.said: set[str] = set()  # of its limits, to say it once for a run and its start
        self.used: set[object] = set()  # what has computed since it was cleared: roles, and models beside this one
        self._roles: dict[str, Role] = {BASE: Role(self, BASE, trainable=False)}

    @property
    def weights_in_autocast(self) -> bool:
        """Whether the base's weights have the type that autocast computes in."""
        return self.weights_dtype == self.autocast_dtype

    def autocast(self):
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def add_role(self, name: str, trainable: bool, like: str | None = None, seed: int | None = None) -> Role:
        """A new role: a copy of ``like``, or fresh LoRA weights drawn from ``seed`` (the base's function)."""
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.manual_seed(seed)
            self.roles.add(name, trainable, like)
        if not trainable and self.weights_in_autocast:
            # autocast rounds them to this at every use: half the memory, the same numbers
            for parameter in self.roles.named_parameters(name).values():
                parameter.data = parameter.data.to(self.weights_dtype)
        if self.config.gradient_checkpointing and trainable:
            with self.roles.use(name):
                enable_checkpointing(self.roles.module, self.roles)
        self._roles[name] = Role(self, name, trainable)
        return self._roles[name]

    def alias(self, name: str, role: str) -> Role:
        """``name`` answers as ``role`` does (reference = base where there was no supervised stage)."""
        self._roles[name] = Role(self, self._roles[role].name, trainable=False)
        return self._roles[name]

    def clear_roles(self) -> None:
        for name in self.roles.names():
            self.roles.remove(name)
        self._roles = {BASE: self._roles[BASE]}

    def role(self, name: str) -> Role:
        if name not in self._roles:
            raise KeyError(f"role {name!r}: found {sorted(self._roles)}")
        return self._roles[name]

    @property
    def policy(self) -> Role:
        return self.role("policy")

    @property
    def reference(self) -> Role:
        return self.role("reference")

    def tokenize(self, record, every_turn: bool = False) -> Example:
        """``every_turn``: learn the assistant's turns in the prompt too."""
        config = self.config
        return self.template.example(record, config.max_length, config.max_prompt_length, config.keep, every_turn)

    def prompt_ids(self, prompt, new_tokens: int) -> list[int]:
        """A prompt to answer with up to ``new_tokens``; over-long ones are cut as in training, and so that both fit."""
        ids, room = self.template.prompt_ids(prompt), self._room(new_tokens)
        if len(ids) > room:
            most = min(self.config.max_prompt_length, room)
            ids = self.template.prompt_ids(self.template.shortened(prompt, most, self.config.keep))
        return self.fit_prompt(ids, new_tokens)

    def fit_prompt(self, ids: list[int], new_tokens: int) -> list[int]:
        """The same for token ids, in which nothing says where a turn begins."""
        room, config = self._room(new_tokens), self.config
        return ids if len(ids) <= room else self.template.cut(ids, min(config.max_prompt_length, room), config.keep)

    def _room(self, new_tokens: int) -> int:
        """Tokens that a prompt may have before so many new ones."""
        room = self.config.max_length - new_tokens
        if room < 1:
            raise ConfigError(no_room(new_tokens, self.config.max_length, "sampling.max_new_tokens"))
        return room

    def collate(self, examples: list[Example], pack: bool = False) -> Batch:
        """Examples → rows on the device, in this model's layout."""
        pack_to = self.config.max_length if pack and self.layout == "shared" else None
        return collate(examples, self.layout, pack_to).to(self.device)

    def of_each(self, examples: list[Example], most: int, what: str, unit: str, answer: Callable[[Batch], Iterable]
                ) -> list:
        """What ``answer`` says of each example, in their order; a phase (``what``) of ``unit``, ``most`` to a pass."""
        found: list = [None] * len(examples)
        for places in in_parts(what, self.passes([example.length for example in examples], most), unit):
            answers = answer(self.collate([examples[place] for place in places]))
            for place, one in zip(places, answers, strict=True):
                found[place] = one
        return found

    def passes(self, lengths: list[int], most: int) -> list[list[int]]:
        """Places of examples of these lengths, by pass, the longest first and ``most`` to a pass. On a CPU, where many
        small passes cost little, in as many as padding makes worth while."""
        if self.device.type != "cpu":
            return longest_first(lengths, most)
        # tokens that a pass costs beside its own: random Llamas, 128, 256 and 768 wide, on one core; it takes as long
        # on several, which compute so many more tokens meanwhile
        return least_padded(lengths, most, pass_cost=torch.get_num_threads() * max(12, 2**20 / self._width**2))

    def check_layout(self, examples: list[Example], role: str = "policy") -> None:
        """Compare the fast rows with plain rows on real data;
        the tolerance is what another padding of plain rows does."""
        if self.layout == "plain" or not any(example.responses for example in examples):
            return
        answers = self.role(role)
        with torch.no_grad():
            fast = collate(examples, "shared").to(self.device)
            plain = collate(examples, "plain").to(self.device)
            truth = answers.token_logprobs(plain)[plain.mask]
            difference = (answers.token_logprobs(fast)[fast.mask] - truth).abs().mean().item()
            dtype = self.autocast_dtype or self.weights_dtype
            # rounding alone makes some 1e-5 in fp32; what another padding does is asked where that does not explain it
            tolerance = max(1e-4, 16 * torch.finfo(dtype).eps)
            if not difference <= tolerance:
                alone = torch.cat([answers.token_logprobs(one)[one.mask] for one in
                                   (collate([example], "plain").to(self.device) for example in examples)])
                tolerance += 4 * (alone - truth).abs().mean().item()
        if not difference <= tolerance:
            raise ConfigError(f"model.rows: found shared-prefix rows that differ from plain rows by {difference:.2e} "
                              f"nats a token for {self.config.name} ({self.hf_config.model_type}, "
                              f"{self.config.attention}); expected at most {tolerance:.2e}; fix: model.rows=plain")
