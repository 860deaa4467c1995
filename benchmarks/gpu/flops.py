"""How many operations a step needs, and how many a device does.

Counted is what the model asks for: a multiplication and an addition are 2. What gradient checkpointing computes twice,
what padding and masks waste, and unpacking 4-bit weights is time, not work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from algorithms.common.data.template import Example
from benchmarks.random_models import Shape

# dense bf16 with float32 accumulation, TFLOP/s, by NVIDIA's datasheets; of several names that fit the first stands
PEAKS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0,
         "RTX 4090": 165.0, "RTX 3090": 71.0}
GOAL = 0.85  # share of the peak that a large matrix product can reach


@dataclass(frozen=True)
class Work:
    """What one pass over some rows covers."""

    tokens: int  # of the rows
    learned: int  # tokens at which the output layer is applied
    attended: int  # pairs of a query and a key that it may see

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.learned + other.learned, self.attended + other.attended)


def work(examples: list[Example]) -> Work:
    """Of rows in which the responses to a prompt share it."""
    total = Work(0, 0, 0)
    for example in examples:
        prompt, lengths = len(example.prompt), [len(response) for response in example.responses]
        attended = prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in lengths)
        total += Work(prompt + sum(lengths), sum(lengths), attended)
    return total


def forward_flops(shape: Shape, done: Work, head: bool = True) -> float:
    """Of the frozen base: its matrices at every token, attention, and the output layer where it is applied."""
    matrices = 2 * shape.layers * shape.layer_weights * done.tokens
    attention = 4 * shape.layers * shape.hidden * done.attended  # queries with keys, weights with values
    return float(matrices + attention + head * 2 * shape.vocabulary * shape.hidden * done.learned)


def training_flops(shape: Shape, done: Work, adapter: int, head: bool = True) -> float:
    """Forward and backward with ``adapter`` trained parameters. The base has gradients of activations alone: once its
    forward again; attention twice, since both of its factors are activations; the adapter twice, for its weights too.
    """
    attention = 4 * shape.layers * shape.hidden * done.attended
    return 2 * forward_flops(shape, done, head) + attention + 6 * adapter * done.tokens


def named_peak(device: torch.device) -> float | None:
    """FLOP/s of dense bf16 by the device's name; None for one that is not in the list."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((1e12 * peak for key, peak in PEAKS.items() if key in name), None)


def measured_rate(device: torch.device, width: int, repeats: int = 10, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of a product of two width × width matrices of random numbers."""
    one, other = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        product = one @ other
    wait(device)
    start = time.monotonic()
    for _ in range(repeats):
        product = one @ other
    wait(device)
    del product
    return 2 * width**3 * repeats / (time.monotonic() - start)


def wait(device: torch.device) -> None:
    """Until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
