"""From pairwise votes to a number for each item: Elo ratings, and what is done to strengths before they are learned."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from .judging import davidson

ELO_START = 1000.0
LOG_ODDS = math.log(10) / 400   # a point of Elo in log-odds: P(A beats B) = σ((R_A − R_B) · ln 10 / 400)


def expected_score(rating: ArrayLike, other: ArrayLike) -> NDArray:
    """E_A = 1 / (1 + 10^((R_B − R_A) / 400)) (Elo 1978)."""
    return expit((np.asarray(rating, float) - other) * LOG_ODDS)


def elo(pairs: ArrayLike, won: ArrayLike, items: int, k: float = 32.0, start: float = ELO_START,
        orders: ArrayLike | None = None) -> NDArray:
    """(M,) ratings after the games `pairs` (V, 2), of which the first item won `won` (V,): 1, ½ a tie, 0.

    R_A ← R_A + k (S_A − E_A), one game after the other: the result depends on their order. `orders` (S, V),
    permutations of the games: the mean over them; None: as they are given.
    """
    pairs, won = np.asarray(pairs, np.int64).reshape(-1, 2), np.asarray(won, float)
    orders = np.arange(len(pairs))[None] if orders is None else np.asarray(orders, np.int64)
    ratings, rows = np.full((len(orders), items), float(start)), np.arange(len(orders))     # (S, M)
    for games in orders.T:                                                                  # (S,): the next of each
        first, second = pairs[games].T
        change = k * (won[games] - expected_score(ratings[rows, first], ratings[rows, second]))     # (S,)
        ratings[rows, first] += change
        ratings[rows, second] -= change
    return ratings.mean(0)


def log_strengths(pairs: ArrayLike, won: ArrayLike, items: int, prior: float) -> NDArray:
    """(M,) log π of Davidson's Bradley-Terry model with ties, of the same votes; see ``judging.davidson``.

    `prior` comparisons of every two items, above 0, are added: what never lost stays finite, and items that no votes
    connect are compared through the mean of all.
    """
    wins, ties = np.zeros((items, items)), np.zeros((items, items))
    for (first, second), score in zip(np.asarray(pairs, np.int64).reshape(-1, 2), np.asarray(won, float)):
        if score == 0.5:
            ties[first, second] += 1
            ties[second, first] += 1
        else:
            wins[(first, second) if score else (second, first)] += 1
    return davidson(wins, ties, prior).log_strengths


def centred(strengths: NDArray) -> NDArray:
    """(M,) log-odds with mean 0: differences stay, σ(difference) is how often one beats the other."""
    return strengths - strengths.mean()


def z_scores(strengths: NDArray) -> NDArray:
    """(M,) with mean 0 and population standard deviation 1; zeros where all are equal."""
    away = centred(strengths)
    spread = math.sqrt((away**2).mean())
    return away / spread if spread > 1e-9 else np.zeros_like(away)


def ratings(strengths: NDArray, bins: int) -> NDArray:
    """(M,) log-odds → whole ratings 1 … bins: how often an item beats one of mean strength, in `bins` equal parts."""
    return np.minimum(np.floor(bins * expit(centred(strengths)) + 1e-9), bins - 1) + 1
