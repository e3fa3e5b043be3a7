"""One figure over the sessions of a baseline: its values on the line on which they are compared, and its noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_comfyload.compare.baseline import Baseline
from pytest_comfyload.compare.sessions import Session
from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.registry import Compared
from pytest_comfyload.metrics.regression import NEWEST, Comparison, History
from pytest_comfyload.metrics.session_noise import OwnNoise, noise_of_runs, own_noise

__all__ = ["Track", "error_within", "track_of"]


@dataclass(frozen=True, slots=True)
class Track:
    """`sessions` that have the figure, oldest first, and a value of each; of a single session, one of each of its runs.

    `accepted`: how many sessions are before the last accepted change, of which only the noise is learnt.
    """

    metric: Compared
    sessions: tuple[Session, ...]
    values: tuple[float, ...]
    accepted: int

    @property
    def seeded(self) -> bool:
        return len(self.values) > len(self.sessions)

    def history(self, others: Sequence[OwnNoise] = (), within: OwnNoise | None = None) -> History:
        return History(self.values, self.accepted, others, within, self.seeded)

    def level(self, comparison: Comparison) -> tuple[Session, ...]:
        """The sessions that a comparison with this history was made with."""
        return self.sessions if self.seeded else self.sessions[len(self.sessions) - comparison.level :]

    @property
    def noise(self) -> OwnNoise | None:
        """Of the newest sessions, by themselves."""
        scale, values = self.metric.scale, self.values[-NEWEST:]
        if self.seeded:
            return noise_of_runs(values, scale.grain)
        accepted = max(0, self.accepted - len(self.values) + len(values))
        return own_noise(values, scale.grain, scale.least_effect, accepted)


def track_of(baseline: Baseline, metric: Compared) -> Track:
    name, scale = metric.name, metric.scale
    known = [(each, value) for each in baseline.history if (value := each.value(name, scale)) is not None]
    sessions, values = tuple(each for each, _ in known), tuple(value for _, value in known)
    if len(sessions) == 1:
        measured = (row.figures.get(name, math.nan) for row in sessions[0].rows)
        return Track(metric, sessions, tuple(scale.place(each) for each in measured if scale.has_place(each)), 0)
    early = [each for each in baseline.history[: baseline.accepted] if each.value(name, scale) is not None]
    return Track(metric, sessions, values, len(early))


def error_within(rows: Iterable[Row], metric: Compared) -> OwnNoise | None:
    """How far the median of a run is from the truth by its own few prompts, pooled over runs; None where unknown."""
    base = metric.name.rpartition(".")[0]
    squares, freedom = 0.0, 0.0
    for row in rows:
        error, median, n = (row.figures.get(f"{base}.{name}", 0.0) for name in ("p50_error", "p50", "n"))
        if error > 0 and math.isfinite(median) and median > 0 and n >= 3:
            # The values around the median tell it: there are about 2√n.
            weight = min(n - 1, 2 * math.sqrt(n))
            squares += weight * (error / median if metric.scale.relative else error) ** 2
            freedom += weight
    return OwnNoise(math.sqrt(squares / freedom), freedom) if freedom else None
