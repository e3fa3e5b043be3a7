"""An SLO check is a comparison of a metric with a bound; a failed one explains itself by the slowest prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.result.judgement import Judgement, Verdict, judge
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.metric import Measure
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.wording import format_interval, format_value

__all__ = ["Check", "dominant_phase", "explain", "format_value", "slowest", "support"]


@dataclass(frozen=True, slots=True)
class Check:
    """`metric value op bound`, as the test's author wrote it; `passed` is the verdict of its assert.

    `verdict`, `sentence`, `settled_by` and the interval are those of its judgement; None: it was not judged. A check
    that was not reached has no value: nan.
    """

    metric: str
    value: float
    unit: str
    n: int
    op: str
    bound: float
    passed: bool
    verdict: Verdict | None = None
    sentence: str = ""
    settled_by: str | None = None
    lower: float | None = None
    upper: float | None = None

    @classmethod
    def of(cls, metric: Measure, op: str, bound: float, passed: bool, judgement: Judgement | None = None) -> Check:
        """With the judgement of the metric as it was compared; `judgement` where that is another one."""
        said = judgement or judge(metric, op, bound)
        return cls(
            metric.name,
            float(metric),  # type: ignore[arg-type]
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
        """How far the value stays from its bound on the good side, in percent of the bound; negative: beyond it."""
        if self.op not in ("<", "<=", ">", ">=") or self.bound == 0 or not math.isfinite(self.value):
            return None
        distance = (self.bound - self.value) if self.op in ("<", "<=") else (self.value - self.bound)
        return 100 * distance / abs(self.bound)

    @property
    def unsettled(self) -> bool:
        """The value meets its bound, and the samples cannot tell whether that is more than luck."""
        return self.passed and self.verdict in ("unsupported", "inconclusive")

    def claim(self) -> str:
        """`generation_time.p95 14.1 s < 12 s (n=60)`"""
        bound = format_value(self.bound, self.unit)
        return f"{self.metric} {format_value(self.value, self.unit)} {self.op} {bound} (n={self.n})"


def support(check: Check) -> list[str]:
    """Lines on what a check stands on: its margin, its interval, and what that means."""
    figures = [] if check.margin is None else [f"margin {check.margin:+.0f} %"]
    if check.lower is not None and check.upper is not None:
        figures.append(f"90 % interval {format_interval(check.lower, check.upper, check.unit)}")
    return [f"  {line}" for line in (", ".join(figures), check.sentence) if line]


def explain(check: Check, load: LoadResult, most: int = 3) -> list[str]:
    """Lines under a failed check: value and bound, then the slowest prompts and the phase that holds their time."""
    lines = [f"SLO violated: {check.claim()}", *support(check)]
    if failures := {kind: count for kind, count in load.errors.items() if int(count)}:
        lines.append("  failed prompts: " + ", ".join(f"{int(count)} {kind}" for kind, count in failures.items()))
        lines += [f"    {message}" for message in _first_errors(load.outcomes, most)]
    if prompts := slowest(load.outcomes, most):
        lines.append(f"  slowest of {len(load.outcomes)} prompts, and the phase that holds most of their time:")
        lines += [f"    {_portrait(outcome)}" for outcome in prompts]
    return lines


def slowest(outcomes: Sequence[Outcome], most: int = 3) -> list[Outcome]:
    """The successful prompts with the greatest `total_time`, slowest first."""
    timed = [outcome for outcome in outcomes if outcome.total_time is not None]
    return sorted(timed, key=lambda outcome: outcome.total_time or 0.0, reverse=True)[:most]


def dominant_phase(outcome: Outcome) -> tuple[str, float]:
    """The name and the seconds of the phase in which a prompt spent most of its time."""
    return max(outcome.phases().items(), key=lambda phase: phase[1])


def _portrait(outcome: Outcome) -> str:
    phase, seconds = dominant_phase(outcome)
    total = outcome.total_time or 0.0
    share = 100 * seconds / total if total else 0.0
    return (
        f"{outcome.prompt_id[:8]}  user {outcome.user}, iteration {outcome.iteration}: {total:.2f} s, "
        f"of it {phase} {seconds:.2f} s ({share:.0f} %)"
    )


def _first_errors(outcomes: Sequence[Outcome], most: int) -> list[str]:
    messages = dict.fromkeys(outcome.error.splitlines()[0] for outcome in outcomes if outcome.error)
    return list(messages)[:most]
