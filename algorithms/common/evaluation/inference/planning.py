"""What a comparison could show: the smallest difference, and the seeds and prompts that a difference takes."""

from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from .crossed import MeanSquares, student

MOST_SEEDS, MOST_PROMPTS = 1000, 10**7  # where a search for enough of them ends


class Spread(NamedTuple):
    """Standard deviations of the difference of two methods: of seeds, of prompts, and of single answers."""

    seeds: float
    prompts: float
    rest: float

    @classmethod
    def of(cls, squares: MeanSquares) -> Self:
        """Estimated from a finished comparison; one seed has seeds 0, and prompts and rest in one."""
        seeds, prompts = squares.shape
        between_seeds = max(float(squares.seeds - squares.rest) / prompts, 0) if seeds > 1 else 0.0
        between_prompts = max(float(squares.prompts - squares.rest) / seeds, 0)
        return cls(*np.sqrt([between_seeds, between_prompts, float(squares.rest)]).tolist())

    def smallest(self, seeds: int, prompts: int, alpha: float = 0.05, power: float = 0.8) -> float:
        """Difference that `seeds` × `prompts` show with probability `power` at level 1 − `alpha`."""
        by_seed = (self.rest**2 / prompts + self.seeds**2) / seeds
        by_prompt = self.prompts**2 / prompts
        if seeds == 1:
            by_seed, by_prompt = 0.0, by_seed + by_prompt
        return _smallest(by_seed, by_prompt, seeds - 1, prompts - 1, alpha, power)


def smallest_shown(squares: MeanSquares, alpha: float = 0.05, power: float = 0.8) -> float:
    """Difference that a run like this finished one shows with probability `power`: `squares` of one comparison.

    With 3 seeds it rests on 2 degrees of freedom: good for two digits and "about".
    """
    return _smallest(float(squares.seed_variance), float(squares.prompt_variance), squares.freedom,
                     squares.shape[1] - 1, alpha, power)


def seeds_needed(difference: float, spread: Spread, prompts: int, alpha: float = 0.05,
                 power: float = 0.8) -> int | None:
    """Fewest seeds, at least 2, that show `difference`; None where 1,000 do not: more prompts are needed."""
    shown = lambda seeds: spread.smallest(seeds, prompts, alpha, power) <= difference  # noqa: E731
    return _fewest(shown, 2, MOST_SEEDS)


def prompts_needed(difference: float, spread: Spread, seeds: int, alpha: float = 0.05,
                   power: float = 0.8) -> int | None:
    """Fewest prompts, at least 2, that show `difference`; None where 10⁷ do not: more seeds are needed."""
    shown = lambda prompts: spread.smallest(seeds, prompts, alpha, power) <= difference  # noqa: E731
    return _fewest(shown, 2, MOST_PROMPTS)


def _fewest(enough, least: int, most: int) -> int | None:
    """The smallest number from `least` to `most` that is `enough`, which once true stays true."""
    if not enough(most):
        return None
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle + 1, most)
    return least


def _smallest(by_seed: float, by_prompt: float, seeds: int, prompts: int, alpha: float, power: float) -> float:
    """Solves mean over χ² of Φ((d − half)/σ) = power for d; `seeds` and `prompts` are degrees of freedom."""
    deviation = np.sqrt(by_seed + by_prompt)
    if deviation == 0:
        return 0.0
    fixed = student(prompts, alpha)**2 * by_prompt if prompts else 0.0
    if not seeds:
        half, weights = np.sqrt([fixed]), np.ones(1)
    else:
        estimates, weights = _chi_square(seeds)
        half = np.sqrt(student(seeds, alpha)**2 * by_seed * estimates / seeds + fixed)
    from scipy.optimize import brentq  # here, as every run imports this module, and few ask for this

    lack = lambda d: float(weights @ ndtr((d - half) / deviation)) - power  # noqa: E731
    return brentq(lack, 0, half.max() + 9 * deviation, xtol=1e-10 * deviation)


@lru_cache
def _chi_square(freedom: int) -> tuple[NDArray, NDArray]:
    """Values of χ² and their probabilities: a Gauss-Legendre rule over χ, whose density is smooth."""
    from scipy.stats import chi  # here for the same reason as brentq

    nodes, weights = np.polynomial.legendre.leggauss(200)
    end = chi.isf(1e-16, freedom)
    values = (nodes + 1) / 2 * end
    return values**2, weights / 2 * end * chi.pdf(values, freedom)
