"""Student's t distribution: its quantiles, by the incomplete beta function and bisection."""

from __future__ import annotations

import functools

from pytest_comfyload.result.beta import incomplete_beta

__all__ = ["t_cdf", "t_quantile"]


@functools.cache
def t_quantile(p: float, freedom: float) -> float:
    """The value below which Student's t falls with probability `p`, strictly between 0 and 1."""
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, freedom: float) -> float:
    """P(T ≤ t). T² / (v + T²) is beta distributed (DLMF 8.17)."""
    share = t * t / (freedom + t * t)
    if share < 0.5:
        # Near the middle the tail is known to fewer digits than the distance from it.
        half = incomplete_beta(0.5, freedom / 2, share) / 2
        return 0.5 + half if t > 0 else 0.5 - half
    tail = incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return 1 - tail if t > 0 else tail
