"""SLO checks: comparisons of a metric with a bound. A failed check lists the slowest prompts as explanation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.metrics.assessment import COMPARE, UNSETTLED, Assessment, CheckStatus, judge
from pytest_comfyload.metrics.metric import MetricValue
from pytest_comfyload.metrics.units import format_interval, format_value
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import PHASES, Outcome

__all__ = ["Check", "dominant_phase", "explain", "format_value", "slowest", "support"]

# A percentile of a phase or of total_time, for the whole run or for a part of it.
_PERCENTILE = re.compile(rf"(?:\[(?P<part>.+)\] )?(?P<time>{'|'.join((*PHASES, 'total_time'))})\.p[\d.]+")
_PART = re.compile(r"(?P<key>[^=]+)=(?P<value>.*)")


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison, `metric value op bound`, as written in the test; `passed` is the result of its assert.

    `verdict`, `sentence`, `settled_by` and the interval come from its assessment; `verdict` is None if there was none.
    A bound of nan is a baseline figure that does not exist.
    """

    metric: str
    value: float
    unit: str
    n: int
    op: str
    bound: float
    passed: bool
    verdict: CheckStatus | None = None
    sentence: str = ""
    settled_by: str | None = None
    lower: float | None = None
    upper: float | None = None

    @classmethod
    def of(cls, metric: MetricValue, op: str, bound: float, passed: bool, judgement: Assessment | None = None) -> Check:
        """Create a check; `judgement`, if given, replaces the assessment of the metric against the bound."""
        said = judgement or judge(metric, op, bound)
        return cls(
            metric.name,
            float(metric),
            metric.unit,
            metric.n,
            op,
            float(bound),
            passed,
            said.verdict,
            said.sentence,
            said.settled_by,
            said.lower,
            said.upper,
        )

    @property
    def margin(self) -> float | None:
        """Distance of the value from its bound on the passing side, in percent of the bound; negative beyond it.

        None if it is undefined: for other operators, a bound of 0, and values that are not finite.
        """
        if self.op not in ("<", "<=", ">", ">=") or self.bound == 0:
            return None
        if not (math.isfinite(self.value) and math.isfinite(self.bound)):
            return None
        distance = (self.bound - self.value) if self.op in ("<", "<=") else (self.value - self.bound)
        return 100 * distance / abs(self.bound)

    @property
    def written_margin(self) -> str:
        """The margin as text: `+95 %`, or `×28` for a value of ten times its bound or more; empty if there is none."""
        if self.margin is None:
            return ""
        times = self.value / self.bound
        return f"×{times:.0f}" if times >= 10 else f"{self.margin:+.0f} %"

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 90 % interval of the value; None for a fact, and if the samples bound it on neither side."""
        if self.lower is None or self.upper is None or (math.isinf(self.lower) and math.isinf(self.upper)):
            return None
        return self.lower, self.upper

    @property
    def unsettled(self) -> bool:
        """Whether the value meets its bound, but the samples cannot show that this is more than luck."""
        return self.passed and self.verdict in UNSETTLED

    def claim(self) -> str:
        """Return the claim as text: `generation_time.p95 14.1 s < 12 s (n=60)`."""
        return f"{self.metric} {format_value(self.value, self.unit)} {self.op} {self.written_bound} (n={self.n})"

    @property
    def written_bound(self) -> str:
        return "the baseline" if math.isnan(self.bound) else format_value(self.bound, self.unit)


def support(check: Check) -> list[str]:
    """Return lines that put a check into context: its margin, its interval, and what they mean."""
    figures = [f"margin {check.written_margin}"] if check.written_margin else []
    if check.interval is not None:
        figures.append(f"90 % interval {format_interval(*check.interval, check.unit)}")
    return [f"  {line}" for line in (", ".join(figures), check.sentence) if line]


def explain(check: Check, load: LoadResult, most: int = 3) -> list[str]:
    """Return the lines below a failed check: its margin and interval, the failures, and the prompts beyond the bound.

    For metrics that are not percentiles, the slowest prompts. Each prompt is listed with the phase or node class that
    took most of its time.
    """
    lines = [f"SLO violated: {check.claim()}", *support(check)]
    if failures := {kind: count for kind, count in load.errors.items() if int(count)}:
        lines.append("  failed prompts: " + ", ".join(f"{int(count)} {kind}" for kind, count in failures.items()))
        lines += [f"    {message}" for message in _first_errors(load.outcomes, most)]
    match = _PERCENTILE.fullmatch(check.metric)
    return lines + (_slowest(load, most) if match is None else _beyond(check, match, load, most))


def _beyond(check: Check, percentile: re.Match[str], load: LoadResult, most: int) -> list[str]:
    """Return the prompts beyond the bound, the worst first, below a line such as `3 of 60 prompts over 12 s`."""
    time, caps = percentile["time"], check.op in ("<", "<=")
    good = [outcome for outcome in _members(percentile["part"], load) if outcome.succeeded]
    timed = [(value, outcome) for outcome in good if (value := getattr(outcome, time)) is not None]
    beyond = [each for each in timed if not COMPARE[check.op](each[0], check.bound)]
    if not beyond:
        return []
    beyond.sort(key=lambda each: each[0], reverse=caps)
    side, bound = "over" if caps else "under", format_value(check.bound, check.unit)
    lines = [f"  {len(beyond)} of {check.n} prompts {side} {bound}, each with its longest phase:"]
    lines += [f"    {_portrait(outcome, time)}" for _, outcome in beyond[:most]]
    return lines + ([f"    and {len(beyond) - most} more"] if len(beyond) > most else [])


def _slowest(load: LoadResult, most: int) -> list[str]:
    if not (prompts := slowest(load.measured, most)):
        return []
    head = f"  slowest of {len(load.measured)} prompts, each with its longest phase:"
    return [head, *(f"    {_portrait(outcome, 'total_time')}" for outcome in prompts)]


def _members(part: str | None, load: LoadResult) -> Sequence[Outcome]:
    """Return the prompts of the part labelled `[key=value] `; for any other part, those of the whole run."""
    if part is None or (match := _PART.fullmatch(part)) is None:
        return load.measured
    groups = load.by(match["key"]).items()
    return next((group.measured for value, group in groups if str(value) == match["value"]), load.measured)


def slowest(outcomes: Sequence[Outcome], most: int = 3) -> list[Outcome]:
    """Return the successful prompts with the greatest `total_time`, slowest first."""
    timed = [outcome for outcome in outcomes if outcome.total_time is not None]
    return sorted(timed, key=lambda outcome: outcome.total_time or 0.0, reverse=True)[:most]


def dominant_phase(outcome: Outcome) -> tuple[str, float]:
    """Return the phase in which a prompt spent most of its time, and its seconds."""
    return max(outcome.phases().items(), key=lambda phase: phase[1])


def _portrait(outcome: Outcome, time: str) -> str:
    length = getattr(outcome, time) or 0.0
    whole = f"{outcome.prompt_id[:8]}  user {outcome.user}, iteration {outcome.iteration}: {length:.2f} s"
    if time == "total_time":
        name, seconds = dominant_phase(outcome)
    elif time == "generation_time" and outcome.nodes:
        name, seconds = _dominant_class(outcome)
    else:
        return whole
    return f"{whole}, of it {name} {seconds:.2f} s ({100 * seconds / length if length else 0:.0f} %)"


def _dominant_class(outcome: Outcome) -> tuple[str, float]:
    """Return the node class that took most of a prompt's generation, and its seconds."""
    times: dict[str, float] = {}
    for node in outcome.nodes:
        times[node.class_type] = times.get(node.class_type, 0.0) + node.duration
    return max(times.items(), key=lambda each: each[1])


def _first_errors(outcomes: Sequence[Outcome], most: int) -> list[str]:
    messages = dict.fromkeys(outcome.error.splitlines()[0] for outcome in outcomes if outcome.error)
    return list(messages)[:most]
