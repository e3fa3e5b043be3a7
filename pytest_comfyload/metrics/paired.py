"""B against A in interleaved pairs: the runs of a pair are close in time, so slow drift cancels out of their ratio."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.intervals import t_quantile
from pytest_comfyload.metrics.regression import RegressionVerdict

__all__ = ["FEWEST_PAIRS", "LIMIT", "PairedRatio", "abba", "paired_ratio"]

FEWEST_PAIRS = 7
# The smallest ratio that matters.
LIMIT = 1.05
_LEAST_EFFECT = math.log(LIMIT)


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """A ratio of pairs: `value` is B ÷ A, `lower` and `upper` its two-sided 90 % interval; above 1, B is greater."""

    value: float
    lower: float
    upper: float
    pairs: int
    verdict: RegressionVerdict


def abba(pairs: int) -> str:
    """Return the order of the runs, `ABBAABBA…`, in which a steady drift affects both sides equally."""
    return "".join("AB" if pair % 2 == 0 else "BA" for pair in range(pairs))


def paired_ratio(a: Sequence[float], b: Sequence[float], *, higher_is_better: bool = False) -> PairedRatio:
    """Compare positive values pair by pair, by Student's t on ln(B/A).

    Regressed if the mean exceeds both ln 1.05 and t(0.99, pairs−1) times its standard error; improved is the mirror
    image; unchanged if neither end of the interval reaches 5 %; otherwise, or with fewer than seven pairs,
    inconclusive. With `higher_is_better`, regressed and improved are swapped.
    Raises: UsageError for fewer than two pairs, or values that have no ratio.
    """
    if len(a) != len(b) or len(a) < 2:
        raise UsageError(
            f"a paired comparison needs two pairs or more, of equally many runs; got {len(a)} and {len(b)}"
        )
    if bad := [value for value in (*a, *b) if not (math.isfinite(value) and value > 0)]:
        raise UsageError(f"no ratio can be made of {bad[0]!r}: a run of a pair has no such value, or it is 0")
    logs = [math.log(after / before) for before, after in zip(a, b, strict=True)]
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    reach = t_quantile(0.95, len(logs) - 1) * error
    worse, surely = -mean if higher_is_better else mean, t_quantile(0.99, len(logs) - 1) * error
    verdict = _verdict(worse, surely, reach) if len(logs) >= FEWEST_PAIRS else None
    return PairedRatio(
        math.exp(mean),
        math.exp(mean - reach),
        math.exp(mean + reach),
        len(logs),
        verdict or RegressionVerdict.INCONCLUSIVE,
    )


def _verdict(worse: float, surely: float, reach: float) -> RegressionVerdict:
    if abs(worse) > max(_LEAST_EFFECT, surely):
        return RegressionVerdict.REGRESSED if worse > 0 else RegressionVerdict.IMPROVED
    return RegressionVerdict.UNCHANGED if abs(worse) + reach < _LEAST_EFFECT else RegressionVerdict.INCONCLUSIVE
