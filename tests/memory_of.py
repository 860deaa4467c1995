"""One method's training on a random Llama of 104M parameters, in a process of its own: what it needs at most.

python tests/memory_of.py METHOD PRECISION LAYOUT FOLDER prints JSON in bytes: parameters of the base; after loading and
at the peak of training, both above what was resident after the imports (CPU), or allocated (CUDA).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers  # noqa: F401  what a run imports belongs to the baseline
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from algorithms.common.algorithm import Response
from algorithms.common.data.records.record import Record
from algorithms.common.data.template import Example
from algorithms.common.models.model import ModelConfig, Models
from algorithms.common.recipe import Recipe
from algorithms.common.support.store import Store
from algorithms.common.training import references
from algorithms.dpo import DPO
from algorithms.ppo import PPO
from training_setup import ROOT, make_context

ROWS, PROMPT, RESPONSE = 8, 224, 32  # rows of one micro-batch; tokens
STEPS = 2  # the second has all of Adam's state from its start


def save_base(folder: Path) -> None:
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=12288, hidden_size=768, num_hidden_layers=12,
                                         intermediate_size=2048,
                                         num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=512))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "benchmarks/lab/reviews").save_pretrained(folder)


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def ids(length: int, seed: int) -> list[int]:
    return torch.randint(5, 1500, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def train(method: str, models: Models, folder: Path) -> None:
    models.add_role("reference", trainable=False, seed=1)
    {"dpo": train_dpo, "ppo": train_ppo}[method](models, folder)


def train_dpo(models: Models, folder: Path) -> None:
    """Pairs, the reference's log-probabilities from the store, as its stage does it."""
    algorithm = DPO()
    algorithm.add_roles(models, 0)
    examples = [Example(ids(PROMPT, i), [ids(RESPONSE, 100 + i), ids(RESPONSE, 200 + i)], [True, True], [1.0, 0.0],
                        f"{i}")
                for i in range(STEPS * ROWS // 2)]
    context = make_context(models, folder, examples, Recipe(lr=1e-4, batch_size=ROWS // 2, steps=STEPS),
                           mixed_precision="auto",
                           micro_batch_size=ROWS // 2)
    models.reference.stored = references.StoredLogprobs(models.reference, {"weights": "random"},
                                                        Store(folder / "store"), ROWS // 2)
    algorithm.fit(context)


def train_ppo(models: Models, folder: Path) -> None:
    """Rollouts of the same lengths, scored by a reward model on the same base."""
    models.add_role("reward", trainable=False, seed=2)
    models.role("reward").add_scalar_head(seed=3)
    algorithm = PPO(max_new_tokens=RESPONSE)
    algorithm.add_roles(models, 0)
    models.template.stop_ids = [12287]  # all rollouts have full length, or nearly

    @torch.no_grad()
    def score(responses: list[Response]) -> list[float]:
        batch = models.collate([Example(r.prompt_ids, [r.ids], [r.finished], None, r.record) for r in responses])
        return models.role("reward").final_outputs(batch)[:, 0, 0].tolist()

    records = [Record(models.template.decode(ids(PROMPT, i)), [], None, {}) for i in range(STEPS * ROWS)]
    examples = [Example(ids(PROMPT, i), [], [], None, record.key) for i, record in enumerate(records)]
    context = make_context(models, folder, examples, Recipe(lr=1e-4, batch_size=ROWS, steps=STEPS),
                           mixed_precision="auto",
                           micro_batch_size=ROWS)
    context.records, context.reward = records, score
    algorithm.fit(context)


def main(method: str, precision: str, layout: str, folder: Path) -> None:
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401

    config = ModelConfig(str(folder / "base"), precision=precision, rows=layout, max_length=PROMPT + RESPONSE,
                         max_prompt_length=PROMPT)
    cuda = torch.cuda.is_available()
    before = 0 if cuda else resident("VmRSS")
    models = Models(config, "auto")
    parameters = sum(p.numel()
                     for p in LlamaForCausalLM.from_pretrained(folder / "base", device_map="meta").parameters())
    after = torch.cuda.memory_allocated() if cuda else resident("VmRSS") - before
    if not cuda:
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on: loading has one of its own
    train(method, models, folder / f"{method}-{precision}-{layout}")
    peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM") - before
    print(json.dumps({"parameters": parameters, "loaded": after, "peak": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]))
