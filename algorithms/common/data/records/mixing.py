"""How many records each part of a mixture gives."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import count
from random import Random


def quotas(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to the weights, whose sum is exactly `total` (largest remainder).

    Weights count as the decimals they are written as, so that nothing is rounded on the way; of equal remainders the
    earlier comes first. Raises ValueError where the weights are negative, not finite or all zero.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    if not any(exact) or min(exact) < 0:
        raise ValueError(f"weights must be non-negative and not all zero: {list(weights)}")
    shares = [weight * total / sum(exact) for weight in exact]
    counts = [int(share) for share in shares]
    order = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in order[:total - sum(counts)]:
        counts[i] += 1
    return counts


def capped_rates(sizes: Sequence[int], cap: int, rate: int) -> list[int]:
    """Examples-proportional mixing weights: min(n, cap, rate) of n examples (Wei et al. 2021, arXiv 2109.01652)."""
    return [min(size, cap, rate) for size in sizes]


def walk(size: int, purpose: str) -> Iterator[int]:
    """Indices below `size` without end: one seeded permutation after the other."""
    for number in count():
        order = list(range(size))
        Random(f"{purpose}/{number}").shuffle(order)
        yield from order


def flags(size: int, share: float, random: Random) -> list[bool]:
    """`size` flags of which exactly round(share · size) are set, at random places."""
    chosen = set(random.sample(range(size), round(share * size)))
    return [index in chosen for index in range(size)]
