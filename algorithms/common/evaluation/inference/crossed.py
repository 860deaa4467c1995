"""The variance of a mean over seeds and prompts, (…, S, P), and the interval for new seeds and new prompts.

Each source of variation has mean squares of its own and the Student quantile of its own degrees of freedom (Banerjee
1960, Sankhyā 22:357; Cochran 1964, Biometrics 20:191). One quantile for both (Satterthwaite) is too short for 2 or 3
seeds. All functions take batches in the leading dimensions.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit


class MeanSquares(NamedTuple):
    """Means and mean squares, each (…), of values Y (…, S, P); a source with one level has 0."""

    mean: NDArray
    seeds: NDArray          # P·Σ(Y_s. − Y..)²/(S−1), estimates e² + P·a², a: standard deviation of seeds
    prompts: NDArray        # S·Σ(Y_.p − Y..)²/(P−1), estimates e² + S·b², b: of prompts
    rest: NDArray           # of what neither explains, estimates e²
    shape: tuple[int, int]  # S, P
    freedom: int            # degrees of freedom of `seeds`: S − 1, more where it borrows from other comparisons

    @property
    def seed_variance(self) -> NDArray:
        """Part of the mean's variance that new seeds bring, (…): (e²/P + a²)/S."""
        return self.seeds / np.prod(self.shape)

    @property
    def prompt_variance(self) -> NDArray:
        """Part that new prompts bring, (…): b²/P; with one seed (e² + b²)/P."""
        return np.maximum(self.prompts - self.rest, 0) / np.prod(self.shape)

    def take(self, index: ArrayLike) -> Self:
        """Those at `index` of the last dimension."""
        parts = {name: getattr(self, name)[..., index] for name in ("mean", "seeds", "prompts", "rest")}
        return self._replace(**parts)

    def half(self, alpha: ArrayLike) -> NDArray:
        """Half the width of the interval of level 1 − `alpha`, which broadcasts with (…)."""
        seeds = student(self.freedom, alpha)**2 * self.seed_variance if self.freedom else 0.0
        prompts = student(self.shape[1] - 1, alpha)**2 * self.prompt_variance if self.shape[1] > 1 else 0.0
        return np.sqrt(seeds + prompts)


def mean_squares(values: ArrayLike) -> MeanSquares:
    """Of values (…, S, P)."""
    values = np.asarray(values, dtype=np.float64)
    seeds, prompts = values.shape[-2:]
    mean = values.mean((-2, -1), keepdims=True)
    by_seed = values.mean(-1, keepdims=True) - mean     # (…, S, 1)
    by_prompt = values.mean(-2, keepdims=True) - mean   # (…, 1, P)
    left = values - mean - by_seed - by_prompt          # (…, S, P)
    return MeanSquares(
        mean[..., 0, 0],
        prompts * (by_seed**2).sum((-2, -1)) / max(seeds - 1, 1),
        seeds * (by_prompt**2).sum((-2, -1)) / max(prompts - 1, 1),
        (left**2).sum((-2, -1)) / max((seeds - 1) * (prompts - 1), 1),
        (seeds, prompts), seeds - 1)


def linearised(numerator: ArrayLike, denominator: ArrayLike) -> NDArray:
    """Values (…, S, P) whose mean is r = Σ numerator / Σ denominator and whose spread is that of r.

    r + (numerator − r·denominator)/mean(denominator): the ratio's influence values (Cochran 1977, Sampling Techniques,
    6.3). Where all denominators are 1 these are the numerators.
    """
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    ratio = (numerator.sum((-2, -1)) / denominator.sum((-2, -1)))[..., None, None]
    return ratio + (numerator - ratio * denominator) / denominator.mean((-2, -1), keepdims=True)


def shrunk(squares: MeanSquares) -> MeanSquares:
    """Of comparisons in the last dimension: each one's `seeds` halfway to their mean, on twice the degrees of freedom.

    The moderated t of Smyth 2004 (Stat. Appl. Genet. Mol. Biol. 3:3) with a prior worth S − 1 degrees of freedom.
    """
    common = squares.seeds.mean(-1, keepdims=True)
    return squares._replace(seeds=(squares.seeds + common) / 2, freedom=2 * squares.freedom)


def student(freedom: ArrayLike, alpha: ArrayLike) -> NDArray:
    """Student's t that is exceeded on either side with probability `alpha` in all."""
    return -stdtrit(freedom, np.asarray(alpha) / 2)


def normal(alpha: ArrayLike) -> NDArray:
    """The standard normal's z that is exceeded on either side with probability `alpha` in all."""
    return -ndtri(np.asarray(alpha) / 2)
