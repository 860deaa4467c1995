"""Llamas of random weights and the contexts to train them in: costs carry over to a trained model, learning does not.

Weights are drawn on the device, a matrix at a time, and are packed into 4 bits before the next one is drawn, so an 8B
model needs no more memory than it has packed, and no file.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from algorithms.common.algorithm import Algorithm, Context, Recipe, TrainerConfig
from algorithms.common.data.records import Record
from algorithms.common.data.template import Example
from algorithms.common.models import precision
from algorithms.common.models.families import disable_cpu_repacking
from algorithms.common.models.model import ModelConfig, Models
from algorithms.common.support.checkout import project
from algorithms.common.support.store import Store
from algorithms.common.training.loop import fit
from algorithms.common.training.references import StoredLogprobs

LAB = Path(__file__).resolve().parent / "lab/reviews"  # its tokenizer; the larger models have rows to spare
TOKENS = range(5, 1500)  # what prompts and responses are drawn from, no special token among them


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    positions: int
    tied: bool = False  # whether the head is the embedding, as in most small models

    @property
    def layer_weights(self) -> int:
        """Parameters of one layer's matrices."""
        kv_width = self.hidden // self.heads * self.kv_heads
        return self.hidden * (2 * self.hidden + 2 * kv_width + 3 * self.intermediate)

    def config(self):
        from transformers import LlamaConfig

        return LlamaConfig(vocab_size=self.vocabulary, hidden_size=self.hidden, num_hidden_layers=self.layers,
                           num_attention_heads=self.heads, num_key_value_heads=self.kv_heads,
                           intermediate_size=self.intermediate, max_position_embeddings=self.positions,
                           rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=0, pad_token_id=None,
                           tie_word_embeddings=self.tied)


SHAPES = {
    "tiny": Shape(1536, 64, 2, 4, 2, 128, 512),
    "5m": Shape(8192, 256, 4, 8, 4, 688, 1024, tied=True),
    "100m": Shape(12288, 768, 12, 12, 12, 2048, 1024),
    "8b": Shape(128256, 4096, 32, 32, 8, 14336, 131072),  # Llama 3.1 8B's
}


def random_llama(shape: Shape, device: torch.device, precision_name: str, attention: str = "sdpa", seed: int = 0):
    """A causal LM on the device. ``precision_name``: nf4, bf16 or fp32, as in ``ModelConfig``."""
    from transformers import LlamaForCausalLM

    compute = torch.bfloat16 if precision.has_bf16(device) else torch.float32
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "nf4": compute}[precision_name]
    config = shape.config()
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, dtype=dtype, attn_implementation=attention)
    with torch.device(device):
        model.model.rotary_emb = type(model.model.rotary_emb)(config)  # has buffers and no weight
    draw = torch.Generator(device).manual_seed(seed)
    for name, module in list(model.named_modules()):
        if getattr(module, "weight", None) is None:
            continue
        weight = torch.ones(module.weight.shape, dtype=dtype, device=device)  # a norm's
        if weight.ndim > 1:
            weight.normal_(std=0.02, generator=draw)
        if precision_name == "nf4" and isinstance(module, torch.nn.Linear) and name != "lm_head":
            model.set_submodule(name, packed(weight, compute))
        else:
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    model.tie_weights()
    if precision_name == "nf4":
        model.is_loaded_in_4bit = True  # where PEFT looks
        disable_cpu_repacking(model)
    return model.eval()


def packed(weight: torch.Tensor, compute: torch.dtype):
    """(out, in) → a layer of NF4 weights with double quantisation."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    options = {"quant_type": "nf4", "compress_statistics": True}
    layer = Linear4bit(weight.shape[1], weight.shape[0], bias=False, compute_dtype=compute, device="meta", **options)
    layer.weight = Params4bit(weight, requires_grad=False, **options).to(weight.device)
    return layer


def random_models(shape: Shape, device: torch.device, precision_name: str, max_length: int, max_prompt_length: int,
                  **options) -> Models:
    """The project's models over a random Llama; ``options``: fields of ``ModelConfig``, and ``mixed_precision``."""
    from transformers import AutoTokenizer

    mixed = options.pop("mixed_precision", "auto")
    config = ModelConfig("a Llama of random weights", precision=precision_name, max_length=max_length,
                         max_prompt_length=max_prompt_length, **options)
    base = random_llama(shape, device, precision_name, config.attention)
    models = Models(config, mixed, device, base=base, tokenizer=AutoTokenizer.from_pretrained(LAB))
    return models


def random_examples(count: int, prompt: int, response: int, responses: int, seed: int = 0) -> list[Example]:
    """Examples of exactly these lengths in tokens; with two responses or more the first is the best."""
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        return draw.choices(TOKENS, k=length)

    scores = [float(-k) for k in range(responses)] if responses > 1 else None
    return [Example(ids(prompt), [ids(response) for _ in range(responses)], [True] * responses, scores, f"row {index}")
            for index in range(count)]


def bare_prompts(models: Models, examples: list[Example]) -> tuple[list[Example], list[Record]]:
    """The examples' prompts alone, and records by whose keys they go."""
    records = [Record(models.template.decode(example.prompt), [], None, {}) for example in examples]
    return [Example(example.prompt, [], [], None, record.key) for example, record in zip(examples, records)], records


def method(name: str, **constants) -> Algorithm:
    """A method by the name of its configuration; what is not given has the class's default."""
    path = project() / "conf/algorithm" / f"{name}.yaml"
    return get_class(OmegaConf.load(path)["_target_"])(**constants)


def make_context(models: Models, folder: Path, examples: list[Example], recipe: Recipe, seed: int = 0,
                 **trainer) -> Context:
    """A stage's context whose checkpoints and results lie under ``folder``."""
    for name in ("work", "target"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return Context(models, recipe, TrainerConfig(progress=False, **trainer), examples, [], seed, folder / "work",
                   folder / "target", Store(folder / "store"), fit)


def keep_reference(context: Context) -> StoredLogprobs:
    """The reference's log-probabilities are kept, as those of a run are: computed when they are first asked for."""
    reference = context.models.reference
    reference.stored = StoredLogprobs(reference, {"weights": "random"}, context.store,
                                      context.trainer.micro_batch_size)
    return reference.stored
