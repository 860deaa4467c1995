"""Every random stream derives from the run's seed and what it is for: a resumed run draws what it would have drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for a named purpose: derive(0, "order", epoch)."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def permutation(size: int, seed: int, *purpose: str | int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=derive(seed, *purpose))).permutation(size)


def uniforms(count: int, seed: int, *purpose: str | int) -> np.ndarray:
    """(count,) float32 in [0, 1)."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *purpose))).random(count, dtype=np.float32)
