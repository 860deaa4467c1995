"""The p-value that belongs to a crossed interval, as an oracle for pairs."""

import numpy as np
from numpy.typing import NDArray

from algorithms.common.evaluation.inference.comparisons import _level_reached
from algorithms.common.evaluation.inference.crossed import MeanSquares


def crossed_p(squares: MeanSquares) -> NDArray:
    """p-values (…) of a mean's difference from 0: the level at which the crossed interval just reaches it."""
    return _level_reached(lambda alpha: np.abs(squares.mean) > squares.half(alpha), squares.mean.shape)
