"""Which precision a device really computes in. Decided once, logged, never guessed again."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

log = logging.getLogger(__name__)


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX); elsewhere autocast is emulated and slow."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX512", "AVX512_BF16", "AMX"):
        return False
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def pick_device() -> torch.device:
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware. A GPU before Ampere (T4, V100) would emulate it, and says it can."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()


def autocast_dtype(setting: str, device: torch.device) -> torch.dtype | None:
    """``setting``: "auto" (bf16 where the hardware has it), "bf16" or "no". None means no autocast."""
    if setting == "no":
        return None
    if setting == "bf16":
        return torch.bfloat16
    return torch.bfloat16 if has_bf16(device) else None
