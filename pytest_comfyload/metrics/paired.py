"""B against A in interleaved pairs: each pair shares its hour, so what drifts over hours drops out of its ratio."""

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
# The least ratio that counts.
LIMIT = 1.05
_LEAST_EFFECT = math.log(LIMIT)


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """`value` is B ÷ A, `lower` and `upper` its 90 % interval, two-sided; above 1, B is the greater."""

    value: float
    lower: float
    upper: float
    pairs: int
    verdict: RegressionVerdict


def abba(pairs: int) -> str:
    """The order of the runs: `ABBAABBA…`, so that a steady drift touches both alike."""
    return "".join("AB" if pair % 2 == 0 else "BA" for pair in range(pairs))


def paired_ratio(a: Sequence[float], b: Sequence[float], *, higher_is_better: bool = False) -> PairedRatio:
    """Compare positive values pair by pair: Student's t on ln(B/A).

    Regressed if the mean exceeds ln 1.05 and t(0.99, pairs−1) of its standard errors; improved is its mirror image;
    unchanged where neither end of the interval reaches 5 %; else, or below seven pairs, inconclusive. Where
    `higher_is_better`, regressed and improved change places.
    Raises: UsageError for fewer than two pairs, or values of which no ratio can be made.
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
