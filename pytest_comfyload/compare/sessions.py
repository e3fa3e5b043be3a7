"""Sessions of one test: the runs that one pytest session made of it, and which runs may stand for it at all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.spec import Scale

__all__ = ["LEAST_SUCCESS", "Session", "flaw_of", "oldest_first", "sessions_of"]

# With more failures than this, the times of the other prompts say too little.
LEAST_SUCCESS = 95.0
# Percent of the time for which heat or a fault may have held the clocks down.
_MOST_THROTTLED = 1.0
_THROTTLED = "gpu.throttled.reasons."
# A card that is fully used works at its power limit: that is its speed, and not a fault.
_USUAL = f"{_THROTTLED}sw_power_cap"


@dataclass(frozen=True, slots=True)
class Session:
    """`rows`: its runs, oldest first, one at least; they have the same commit and inputs."""

    rows: tuple[Row, ...]

    @property
    def newest(self) -> Row:
        return self.rows[-1]

    @property
    def began(self) -> float:
        return self.rows[0].time

    @property
    def commit(self) -> str | None:
        return self.newest.commit

    def figure(self, name: str) -> float | None:
        """The median of its runs' figures; None where no run has it."""
        values = [value for row in self.rows if (value := row.figures.get(name)) is not None]
        return statistics.median(values) if values else None

    def value(self, name: str, scale: Scale) -> float | None:
        """The median of its runs on the line on which they are compared; None where none has a place there."""
        values = [row.figures[name] for row in self.rows if name in row.figures]
        places = [scale.place(value) for value in values if scale.has_place(value)]
        return statistics.median(places) if places else None


def sessions_of(rows: Iterable[Row]) -> list[Session]:
    """Group the runs of one test in one environment into sessions, by the time of their first runs."""
    found: dict[tuple[str, str | None, str], list[Row]] = {}
    for row in oldest_first(rows):
        found.setdefault((row.session or row.run_id, row.commit, row.inputs), []).append(row)
    return [Session(tuple(each)) for each in found.values()]


def oldest_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.time, row.run_id))


def flaw_of(row: Row) -> str | None:
    """Return why a run cannot be a baseline.

    One whose SLOs are violated can: without slow runs the noise would look too small.
    """
    return next((flaw for flaw, has_it in _FLAWS.items() if has_it(row)), None)


def _throttled(row: Row) -> bool:
    # Looked at first, since a row has hundreds of figures: for any reason.
    if row.figures.get("gpu.throttled.percent", 0.0) <= _MOST_THROTTLED:
        return False
    return max(_shares(row.figures), default=0.0) > _MOST_THROTTLED


def _shares(figures: Mapping[str, float]) -> Iterator[float]:
    return (share for name, share in figures.items() if name.startswith(_THROTTLED) and name != _USUAL)


_FLAWS: dict[str, Callable[[Row], bool]] = {
    "invalid": lambda row: row.state == "invalid",
    "contaminated by foreign prompts": lambda row: row.state == "contaminated",
    "incomplete": lambda row: row.state not in ("valid", "invalid", "contaminated"),
    "with uncommitted changes": lambda row: bool(row.dirty),
    f"with more than {100 - LEAST_SUCCESS:.0f} % failures": (
        lambda row: row.figures.get("success_rate", 0.0) < LEAST_SUCCESS
    ),
    "with a throttled GPU": _throttled,
}
