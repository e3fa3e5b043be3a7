"""Mirror of load results in pytest-benchmark's session, so that it saves and compares them like its own benchmarks.

Our own store is authoritative. Only times are mirrored: pytest-benchmark assumes that higher is worse, divides by the
baseline, and would report every change from 0 as infinite. Only this module depends on pytest-benchmark's internals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_comfyload.result.outcome import Outcome

__all__ = ["MODES", "BenchmarkMirror"]

MODES = ("auto", "on", "off")
# Options of pytest-benchmark that make mirroring worthwhile: they save or compare results.
_WANTED = ("save", "autosave", "json", "compare", "compare_fail", "histogram")
# The spread of a single value is 0, and every comparison with 0 fails.
_SPREADS = ("stddev", "iqr")


@dataclass(slots=True)
class _Entry:
    """The attributes that pytest-benchmark's Metadata reads from a test's fixture."""

    name: str
    fullname: str
    group: str
    extra_info: dict[str, Any]
    param: str | None = None
    params: dict[str, Any] | None = None
    cprofile_stats: None = None
    has_error: bool = False


@dataclass(slots=True)
class BenchmarkMirror:
    """Mirror in the process that receives reports; the spools below `store` contain every prompt of every run."""

    session: Any
    store: Path
    _seen: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, config: pytest.Config, mode: str, store: Path) -> BenchmarkMirror | None:
        """Return a mirror; None if pytest-benchmark is missing, off or, in mode "auto", neither saves nor compares."""
        session = config.pluginmanager.get_plugin("pytest-benchmark")
        if session is None or mode == "off":
            return None
        unwanted = config.getoption("benchmark_skip", False) or config.getoption("benchmark_disable", False)
        wanted = mode == "on" or any(getattr(session, name, None) for name in _WANTED)
        return cls(session, store) if wanted and not unwanted else None

    def add(self, run: Mapping[str, Any]) -> None:
        """Add a run, given its figures, once; an invalid run is skipped, since it measured nothing."""
        from pytest_comfyload.history.spool import find_spool, read_spool

        if run["run_id"] in self._seen or run["invalid_because"]:
            return
        self._seen.add(run["run_id"])
        spool = find_spool(self.store, run["run_id"])
        outcomes = [] if spool is None else [each for each in read_spool(spool) if not each.warmup]
        for metric, values in self._measured(run, outcomes):
            self._append(run, metric, values)

    def _measured(self, run: Mapping[str, Any], outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[float]]]:
        from pytest_comfyload.metrics.registry import METRICS

        for metric in (spec.name for spec in METRICS.values() if spec.mirrored):
            values = [value for each in outcomes if (value := getattr(each, metric)) is not None]
            if values and min(values) > 0:
                yield metric, values
                p95 = run[metric]["p95"]
                if 0 < p95 < float("inf") and not self._judges_spread():
                    yield f"{metric}.p95", [p95]

    def _judges_spread(self) -> bool:
        return any(check.field in _SPREADS for check in self.session.compare_fail or ())

    def _append(self, run: Mapping[str, Any], metric: str, values: Sequence[float]) -> None:
        stats: Any = import_module("pytest_benchmark.stats")

        # A different name, since a simulation must not be compared with a server.
        title = run["title"] + (" (SIMULATED)" if run["simulated"] else "")
        fullname = f"{title}::{metric}"
        entry = _Entry(f"{title.rpartition('/')[2]}::{metric}", fullname, title, _extra(run))
        benchmark = stats.Metadata(entry, iterations=1, options={"timer": "comfyload"})
        for value in values:
            benchmark.update(value)
        self.session.benchmarks.append(benchmark)

    def unmatched(self) -> list[str]:
        """Return the names to compare that the saved files lack; pytest-benchmark skips them silently."""
        saved = {name for mapping in (self.session.compared_mapping or {}).values() for name in mapping}
        names = [each.fullname for each in self.session.benchmarks if isinstance(each.fixture, _Entry)]
        return [name for name in names if name not in saved] if self.session.compared_mapping else []


def _extra(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that pytest-benchmark has no columns for."""
    names = ("run_id", "state", "seed", "prompts", "success_rate", "throughput", "simulated", "scenario")
    return {f"comfyload.{name}": run[name] for name in names}
