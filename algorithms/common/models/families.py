"""What differs from one model family to the next: positions, windows, noise, 4-bit layers, output scaling.

Every function here either makes families alike or refuses one by name; nothing is left to come out slightly wrong.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from ..support.checkout import local_folder
from ..support.errors import ConfigError


def check_quantized(model) -> None:
    """Transformers quantises plain linear layers only, and leaves the rest (Falcon's own class, the fused experts of
    Mixtral) as it is with no more than a warning: a run meant to fit one GPU would not.
    """
    from bitsandbytes.nn import Linear4bit

    modules = list(model.modules())
    packed = sum(module.in_features * module.out_features for module in modules if isinstance(module, Linear4bit))
    tables = {id(module.weight) for module in modules if isinstance(module, torch.nn.Embedding)}
    tables.add(id(model.get_output_embeddings().weight))
    kept = {name: p.numel() for name, p in model.named_parameters()
            if p.is_floating_point() and p.ndim > 1 and id(p) not in tables}
    if sum(kept.values()) > packed:
        raise ConfigError(f"model.precision: found nf4, but {sum(kept.values()):,} weights of "
                          f"{model.config.model_type} stay in 16 bits beside {packed:,} in 4 "
                          f"({max(kept, key=kept.get)} and others, which no quantiser here takes); "
                          "expected plain linear layers; fix: model.precision=bf16")


def disable_dropout(model) -> None:
    """A base's own noise in train() (GPT-2, OPT, Phi drop activations, OPT whole layers, Mixtral jitters its router)
    would make two log-probabilities of one token differ.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                setattr(module, name, 0.0)


def disable_cpu_repacking(model) -> None:
    """bitsandbytes repacks a Linear4bit for AVX512-BF16 at its first no-grad eval forward; LoRA gradients computed
    after that are wrong, without an error. It must be off before the first forward.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            if module.in_features % 64:
                raise ConfigError(f"model.precision: found nf4 with a layer of {module.in_features} inputs; expected a "
                                  "multiple of 64; fix: model.precision=bf16")
            module.support_avx512bf16_for_cpu = False


def shared_rows_refusal(model_config, max_length: int | None = None) -> str | None:
    """Why shared-prefix rows would not be exact for this family, or None. A 4D mask carries only full attention.

    ``max_length``: tokens of prompt and one response; a sliding window at least that long never slides.
    """
    text = model_config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or [])
    window = getattr(text, "sliding_window", None) if "sliding_attention" in kinds or not kinds else None
    odd = kinds - {"full_attention", "sliding_attention"}
    if odd:
        return f"{text.model_type} has {', '.join(sorted(odd))} layers, which would let one response reach another"
    if (window or "sliding_attention" in kinds) and not (window and max_length and max_length <= window):
        return f"{text.model_type} has sliding-window attention ({window} tokens), which a 4D mask would override"
    if "local" in (getattr(text, "attention_layers", None) or []):
        return f"{text.model_type} has local attention, which a 4D mask would override"
    if text.model_type in ("mamba", "mamba2", "rwkv", "recurrent_gemma", "jamba", "falcon_mamba", "xlstm"):
        return f"{text.model_type} is recurrent: its state would leak between responses"
    if text.model_type in ("bloom", "mpt") or getattr(text, "alibi", False):
        return f"{text.model_type} places tokens by ALiBi, which ignores position ids"
    return None


def head_logits(module, states: Tensor) -> Tensor:
    """(N, H) last hidden states → (N, V) logits as the causal LM makes them: output layer,
    then what its config scales."""
    text = module.config.get_text_config(decoder=True)
    logits = module.get_output_embeddings()(states)
    if getattr(text, "logit_scale", None) is not None:  # Cohere
        logits = logits * text.logit_scale
    if getattr(text, "logits_scaling", None) is not None:  # Granite
        logits = logits / text.logits_scaling
    cap = getattr(text, "final_logit_softcapping", None)  # Gemma 2
    return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.no_grad()
def check_head(module, autocast) -> None:
    """A short forward of the whole model against backbone + ``head_logits``: a family that does more is refused."""
    if getattr(module, module.base_model_prefix or "-", None) is None or module.get_output_embeddings() is None:
        raise ConfigError(f"model.name: found {module.config.model_type}, whose backbone or output layer is not where "
                          "it says; expected a causal language model of one backbone and one output layer")
    embeddings = module.get_input_embeddings().weight
    probe = torch.arange(4, device=embeddings.device).unsqueeze(0) % len(embeddings)
    with autocast:
        logits = module(input_ids=probe, use_cache=False).logits
        states = getattr(module, module.base_model_prefix)(input_ids=probe, use_cache=False).last_hidden_state
        ours = head_logits(module, states)
    tolerance = 64 * torch.finfo(ours.dtype).eps * max(1.0, logits.abs().max().item())
    if logits.shape != ours.shape or not (logits - ours).abs().max().item() <= tolerance:
        raise ConfigError(f"model.name: found {module.config.model_type}, which changes its logits after the output "
                          "layer in a way this project does not know; expected a plain output layer, "
                          "a scale or a soft cap")


def position_limit(model_config) -> int | None:
    """Positions the model has learned or was trained for, stretched as its rotary scaling says; None: no limit."""
    text = model_config.get_text_config(decoder=True)
    stated = getattr(text, "max_position_embeddings", None)
    if getattr(text, "alibi", False) or not stated or stated < 0:  # XLNet states -1
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    stretched = {"linear": stated, "dynamic": stated, "yarn": rope.get("original_max_position_embeddings") or stated}
    from_length = stretched.get(rope.get("rope_type"))  # other kinds state the stretched length
    return stated if from_length is None else max(stated, int(from_length * rope.get("factor", 1)))


def check_causal(model_config, name: str) -> None:
    """ConfigError for an architecture that does not predict the next token, by the config alone."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = type(model_config)
    own_code = "AutoModelForCausalLM" in (getattr(model_config, "auto_map", None) or {})
    causal = MODEL_FOR_CAUSAL_LM_MAPPING[kind].__name__ if kind in MODEL_FOR_CAUSAL_LM_MAPPING else ""
    named = list(getattr(model_config, "architectures", None) or [])
    # an older spelling (LLaMA…) is the same class; a model of images and text is loaded by the class that it names
    endings = ("forcausallm", "lmheadmodel", "forconditionalgeneration", causal.lower())
    # those of BERT's kind are decoders only where they say so; GPT-NeoX has the first key, and is none of them
    both_ways = getattr(model_config, "is_decoder", None) is False and hasattr(model_config, "add_cross_attention")
    reasons = {"an encoder-decoder": getattr(model_config, "is_encoder_decoder", False),
               "which has no causal form": not causal and not own_code,
               "an encoder that reads in both directions": both_ways and not own_code,
               "whose output predicts no next token": named and not own_code and not any(
                   one.lower().endswith(endings) for one in named)}
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(f"model.name: found {name}, a {' or '.join(named) or model_config.model_type} "
                              f"({model_config.model_type}), {reason}; expected a causal language model "
                              "(…ForCausalLM); fix: model.name=… of one")


