"""One side in a process of its own: python -m benchmarks.speed.side REQUEST, as JSON; the last line is its answer.

The memory that its imports took is told apart, so that what comes on top can be.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from dataclasses import asdict

from benchmarks.speed.request import Request

MODULES = {"dpo": ("dpo", "dpo_ref", "dpo_micro1", "dpo_micro8"), "sft": ("sft",), "reward": ("reward", "reward_k4"),
           "rrhf": ("rrhf_4", "rrhf_8"), "ppo": ("ppo", "ppo_dpo"), "ppo_trl": ("ppo_trl",),
           "sampling": ("sampling", "sampling_1", "sampling_16", "sampling_64", "sampling_16of1"),
           "loading": ("loading",), "start": ("start",)}
KINDS = {what: module for module, whats in MODULES.items() for what in whats}  # → the module that measures it
IMPORTED = {"TRL": ("trl", ("DPOTrainer", "SFTTrainer", "RewardTrainer")),
            "TRL 1.12.0": ("trl.experimental.ppo", ("PPOTrainer",)),
            "generate": ("transformers", ("AutoModelForCausalLM",))}
LIBRARIES = ("torch", "transformers", "peft", "trl")


def kind(what: str):
    """What measures it: its module, or the ``Kind`` of that name in a module that gives several."""
    module = importlib.import_module(f"benchmarks.speed.{KINDS[what]}")
    return getattr(module, "KINDS", {}).get(what, module)


def answer(request: Request) -> dict:
    measured = kind(request.what)
    name, parts = IMPORTED.get(request.side, ("peft", ()))
    library = importlib.import_module(name)
    for part in parts:  # they are loaded when they are first asked for
        getattr(library, part)
    for loaded in ("peft", "transformers.models.llama.modeling_llama"):  # with a model: no part of its memory
        importlib.import_module(loaded)
    before = resident()
    found = measured.SIDES[request.side](request)
    return {**asdict(found), "imported_bytes": before,
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES}}


def resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    print(json.dumps(answer(Request.read(sys.argv[1]))))
