"""The outcome of a comparison for one test, and the sentence that reports it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_comfyload.compare.acceptance import Acceptance
from pytest_comfyload.compare.baseline_runs import BaselineSessions
from pytest_comfyload.compare.sessions import Session
from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.comparable import ComparedFigure
from pytest_comfyload.metrics.regression import FEWEST, Comparison, RegressionVerdict, plain, signed
from pytest_comfyload.metrics.units import counted

__all__ = ["MOVED", "Change", "CreepFound", "SeriesComparison", "StepFound"]

MOVED = (RegressionVerdict.REGRESSED, RegressionVerdict.SUSPECTED, RegressionVerdict.IMPROVED)


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one figure: `before` is the median of the level's sessions, `after` that of the new runs."""

    metric: ComparedFigure
    before: float
    after: float
    comparison: Comparison

    def amount(self, change: float) -> str:
        """Return `+43 %`, or the change in the figure's unit."""
        return f"{signed(change)} {'%' if self.comparison.relative else self.metric.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class StepFound:
    """A change for the worse that came with an earlier session, and was not accepted.

    `change` is in percent, or in the figure's unit. `ago` counts the sessions since, that one included. `before` is the
    session before it. `subject` is what was changed with it.
    """

    session: Session
    before: Session
    change: float
    ago: int
    subject: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CreepFound:
    """A slow change for the worse: `change` since `anchor`, over this many `sessions`; `fails` if it has lasted."""

    change: float
    anchor: str
    sessions: int
    fails: bool


@dataclass(frozen=True, slots=True)
class SeriesComparison:
    """The outcome of a comparison for one test; the `gate` decides.

    Args:
        head: The session that is compared.
        baseline: The sessions before it.
        gate: The change of the figure that decides.
        where: The hardware of both sides.
        level: The sessions that the head is compared with.
        explained: Other figures that changed.
        nodes: The node classes that changed.
        subject: What was changed since the last session of the level.
        step: A step before the head.
        creep: A slow change since an anchor; a level that moves along does not show it.
        refused: Why the head is not compared.
        accepted: The decision that accepts the change.
    """

    head: Session
    baseline: BaselineSessions
    gate: Change
    where: str
    level: tuple[Session, ...] = ()
    explained: tuple[Change, ...] = ()
    nodes: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    step: StepFound | None = None
    creep: CreepFound | None = None
    refused: str | None = None
    accepted: Acceptance | None = None

    @property
    def test(self) -> str:
        return self.head.newest.series_title

    @property
    def verdict(self) -> RegressionVerdict:
        return self.gate.comparison.verdict

    @property
    def fails(self) -> bool:
        if self.accepted is not None or self.refused is not None:
            return False
        return self.gate.comparison.fails or (self.creep is not None and self.creep.fails)

    @property
    def is_judged(self) -> bool:
        """Whether a slowdown would have failed the test."""
        if self.accepted is not None:
            return True
        found = self.gate.comparison
        has_verdict = found.verdict not in (RegressionVerdict.RECORDING, RegressionVerdict.MISSING) and not math.isnan(
            found.change
        )
        return self.refused is None and has_verdict and found.baseline >= FEWEST

    @property
    def last(self) -> Row | None:
        """The newest run of the level; None if there is no level."""
        return self.level[-1].newest if self.level else None

    def sentence(self) -> str:
        if self.refused is not None:
            return self.refused
        return " ".join((self.gate.comparison.sentence(self.where, self.gate.metric.unit), *self._additions()))

    def _additions(self) -> Iterator[str]:
        if self.accepted is not None:
            yield f"Accepted: {self.accepted.reason}"
        if self.verdict in (*MOVED, RegressionVerdict.INCONCLUSIVE) and self._is_of_the_same_commit:
            yield self._changed_with_the_commit_the_same()
        if self.step is not None:
            yield self._step(self.step)
        if self.creep is not None:
            change, since = self.gate.amount(self.creep.change), f"since {self.creep.anchor}"
            yield f"{change} {since} over {counted(self.creep.sessions, 'session')}; no single one explains it."

    @property
    def _is_of_the_same_commit(self) -> bool:
        row = self.head.newest
        return bool(self.level) and row.commit is not None and not row.dirty and self.level[-1].commit == row.commit

    def _changed_with_the_commit_the_same(self) -> str:
        last = f"Same commit as in the session of {_day(self.level[-1].began)}"
        return f"{last}; changed: {'; '.join(self.subject)}." if self.subject else f"{last}."

    def _step(self, step: StepFound) -> str:
        ago = f"{counted(step.ago, 'session')} ago, not accepted."
        if step.session.commit is not None and step.session.commit != step.before.commit:
            branch = step.session.newest.branch or "This branch"
            return f"{branch} became {self._worse(step)} at {step.session.commit[:10]}, {ago}"
        changed = f" Changed then: {'; '.join(step.subject)}." if step.subject else ""
        return f"It became {self._worse(step)} in the session of {_day(step.session.began)}, {ago}{changed}"

    def _worse(self, step: StepFound) -> str:
        unit = "%" if self.gate.comparison.relative else self.gate.metric.unit
        if self.gate.metric.scale.higher_is_better:
            return f"{plain(abs(step.change))} {unit} lower"
        return f"{plain(abs(step.change))} {unit} {'slower' if self.gate.metric.unit == 's' else 'higher'}"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
