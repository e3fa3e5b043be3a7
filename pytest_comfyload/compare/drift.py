"""One figure over the baseline's sessions, and what changed in it before the head."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_comfyload.compare.baseline_runs import BaselineSessions, is_on_base_branch
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.series_comparison import Change, CreepFound, StepFound
from pytest_comfyload.compare.sessions import Session
from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.comparable import ComparedFigure
from pytest_comfyload.metrics.regression import NEWEST, Comparison, SessionHistory, compare
from pytest_comfyload.metrics.session_level import ANCHOR, creep_since
from pytest_comfyload.metrics.session_noise import (
    NEAR,
    OwnNoise,
    SessionNoise,
    Step,
    first_session,
    noise_of_runs,
    own_noise,
    steps,
)

__all__ = ["Track", "change_of", "creep_found", "error_within", "step_found", "track_of"]


def step_found(comparison: Comparison, track: Track) -> StepFound | None:
    """Return the newest step that led to the level, if it was for the worse."""
    step = comparison.step
    if step is None or step.jump <= 0:
        return None
    return _told(step, len(track.values) - comparison.baseline, track)


def creep_found(
    head: Session, comparison: Comparison, track: Track, noise: SessionNoise, lineage: CommitGraph
) -> CreepFound | StepFound | None:
    """Return a slow change, or the earlier step that explains it."""
    scale = track.metric.scale
    value = head.value(track.metric.name, scale)
    begin, end, name = _anchor(head, track, lineage)
    if value is None:
        return None
    anchor, since = track.values[begin:end], [*track.values[end:], value]
    creep = creep_since(anchor, since, noise, scale.least_effect)
    if creep is None:
        return None
    jumps = _steps_after(begin, end, comparison, track)
    if creep.explained(math.fsum(step.jump for step in jumps)):
        return _told(max(jumps, key=lambda step: step.jump), begin, track)
    fails = creep.held and is_on_base_branch(head.newest)
    return CreepFound(scale.change(creep.distance), name, len(since), fails)


def _steps_after(begin: int, end: int, comparison: Comparison, track: Track) -> list[Step]:
    """Return the steps after the anchor, each once, with indexes that count from the anchor's begin."""
    values = track.values[begin:]
    found = steps(values, track.metric.scale.grain, track.metric.scale.least_effect)
    if comparison.young and comparison.step is not None:
        at = len(values) - comparison.baseline + comparison.step.at
        found.append(Step(at, comparison.step.jump))
    once = {first_session(values, step): step for step in found}
    return [step for at, step in once.items() if at >= end - begin]


def _anchor(head: Session, track: Track, lineage: CommitGraph) -> tuple[int, int, str]:
    """Return the anchor's begin, end and name: the last ten sessions up to the last tag, or else the first ten."""
    first, commit = track.accepted, head.commit
    tag = lineage.newest_tag(commit) if commit else None
    tagged = lineage.up_to(tag[1]) if tag is not None else None
    if tag is not None and tagged is not None:
        end = sum(1 for each in track.sessions if each.commit in tagged)
        if end - first >= NEAR:
            return max(first, end - ANCHOR), end, tag[0]
    name = "the last accepted change" if first else f"the first {ANCHOR} sessions"
    return first, first + ANCHOR, name


def _told(step: Step, begin: int, track: Track) -> StepFound:
    at = begin + first_session(track.values[begin:], step)
    change = track.metric.scale.change(step.jump)
    return StepFound(track.sessions[at], track.sessions[at - 1], change, len(track.sessions) - at)


@dataclass(frozen=True, slots=True)
class Track:
    """A figure over time: the sessions that have it, oldest first, and a value for each of them.

    If there is only one session, it has a value for each of its runs. `accepted` is how many sessions precede the last
    accepted change; only the noise is estimated from them.
    """

    metric: ComparedFigure
    sessions: tuple[Session, ...]
    values: tuple[float, ...]
    accepted: int

    @property
    def seeded(self) -> bool:
        return len(self.values) > len(self.sessions)

    def history(self, others: Sequence[OwnNoise] = (), within: OwnNoise | None = None) -> SessionHistory:
        return SessionHistory(self.values, self.accepted, others, within, self.seeded)

    def level(self, comparison: Comparison) -> tuple[Session, ...]:
        """Return the sessions that are the level of a comparison with this history."""
        return self.sessions if self.seeded else self.sessions[len(self.sessions) - comparison.level :]

    @property
    def noise(self) -> OwnNoise | None:
        """The noise of the newest sessions of this series alone."""
        scale, values = self.metric.scale, self.values[-NEWEST:]
        if self.seeded:
            return noise_of_runs(values, scale.grain)
        accepted = max(0, self.accepted - len(self.values) + len(values))
        return own_noise(values, scale.grain, scale.least_effect, accepted)


def track_of(baseline: BaselineSessions, metric: ComparedFigure, most: int | None = None) -> Track:
    """Return the track of all sessions of the baseline that have the figure, or of the newest `most` of them."""
    name, scale = metric.name, metric.scale
    known: list[tuple[Session, float]] = []
    accepted = 0
    for place in range(len(baseline.history) - 1, -1, -1):
        if (value := baseline.history[place].value(name, scale)) is not None:
            known.append((baseline.history[place], value))
            accepted += place < baseline.accepted
            if len(known) == most:
                break
    known.reverse()
    sessions, values = tuple(each for each, _ in known), tuple(value for _, value in known)
    if len(sessions) == 1:
        measured = (row.figures.get(name, math.nan) for row in sessions[0].rows)
        return Track(metric, sessions, tuple(scale.place(each) for each in measured if scale.has_place(each)), 0)
    return Track(metric, sessions, values, accepted)


def newest_track_of(baseline: BaselineSessions, metric: ComparedFigure) -> Track:
    """Return the track of the sessions that a comparison uses; only a creep is searched for further back."""
    return track_of(baseline, metric, NEWEST)


def change_of(head: Session, track: Track, history: SessionHistory | None = None) -> Change:
    """Compare the head's runs with a figure's track; `history` is that of the track with more noise estimates."""
    metric = track.metric
    runs = [row.figures[metric.name] for row in head.rows if metric.name in row.figures]
    comparison = compare(history or track.history(), runs, metric.scale)
    before = [value for each in track.level(comparison) if (value := each.figure(metric.name)) is not None]
    after = head.figure(metric.name)
    return Change(
        metric, statistics.median(before) if before else math.nan, math.nan if after is None else after, comparison
    )


def error_within(rows: Iterable[Row], metric: ComparedFigure) -> OwnNoise | None:
    """Estimate the error of a run's median from its own few prompts, pooled over runs; None if unknown."""
    base = metric.name.rpartition(".")[0]
    squares, freedom = 0.0, 0.0
    for row in rows:
        error, median, n = (row.figures.get(f"{base}.{name}", 0.0) for name in ("p50_error", "p50", "n"))
        if error > 0 and math.isfinite(median) and median > 0 and n >= 3:
            # Only the values around the median determine it; there are about 2√n of them.
            weight = min(n - 1, 2 * math.sqrt(n))
            squares += weight * (error / median if metric.scale.relative else error) ** 2
            freedom += weight
    return OwnNoise(math.sqrt(squares / freedom), freedom) if freedom else None
