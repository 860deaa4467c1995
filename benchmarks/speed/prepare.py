"""What both sides start from: a random base, adapters over it, and pairs as text."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from algorithms.common.models.export import save_role
from algorithms.common.models.model import Lora, ModelConfig, Models
from benchmarks.random_models import LAB, SHAPES, random_llama
from benchmarks.speed.request import Lengths, Request

PAIRS = 512
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTER = {"r": 16, "lora_alpha": 32, "target_modules": LINEAR}  # of PEFT's LoraConfig


def prepare(size: str, folder: Path, lengths: Lengths = Lengths()) -> None:
    """Write ``base``, the adapters ``policy``, ``sampled`` (which changes the base's answers) and ``reward`` (with its
    ``head.safetensors``), and ``pairs.jsonl``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random_llama(SHAPES[size], torch.device("cpu"), "fp32").save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(LAB).save_pretrained(folder / "base")
    write_pairs(lengths, folder / "pairs.jsonl")
    models = load_models(Request("", "", size, "cpu", "fp32", 0, str(folder), "", lengths=lengths))
    for name in ("policy", "sampled", "reward"):
        models.add_role(name, trainable=True, seed=0)
        if name == "sampled":
            draw = torch.Generator().manual_seed(2)
            for parameter in models.roles.named_parameters(name).values():  # B begins at zero
                parameter.data.normal_(std=0.05, generator=draw)
        (folder / name).mkdir()
        save_role(models, name, folder / name)
    models.role("reward").add_scalar_head(seed=1)
    head = {"weight": models.role("reward").scalar.weight.detach()}
    save_file(head, folder / "reward/head.safetensors")


def write_pairs(lengths: Lengths, path: Path, count: int = PAIRS) -> None:
    """Comparisons of random words, each a token of its own, so that both sides find the same tokens."""
    tokenizer = AutoTokenizer.from_pretrained(LAB)
    texts = (tokenizer.decode([index]) for index in range(len(tokenizer)))
    words = sorted({text for text in texts if text[:1] == " " and text[1:].isalpha()
                    and len(tokenizer(text + text, add_special_tokens=False).input_ids) == 2})
    draw = random.Random(0)
    rows = [{"prompt": "".join(draw.choices(words, k=draw.randint(*lengths.prompt))),
             **{key: "".join(draw.choices(words, k=draw.randint(*lengths.response))) for key in ("chosen", "rejected")}}
            for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load_models(request: Request, rows: str = "auto") -> Models:
    """The project's models on the prepared base."""
    config = ModelConfig(str(request.base), precision="fp32", lora=Lora(), attention="sdpa", rows=rows,
                         gradient_checkpointing=False, max_length=request.lengths.longest,
                         max_prompt_length=request.lengths.longest_prompt)
    return Models(config, "bf16" if request.precision == "bf16" else "no", torch.device(request.device))


def pairs(request: Request, count: int) -> list[dict[str, str]]:
    """The first rows, again from the beginning where they are not enough."""
    lines = (Path(request.folder) / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(lines[index % len(lines)]) for index in range(count)]


def head_weight(request: Request) -> torch.Tensor:
    """(1, hidden)"""
    return load_file(Path(request.folder) / "reward/head.safetensors")["weight"]


if __name__ == "__main__":
    prepare(sys.argv[1], Path(sys.argv[2]), Lengths.read(*sys.argv[3:]))
