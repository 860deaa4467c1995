"""Shares (finished answers, wins with ties half, refusals, accuracies) over seeds and prompts, (…, S, P).

Wilson's interval (1927, JASA 22:209) with the effective number of answers that the crossed variance implies (Korn and
Graubard 1998, Survey Methodology 24:193): inside [0, 1], and never of zero width.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .crossed import MeanSquares, linearised, mean_squares, normal, shrunk, student

_ENOUGH = 10        # successes and failures from which the values' own variance is trusted
_NOTHING = 1e-24    # a variance below this is rounding


class Shares(NamedTuple):
    """What the interval of shares rests on, each (…)."""

    squares: MeanSquares    # of the linearised share
    answers: NDArray        # N, of the denominators; where values vary less than 0 and 1 do, what N is worth in those
    cells: NDArray          # (seed, prompt) that have an answer
    prompts: NDArray        # prompts that have an answer

    @classmethod
    def of(cls, numerator: ArrayLike, denominator: ArrayLike) -> Self:
        """Of numerators (…, S, P) between 0 and their denominators (…, S, P), of which some are positive."""
        numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
        squares = mean_squares(linearised(numerator, denominator))
        answers = denominator.sum((-2, -1))
        binary = squares.mean * (1 - squares.mean)
        spread = numerator.var((-2, -1))
        trusted = (denominator == 1).all((-2, -1)) & (spread > _NOTHING)
        trusted &= np.minimum(squares.mean, 1 - squares.mean) * answers >= _ENOUGH
        answers = np.where(trusted, answers * binary / np.where(trusted, spread, 1), answers)
        present = denominator > 0
        return cls(squares, answers, present.sum((-2, -1)), present.any(-2).sum(-1))

    def take(self, index: ArrayLike) -> Self:
        """Those at `index` of the last dimension."""
        return Shares(self.squares.take(index), *(part[..., index] for part in self[1:]))

    def shrunk(self) -> Self:
        """With seeds' mean squares halfway to those of all methods, which are in the last dimension."""
        return self._replace(squares=shrunk(self.squares))

    def effective(self, alpha: ArrayLike) -> NDArray:
        """n of a binomial share that is as uncertain, (…): p(1 − p)·z²/half², and no more than the answers.

        Answers that all agree show no spread over seeds: they count as the prompts, or, with many seeds, as the
        fraction (z/t)² of the cells.
        """
        share, z = self.squares.mean, normal(alpha)
        variance = self.squares.seed_variance + self.squares.prompt_variance
        agree = (variance < _NOTHING) | (share <= 0) | (share >= 1)
        half = np.where(agree, 1, self.squares.half(alpha))
        seeds = self.squares.shape[0]
        fraction = (z / student(seeds - 1, alpha))**2 if seeds > 1 else 0.0
        unanimous = np.minimum(self.answers, np.maximum(self.prompts, self.cells * fraction))
        return np.where(agree, unanimous, np.minimum(self.answers, share * (1 - share) * (z / half)**2))

    def interval(self, alpha: ArrayLike) -> tuple[NDArray, NDArray]:
        """Low and high, each (…), of level 1 − `alpha`."""
        return wilson(self.squares.mean, self.effective(alpha), alpha)


def wilson(share: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> tuple[NDArray, NDArray]:
    """Wilson's interval of level 1 − `alpha` of a share among `n` independent answers; `n` need not be whole."""
    share, n = np.clip(share, 0, 1), np.asarray(n, dtype=np.float64)
    z = normal(alpha)
    scale = 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)


def square_and_add(first: Shares, second: Shares, difference: MeanSquares,
                   alpha: ArrayLike) -> tuple[NDArray, NDArray]:
    """Low and high of first − second on the same seeds and prompts, each (…).

    From the shares' own intervals (Newcombe 1998, Statist. Med. 17:2635), with the correlation that the difference's
    half-width implies (Zou and Donner 2008, Statist. Med. 27:1693).
    """
    half_1, half_2, half = first.squares.half(alpha), second.squares.half(alpha), difference.half(alpha)
    product = 2 * half_1 * half_2
    known = product > _NOTHING
    correlation = np.where(known, (half_1**2 + half_2**2 - half**2) / np.where(known, product, 1), 0)
    correlation = np.clip(correlation, 0, 0.95)
    share_1, share_2 = first.squares.mean, second.squares.mean
    (low_1, high_1), (low_2, high_2) = first.interval(alpha), second.interval(alpha)
    down_1, up_1, down_2, up_2 = share_1 - low_1, high_1 - share_1, share_2 - low_2, high_2 - share_2
    below = down_1**2 + up_2**2 - 2 * correlation * down_1 * up_2
    above = up_1**2 + down_2**2 - 2 * correlation * up_1 * down_2
    centre = share_1 - share_2
    return centre - np.sqrt(below), centre + np.sqrt(above)
