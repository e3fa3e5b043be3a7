"""Baseline of a load: `load.baseline`, the figures of earlier runs by the same names, and `load.regressions()`.

Without earlier runs their figures are missing: a comparison with one passes and is reported as having no baseline, so
that a suite's first run does not fail for being the first.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pytest_comfyload.errors import NoBaseline
from pytest_comfyload.metrics.metric import Metric, MetricValue
from pytest_comfyload.text import harmless

__all__ = ["NO_PAST", "Baseline", "BaselineSource", "MissingBaseline", "Regressions"]


class Regressions(tuple[str, ...]):
    """The figures that got worse than in earlier runs, one sentence each; empty, and therefore false, if none did.

    `told` has a sentence for each figure that was compared, `unjudged` one for each figure with too few earlier runs
    for a verdict.
    """

    told: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    @classmethod
    def of(cls, worse: Sequence[str], told: Sequence[str], unjudged: Sequence[str] = ()) -> Regressions:
        made = cls(worse)
        made.told, made.unjudged = tuple(told), tuple(unjudged)
        return made

    def __repr__(self) -> str:
        return "no regressions" if not self else harmless("; ".join(self))


class BaselineSource(Protocol):
    """The baseline and the regressions of one run, provided by the code that has access to the stored runs."""

    def baseline(self) -> Baseline: ...

    def regressions(self, of: Sequence[str], min_effect: float | None) -> Regressions: ...


class Baseline:
    """Medians of the figures of earlier runs, by the load's own names, such as `load.baseline.generation_time.p50`.

    `runs` is the number of those runs. If there are none, `why` gives the reason, and every figure is missing; with
    `required`, reading one raises NoBaseline instead.
    """

    def __init__(
        self, figures: Sequence[Mapping[str, float]], why: str = "", *, required: bool = False, path: str = ""
    ) -> None:
        self._figures = figures
        self._path = path
        self._required = required
        self.runs = len(figures)
        self.why = why

    def __bool__(self) -> bool:
        return self.runs > 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        path = f"{self._path}.{name}" if self._path else name
        if not self._figures:
            return _absent(path, self.why, self._required)
        values = [figures[path] for figures in self._figures if path in figures]
        if values:
            return Metric(statistics.median(values), f"baseline.{path}", "", len(values))
        if any(known.startswith(f"{path}.") for figures in self._figures for known in figures):
            return Baseline(self._figures, self.why, required=self._required, path=path)
        raise AttributeError(f"the {self.runs} baseline runs have no figure {path!r}")

    def __repr__(self) -> str:
        return f"<baseline: {self.runs} runs>" if self.runs else f"<no baseline: {self.why}>"


def _absent(path: str, why: str, required: bool) -> MissingBaseline:
    if required:
        raise NoBaseline(f"there is no baseline for {path}: {why}")
    return MissingBaseline(path, why)


class MissingBaseline:
    """A missing baseline figure: anything computed from it is missing too, and every comparison with it is true."""

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        self.why = why

    def _same(self, *_: object) -> MissingBaseline:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _same
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = __abs__ = _same

    def __getattr__(self, name: str) -> MissingBaseline:
        if name.startswith("__"):
            raise AttributeError(name)
        return MissingBaseline(f"{self.path}.{name}", self.why)

    def __getitem__(self, name: str) -> MissingBaseline:
        return MissingBaseline(f"{self.path}.{name}", self.why)

    def __bool__(self) -> bool:
        return False

    def __lt__(self, other: object) -> bool:
        return other > self if isinstance(other, MetricValue) else True

    def __le__(self, other: object) -> bool:
        return other >= self if isinstance(other, MetricValue) else True

    def __gt__(self, other: object) -> bool:
        return other < self if isinstance(other, MetricValue) else True

    def __ge__(self, other: object) -> bool:
        return other <= self if isinstance(other, MetricValue) else True

    def __eq__(self, other: object) -> bool:
        return other == self if isinstance(other, MetricValue) else True

    def __ne__(self, other: object) -> bool:
        return other != self if isinstance(other, MetricValue) else True

    __hash__ = object.__hash__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return harmless(f"<no baseline for {self.path}: {self.why}>")


class _NoPast:
    """The source for parts of a run, and for runs that are not stored: no baseline, no regressions."""

    def baseline(self) -> Baseline:
        return Baseline((), "this part of a run, or a run without a store, has no earlier ones")

    def regressions(self, of: Sequence[str], min_effect: float | None) -> Regressions:
        return Regressions()


NO_PAST: BaselineSource = _NoPast()
