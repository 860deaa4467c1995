"""What both sides start from: a random base, adapters over it, and pairs as text."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from algorithms.common.data.records import set_cache_folder
from algorithms.common.models.export import save_role
from algorithms.common.models.model import Lora, ModelConfig, Models
from algorithms.common.support.errors import UserError
from benchmarks.random_models import LAB, SHAPES, random_llama
from benchmarks.speed.request import Lengths, Request
from benchmarks.speed.texts import prepare_texts

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTER = {"r": 16, "lora_alpha": 32, "target_modules": LINEAR}  # of PEFT's LoraConfig


def prepare(size: str, folder: Path, lengths: Lengths = Lengths(), data: str = "") -> None:
    """Write ``pairs.jsonl``, ``base``, and the adapters ``policy``, ``sampled`` (which changes the base's answers) and
    ``reward`` (with its ``head.safetensors``). data: a file of comparisons; random words without one. UserError where
    it cannot be used, before anything else is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    request = Request("", "", size, "cpu", "fp32", 0, str(folder), "", lengths=lengths, data=data)
    prepare_texts(request)
    random_llama(SHAPES[size], torch.device("cpu"), "fp32").save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(LAB).save_pretrained(folder / "base")
    models = load_models(request)
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


def load_models(request: Request, rows: str = "auto") -> Models:
    """The project's models on the prepared base."""
    config = ModelConfig(str(request.base), precision="fp32", lora=Lora(), attention="sdpa", rows=rows,
                         gradient_checkpointing=False, max_length=request.lengths.longest,
                         max_prompt_length=request.lengths.longest_prompt)
    return Models(config, "bf16" if request.precision == "bf16" else "no", torch.device(request.device))


def head_weight(request: Request) -> torch.Tensor:
    """(1, hidden)"""
    return load_file(Path(request.folder) / "reward/head.safetensors")["weight"]


if __name__ == "__main__":
    set_cache_folder(Path(sys.argv[2]) / "records")
    try:
        prepare(sys.argv[1], Path(sys.argv[2]), Lengths.read(*sys.argv[3:5]), *sys.argv[5:])
    except UserError as error:
        raise SystemExit(str(error)) from None