def check_vocabulary(model_config, tokenizer, name: str, key: str = "model.name") -> None:
    """ConfigError where the tokenizer has ids for which the embedding has no row. Rows to spare do no harm."""
    rows = getattr(model_config.get_text_config(decoder=True), "vocab_size", None)
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if rows is not None and tokens > rows:
        extra = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= rows)
        some = ", ".join(repr(token) for _, token in extra[:3]) + (", …" if len(extra) > 3 else "")
        raise ConfigError(f"{key}: found a tokenizer of {tokens} tokens for an embedding of {rows} rows in {name} "
                          f"(without a row: {some}); expected a row for every token; fix: "
                          "model.resize_token_embeddings(len(tokenizer)) in transformers and save both, or a tokenizer "
                          "without those tokens")


def merged_by(folder: Path) -> str:
    """The overrides that merge an adapter into the base that it names."""
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    return f"task=merge adapter={folder}" + (f" model.name={base}" if base else "")


def check_findable(name: str, key: str) -> None:
    """ConfigError for a name that is no folder here and can be no hub's: asking the hub for it would mislead."""
    if Path(name).is_file():
        raise ConfigError(f"{key}: found the file {name!r}; expected the folder that it lies in, with config.json and "
                          f"a tokenizer beside it; fix: {key}={Path(name).parent}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise ConfigError(_no_such_folder(name, key))


def misspelt_folder(name: str, key: str) -> str | None:
    """What to say of a name that could not be loaded, where it seems to be a path: its first folder is there."""
    first, slash, _ = name.partition("/")
    above = Path(local_folder(first))
    if not slash or not above.is_dir():
        return None
    there = sorted(path.name for path in above.iterdir() if path.is_dir() and not path.name.startswith("."))
    some = f" ({first} has {', '.join(there[:8])}{', …' if len(there) > 8 else ''})" if there else ""
    return _no_such_folder(name, key, some)


def _no_such_folder(name: str, key: str, beside: str = "") -> str:
    return (f"{key}: found {name!r}{beside}, and no such folder; expected the folder of a model, or a hub id "
            "(NAME or ORG/NAME); fix: correct the path")
