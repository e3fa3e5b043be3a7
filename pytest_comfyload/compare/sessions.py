"""Sessions of one test: the runs that one pytest session made of it, and which runs can be in a baseline at all."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.spec import Scale

__all__ = ["LEAST_SUCCESS", "Session", "flaw_of", "oldest_first", "sessions_of"]

# The least success rate in percent; with more failures, the times of the other prompts are not representative.
LEAST_SUCCESS = 95.0
# Percent of the time for which heat or a fault may have throttled the clocks.
_MOST_THROTTLED = 1.0
_THROTTLED = "gpu.throttled.reasons."
_BAD_STATES = {"invalid": "invalid", "contaminated": "contaminated by foreign prompts"}
_AGE = operator.attrgetter("time", "run_id")
# A fully used card works at its power limit: that is its normal speed, not a fault.
_USUAL = f"{_THROTTLED}sw_power_cap"


@dataclass(frozen=True, slots=True)
class Session:
    """The runs of one session in `rows`, oldest first, at least one; they have the same commit and inputs.

    What is computed from the rows is cached, since a history is queried repeatedly.
    """

    rows: tuple[Row, ...]
    newest: Row = field(init=False, compare=False, repr=False)
    began: float = field(init=False, compare=False, repr=False)
    commit: str | None = field(init=False, compare=False, repr=False)
    inputs: str = field(init=False, compare=False, repr=False)
    _values: dict[str, float | None] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        newest = self.rows[-1]
        known = {"newest": newest, "began": self.rows[0].time, "commit": newest.commit, "inputs": newest.inputs}
        for name, value in {**known, "_values": {}}.items():
            object.__setattr__(self, name, value)

    def figure(self, name: str) -> float | None:
        """Return the median of a figure over its runs; None if no run has it."""
        values = [value for row in self.rows if (value := row.figures.get(name)) is not None]
        return statistics.median(values) if values else None

    def value(self, name: str, scale: Scale) -> float | None:
        """Return the median of its runs on the axis on which they are compared; None if none has a place there.

        `scale` is the figure's own, regardless of the least effect.
        """
        if name not in self._values:
            values = [row.figures[name] for row in self.rows if name in row.figures]
            places = [scale.place(value) for value in values if scale.has_place(value)]
            self._values[name] = statistics.median(places) if places else None
        return self._values[name]


def sessions_of(rows: Iterable[Row]) -> list[Session]:
    """Group the runs of one test in one environment into sessions, by the time of their first runs."""
    found: dict[tuple[str, str | None, str], list[Row]] = {}
    for row in oldest_first(rows):
        found.setdefault((row.session or row.run_id, row.commit, row.inputs), []).append(row)
    return [Session(tuple(each)) for each in found.values()]


def oldest_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=_AGE)


def flaw_of(row: Row) -> str | None:
    """Return why a run cannot be in a baseline; None if it can.

    A run whose SLOs are violated can: without slow runs, the noise would look too small.
    """
    if row.state != "valid":
        return _BAD_STATES.get(row.state, "incomplete")
    if row.dirty:
        return "with uncommitted changes"
    if row.figures.get("success_rate", 0.0) < LEAST_SUCCESS:
        return f"with more than {100 - LEAST_SUCCESS:.0f} % failures"
    return "with a throttled GPU" if _throttled(row) else None


def _throttled(row: Row) -> bool:
    # This figure, for any reason, is checked first, since a row has hundreds of figures.
    if row.figures.get("gpu.throttled.percent", 0.0) <= _MOST_THROTTLED:
        return False
    return max(_shares(row.figures), default=0.0) > _MOST_THROTTLED


def _shares(figures: Mapping[str, float]) -> Iterator[float]:
    return (share for name, share in figures.items() if name.startswith(_THROTTLED) and name != _USUAL)
