"""FLAN-style instruction tuning as data: task files, their rows in templates, and the mixture of tasks."""

from .data import InstructionData

__all__ = ["InstructionData"]
