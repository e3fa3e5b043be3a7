"""Metrics and report panels added by a user's plugin, next to the built-in ones; their errors do not fail the run.

Each error of an extension is reported once, in FAULTS; its figure is then missing, as one without samples is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.spec import MetricSpec, Scale

__all__ = [
    "CUSTOM_METRICS", "FAULTS", "CustomMetric", "add_metric", "add_panel", "fault", "panels_of", "remove_extensions",
]  # fmt: skip

# What a panel shows: values, numbers or text, by name.
PanelContent = Callable[[Any], Mapping[str, object]]
_STATISTICS = ("p50", "p90", "p95", "p99", "mean")
_MOST_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomMetric:
    """A custom metric, `load.NAME` in tests.

    Args:
        name: The attribute of `load`, and the key in `to_dict` and in stored figures.
        title: Its name in tables and charts.
        unit: Its unit, such as "s", "%" (0-100) or "words"; empty for a count.
        help: What is measured, in one sentence.
        measure: Called with the LoadResult; returns a number or, with `per_prompt`, the numbers of all prompts.
        per_prompt: Whether it is a distribution, `load.NAME.p95`, rather than a single number.
        higher_is_better: Whether, of two runs, the one with the higher value is the better one.
    """

    name: str
    title: str
    unit: str
    help: str
    measure: Callable[[Any], float | Iterable[float]]
    per_prompt: bool = False
    higher_is_better: bool = False

    @property
    def spec(self) -> MetricSpec:
        """The declaration of this metric for the metric registry."""
        return MetricSpec(
            name=self.name,
            title=self.title,
            unit=self.unit,
            help=self.help,
            stats=_STATISTICS if self.per_prompt else (),
            scale=Scale(higher_is_better=self.higher_is_better),
        )

    def of(self, load: Any) -> Metric | Distribution:
        """Measure a load.

        Raises: whatever `measure` raises; ValueError or TypeError if it does not return finite numbers.
        """
        measured: Any = self.measure(load)
        if self.per_prompt:
            return Distribution(self.name, [_finite(value) for value in measured], unit=self.unit)
        return Metric(_finite(measured), self.name, self.unit, len(load.outcomes))

    def absent(self, why: str) -> Metric | Distribution:
        """Return the metric without samples."""
        if self.per_prompt:
            return Distribution(self.name, (), unit=self.unit)
        metric = Metric(math.nan, self.name, self.unit, 0)
        metric.absent_because = why
        return metric


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


# By name or title. Like METRICS, these registries belong to the process; `remove_extensions` empties them.
CUSTOM_METRICS: dict[str, CustomMetric] = {}
PANELS: dict[str, PanelContent] = {}
FAULTS: dict[str, None] = {}


def fault(what: str, error: object) -> str:
    """Record an extension's error as one line of text, and return that line."""
    kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    said = " ".join(f"{what} failed: {kind}{error}".split())[:300]
    FAULTS.setdefault(said)
    return said


def add_metric(metric: object, loads: type) -> None:
    """Register a metric, and make it an attribute of `loads`, the class of load results."""
    if not isinstance(metric, CustomMetric):
        fault("pytest_comfyload_metrics", f"{metric!r} is not a CustomMetric")
    elif not metric.name.isidentifier() or metric.name in METRICS or hasattr(loads, metric.name):
        fault(f"metric {metric.name!r}", "the name is taken, or is not a Python name; give another")
    else:
        CUSTOM_METRICS[metric.name] = metric
        METRICS[metric.name] = metric.spec
        setattr(loads, metric.name, property(lambda load: _measured(metric, load), doc=metric.help))


def add_panel(title: object, content: object) -> None:
    """Register a panel for the page of a commit."""
    if isinstance(title, str) and title and callable(content):
        PANELS[title] = content
    else:
        fault("pytest_comfyload_report_panels", f"{title!r} is not a title with a function; return {{title: function}}")


def remove_extensions(loads: type) -> None:
    for name in CUSTOM_METRICS:
        METRICS.pop(name, None)
        delattr(loads, name)
    for registry in (CUSTOM_METRICS, PANELS, FAULTS):
        registry.clear()


def _measured(metric: CustomMetric, load: Any) -> Metric | Distribution:
    try:
        return metric.of(load)
    except Exception as error:
        return metric.absent(fault(f"metric {metric.name!r}", error))


def panels_of(load: Any) -> dict[str, dict[str, str | float]]:
    """Return the content of each non-empty panel, by title."""
    contents = {title: _content(title, content, load) for title, content in PANELS.items()}
    return {title: rows for title, rows in contents.items() if rows}


def _content(title: str, content: PanelContent, load: Any) -> dict[str, str | float]:
    try:
        rows = list(content(load).items())[:_MOST_ROWS]
        return {str(name): _finite(value) if isinstance(value, int | float) else str(value) for name, value in rows}
    except Exception as error:
        fault(f"report panel {title!r}", error)
        return {}
