"""Adapters from a folder: their own settings, which PEFT reads, and merging, which gives what the adapter computes."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from ..support.errors import ConfigError
from .families import merged_by
from .model import Lora

CONFIG = "adapter_config.json"
# what decides how the weights are scaled and used, and stands in none of them
SCALING = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora")
DESCRIBING = ("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
              "inference_mode", "lora_dropout")
PLACING = ("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern",
           "fan_in_fan_out", "lora_bias")
COMPUTED = (*SCALING, *DESCRIBING, *PLACING)  # a role computes with these
# weights beside the adapter's, and a base that its initialisation has changed: merging takes them in
MERGED = ("modules_to_save", "bias", "trainable_token_indices", "ensure_weight_tying", "init_lora_weights")
DRAWS = ("gaussian", "orthogonal", "eva")  # initialisations of the adapter's own weights, which a file replaces


@dataclass
class SavedLora(Lora):
    """The adapter in a folder: PEFT computes it by the settings that lie beside its weights."""

    folder: str = ""

    def peft_config(self):
        from peft import LoraConfig

        check_settings(Path(self.folder), COMPUTED)
        config = LoraConfig.from_pretrained(self.folder)
        config.lora_dropout, config.inference_mode = 0.0, False
        return config


def settings_of(folder: Path) -> dict:
    """An adapter's settings. ConfigError where there are none, or they are no causal LM's LoRA."""
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"adapter: found no {CONFIG} in {folder}; expected it beside the weights")
    told = json.loads(path.read_text(encoding="utf-8"))
    for key, expected in (("peft_type", "LORA"), ("task_type", "CAUSAL_LM")):
        if told.get(key) not in (expected, None):
            raise ConfigError(f"adapter: found {key}={told[key]} in {folder}; expected {expected}; "
                              "fix: adapter=… of a language model's LoRA adapter")
    return told


def check_settings(folder: Path, known: tuple[str, ...]) -> None:
    """ConfigError for an adapter with a setting in use that is not among the known ones."""
    from peft import LoraConfig

    default = LoraConfig()
    for key, value in settings_of(folder).items():
        unused = value in (getattr(default, key, None), None, False, {}, [])
        drawn = key == "init_lora_weights" and value in DRAWS
        if not (unused or drawn or key in known):
            merging = merged_by(folder) if key in MERGED else "merge it with PEFT"
            raise ConfigError(f"adapter: found {key}={json.dumps(value)} in {folder / CONFIG}, which is not computed "
                              f"here; expected LoRA on layers, with any of {', '.join(SCALING)}; "
                              f"fix: {merging}, and then model.name=… of the result")


def merge(base, folder: Path):
    """A base in plain precision with the adapter of ``folder`` merged into it.

    An adapter on one half of a tied pair changes that half alone, so the halves part and ``tie_word_embeddings`` ends.
    """
    from peft import PeftModel

    check_settings(folder, (*COMPUTED, *MERGED))
    inputs, outputs = _weight(base.get_input_embeddings()), _weight(base.get_output_embeddings())
    tied = inputs is outputs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model (has|with) `tie_word_embeddings=True`", UserWarning)
        warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied", UserWarning)
        adapted = PeftModel.from_pretrained(base, str(folder))
        if tied:
            layer = _plain(base.get_output_embeddings())
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        try:
            _take_in_tokens(adapted)
            merged = adapted.merge_and_unload()
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"adapter: found {folder}, which PEFT cannot merge ({error}); expected an adapter whose "
                              "change is one of the base's weights; fix: task=chat answers with it as it is") from error
    if tied:
        inputs, outputs = _weight(merged.get_input_embeddings()), _weight(merged.get_output_embeddings())
        still = torch.equal(inputs, outputs)
        for config in (merged.config, merged.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = still
        if still:
            merged.tie_weights()
    return merged


def _take_in_tokens(adapted) -> None:
    """Merge what lies beneath LoRA in one layer: PEFT takes off the outer wrapper alone, and a token's own row, which
    is its whole row, would overwrite what LoRA adds to it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for layer in adapted.modules():
        beneath = getattr(layer, "base_layer", None)
        if isinstance(layer, BaseTunerLayer) and isinstance(beneath, AuxiliaryTrainingWrapper):
            layer.base_layer = beneath.unload_and_optionally_merge_module(merge=True, safe_merge=False,
                                                                          adapter_names=None)


def _plain(layer):
    """The layer inside PEFT's wrappers."""
    while (inner := getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)) is not None:
        layer = inner
    return layer


def _weight(layer):
    return _plain(layer).weight
