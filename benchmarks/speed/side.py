"""One side in a process of its own: python -m benchmarks.speed.side REQUEST, as JSON; the last line is its answer.

The memory that its imports took is told apart, so that what comes on top can be.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict

from benchmarks.speed.request import Request

KINDS = ("dpo", "sft", "reward", "rrhf", "ppo", "sampling", "loading", "start")
IMPORTED = {"TRL": ("trl", ("DPOTrainer", "SFTTrainer", "RewardTrainer")),
            "generate": ("transformers", ("AutoModelForCausalLM",))}


def kind(what: str):
    """The module that measures it."""
    return importlib.import_module(f"benchmarks.speed.{what}")


def answer(request: Request) -> dict:
    module = kind(request.what)
    library, names = IMPORTED.get(request.side, ("peft", ()))
    for name in names:  # they are loaded when they are first asked for
        getattr(importlib.import_module(library), name)
    before = resident()
    return {**asdict(module.SIDES[request.side](request)), "imported_bytes": before}


def resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    print(json.dumps(answer(Request(**json.loads(sys.argv[1])))))
