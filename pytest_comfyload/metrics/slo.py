"""SLOs as text, `total_time.p95 < 60 and queue_time.mean < 20`: all conditions must be met. Times are in seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.intervals import nearest_rank
from pytest_comfyload.metrics.load_plan import Times
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.replay import count_within, statistics_of
from pytest_comfyload.metrics.units import parse_duration

__all__ = ["Condition", "Slo"]

_FORM = "write '<metric>.<pNN or mean> < <seconds>', such as 'total_time.p95 < 60'; join several by ' and '"
_CONDITION = re.compile(r"(?P<metric>\w+)\.(?:p(?P<q>\d+(?:\.\d+)?)|mean)\s*(?P<op><=?)\s*(?P<bound>[^<=>]+)")


class MeasuredTimes(Protocol):
    """The times of a load that an SLO can be about; a LoadResult has them."""

    @property
    def total_time(self) -> Distribution: ...
    @property
    def queue_time(self) -> Distribution: ...
    @property
    def generation_time(self) -> Distribution: ...


@dataclass(frozen=True, slots=True)
class Condition:
    """`metric.pNN < bound`, in seconds; if `q` is None, the mean over successes; with `inclusive`, `<=`."""

    metric: str
    q: float | None
    bound: float
    inclusive: bool = False

    @property
    def name(self) -> str:
        return f"{self.metric}.mean" if self.q is None else f"{self.metric}.p{self.q:g}"

    def measured(self, load: MeasuredTimes) -> float:
        """Return the statistic of a load, in seconds; nan without samples."""
        distribution: Distribution = getattr(load, self.metric)
        return float(distribution.mean if self.q is None else distribution.percentile(self.q))

    def statistic(self, times: Times) -> float:
        """Return the statistic of a replayed run."""
        return statistics_of(getattr(times, self.metric), (self.q,))[0]

    def held_by(self, values: Sequence[float]) -> bool:
        """Return whether the statistic of replayed times meets the bound; a percentile is checked without sorting."""
        if self.q is None:
            return self.met_by(statistics_of(values, (None,))[0])
        within = count_within(values, self.bound, inclusive=self.inclusive)
        return within >= nearest_rank(self.q, len(values)) > 0

    def met_by(self, value: float) -> bool:
        return value <= self.bound if self.inclusive else value < self.bound

    def __str__(self) -> str:
        return f"{self.name} {'<=' if self.inclusive else '<'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Slo:
    """An SLO, which is met if all of its conditions are."""

    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, text: object) -> Slo:
        """Parse an SLO. Raises: UsageError, with the legal form."""
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"slo={text!r} cannot be parsed; {_FORM}")
        return cls(tuple(_condition(part) for part in re.split(r"\s+and\s+", text.strip())))

    @property
    def grows_with_load(self) -> bool:
        """Whether it depends on the load; `generation_time` does not, regardless of how many prompts wait."""
        return any(condition.metric != "generation_time" for condition in self.conditions)

    def missed(self, times: Times) -> Condition | None:
        """Return the first condition that a replayed run does not meet; None if it meets all."""
        return next((each for each in self.conditions if not each.met_by(each.statistic(times))), None)

    def met_by(self, load: MeasuredTimes) -> bool:
        return all(condition.met_by(condition.measured(load)) for condition in self.conditions)

    def __str__(self) -> str:
        return " and ".join(map(str, self.conditions))


def _condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"slo: {text!r} cannot be parsed; {_FORM}")
    legal = [spec.name for spec in METRICS.values() if spec.slo]
    if match["metric"] not in legal:
        raise UsageError(f"slo: no metric {match['metric']!r}; legal: {nearest(match['metric'], legal)}; {_FORM}")
    q = None if match["q"] is None else float(match["q"])
    if q is not None and not 0 < q <= 100:
        raise UsageError(f"slo: p{match['q']} in {text!r} is not a percentile above 0, up to 100; {_FORM}")
    return Condition(match["metric"], q, _bound(match["bound"].strip()), inclusive=match["op"] == "<=")


def _bound(text: str) -> float:
    plain = re.fullmatch(r"\d+(\.\d+)?", text)
    try:
        seconds = parse_duration(float(text) if plain else text, "slo bound")
    except UsageError:
        raise UsageError(f"slo: {text!r} is not a bound such as 60, 90s or 1m30s; {_FORM}") from None
    if seconds == 0:
        raise UsageError(f"slo: a bound of {text!r} cannot be met; {_FORM}")
    return seconds
