"""An SLO check is a comparison of a metric with a bound; a failed one explains itself by the slowest prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome

__all__ = ["Check", "dominant_phase", "explain", "format_value", "slowest"]


@dataclass(frozen=True, slots=True)
class Check:
    """`metric value op bound`, as the test's author wrote it; `passed` is the verdict of its assert."""

    metric: str
    value: float
    unit: str
    n: int
    op: str
    bound: float
    passed: bool

    @property
    def margin(self) -> float | None:
        """How far the value stays from its bound on the good side, in percent of the bound; negative: beyond it."""
        if self.op not in ("<", "<=", ">", ">=") or self.bound == 0 or not math.isfinite(self.value):
            return None
        distance = (self.bound - self.value) if self.op in ("<", "<=") else (self.value - self.bound)
        return 100 * distance / abs(self.bound)

    def sentence(self) -> str:
        """`generation_time.p95 14.1 s < 12 s (n=60)`"""
        bound = format_value(self.bound, self.unit)
        return f"{self.metric} {format_value(self.value, self.unit)} {self.op} {bound} (n={self.n})"


def explain(check: Check, load: LoadResult, most: int = 3) -> list[str]:
    """Lines under a failed check: value and bound, then the slowest prompts and the phase that holds their time."""
    lines = [f"SLO violated: {check.sentence()}"]
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


def format_value(value: float, unit: str) -> str:
    """Three significant digits at most below a thousand; counts and percentages as they are; bytes as MiB or GiB."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if unit == "B" or unit.startswith("B/"):
        power, name = (3, "GiB") if abs(value) >= 1024**3 else (2, "MiB")
        return format_value(value / 1024**power, unit.replace("B", name, 1))
    value = round(value, 4) + 0.0  # a tenth of a millisecond at least, and no −0
    whole = value == int(value) or abs(value) >= 1000
    digits = f"{value:.0f}" if whole and abs(value) < 1e6 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip() if unit != "%" else f"{digits} %"


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
