"""Where time goes: a DPO step, a PPO iteration, decoding and the loading of a file, by kinds of work.

    python -m benchmarks.speed.profile [size=5m] [device=cpu] [precision=fp32] [out=benchmarks/results/speed]

size       tiny, 5m, 100m: a Llama of random weights, with LoRA of rank 16
device     cpu or cuda: self CPU time or self CUDA time of operators
precision  fp32 or bf16: what products are computed in
out        where profile.md goes, with its figures in profile/

DPO learns from 8 pairs a step, the reference's log-probabilities computed before. PPO draws four responses to each of 8
prompts, has them scored by a reward model on the same base, and updates policy and critic. 64 sequences are decoded
together; reading their prompts is not counted. The file has 2,000 comparisons.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from algorithms.common.support.checkout import project
from benchmarks.speed.arguments import parse


@dataclass(frozen=True)
class Plan:
    """The command line."""

    size: str = "5m"
    device: str = "cpu"
    precision: str = "fp32"
    out: str = str(project() / "benchmarks/results/speed")


ALLOWED = {"size": ("tiny", "5m", "100m"), "device": ("cpu", "cuda"), "precision": ("fp32", "bf16")}
MATRIX = {"cpu": 1024, "cuda": 8192}  # width of the matrices whose product gives the machine's rate


def main(arguments: list[str]) -> int:
    if set(arguments) & {"--help", "-h"}:
        print(__doc__)
        return 0
    plan = parse(Plan, arguments, ALLOWED)
    import torch

    from algorithms.common.runs.results import commit, device_name, versions, write_json
    from benchmarks.gpu.flops import measured_rate
    from benchmarks.speed.profile.page import FOLDER, page
    from benchmarks.speed.profile.parts import PARTS

    out = Path(plan.out)
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    found = {"size": plan.size, "device_kind": plan.device, "precision": plan.precision, "commit": commit(),
             "versions": versions(), "device": device_name(), "parts": [],
             "product_rate": measured_rate(torch.device(plan.device), MATRIX[plan.device], dtype=dtype)}
    for name, part in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            found["parts"].append(part(plan.size, plan.device, plan.precision, Path(folder)))
        print(f"{name}: measured", flush=True)
    write_json(out / FOLDER / f"{plan.size}_{plan.device}_{plan.precision}.json", found)
    (out / "profile.md").write_text(page(out / FOLDER), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
