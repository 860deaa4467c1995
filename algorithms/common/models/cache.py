"""Keys and values of sequences that grow together."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import StaticLayer


class GrowingLayer(StaticLayer):
    """Places for all keys and values, made once; attention sees those that are filled.

    transformers' static layer has attention read all places at every step, those of tokens to come too; its dynamic
    one copies all that there is to add a token.
    """

    is_compileable = False  # the number of keys differs from step to step

    def __init__(self, size: int):
        super().__init__(size)
        self.filled = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """(B, heads, T, D) of new tokens → (B, heads, filled, D) of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.filled + key_states.shape[-2]
        if end > self.max_cache_len or len(key_states) != len(self.keys):
            raise ValueError(f"cache: found {len(key_states)} rows up to place {end}; "
                             f"expected {len(self.keys)} rows of at most {self.max_cache_len}")
        self.keys[:, :, self.filled:end] = key_states
        self.values[:, :, self.filled:end] = value_states
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reset(self) -> None:
        super().reset()
        self.filled = 0

    def get_seq_length(self) -> int:
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a query sees, and the place of the first."""
        return self.filled + query_length, 0
