"""Short measurement of a workflow: one prompt shows how many more fit into the time limit, and these are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.errors import UsageError, WorkflowError
from pytest_comfyload.metrics.units import counted, format_duration
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.starter.survey import StarterWorkflow

__all__ = ["Measurement", "bound_above", "measure"]

# Server time in seconds that the measurement may take, and the number of prompts that suffices for a first bound.
_LIMIT, _PROMPTS = 60.0, 10
# This many prompts or more are sent by two users, so that prompts queue as they do in a service.
_FOR_TWO = 4
# A bound is this many times the measured value.
_ROOM = 1.5
_STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Medians of a load, in seconds. A throughput would need more prompts than fit into a minute."""

    users: int
    iterations: int
    generation: float
    total: float

    @property
    def prompts(self) -> int:
        return self.users * self.iterations


def measure(
    workflow: StarterWorkflow, run: Callable[[Scenario], LoadResult], agreed: Callable[[str], bool]
) -> Measurement:
    """Run one prompt, then as many as fit into a minute, at most ten.

    Args:
        run: Runs a scenario.
        agreed: Called with a sentence on what would be measured next and how long it takes; if it returns False, only
            the first prompt is measured.

    Raises:
        UsageError: A prompt failed, or the load was invalid.
    """
    first = _measured(workflow, run, 1, 1)
    count = min(_PROMPTS, int(_LIMIT / max(first.generation, 1e-3)))
    users = 2 if count >= _FOR_TWO else 1
    iterations = count // users
    if users * iterations < 2:
        return first
    seconds = users * iterations * first.generation
    prompts = counted(users * iterations, "prompt")
    if not agreed(f"one prompt takes {format_duration(first.generation)}; {prompts} take {format_duration(seconds)}"):
        return first
    return _measured(workflow, run, users, iterations)


def _scenario_of(workflow: StarterWorkflow, users: int, iterations: int) -> Scenario:
    arguments: dict[str, Any] = {"inputs": dict(workflow.inputs)} if workflow.inputs else {}
    if workflow.must_run:
        arguments["must_run"] = list(workflow.must_run)
    return Scenario.build(
        workflow.path or workflow.source, users=users, iterations=iterations, id=workflow.name, **arguments
    )


def _measured(
    workflow: StarterWorkflow, run: Callable[[Scenario], LoadResult], users: int, iterations: int
) -> Measurement:
    """Run the load; retry once if it is invalid, since this machine may have stalled. Raises: UsageError."""
    try:
        load = run(_scenario_of(workflow, users, iterations))
    except WorkflowError as error:
        raise UsageError(f"nothing is written: {error}") from None
    if load.invalid_because is not None:
        load = run(_scenario_of(workflow, users, iterations))
    failed = [outcome for outcome in load.all_outcomes if not outcome.succeeded]
    if failed:
        raise UsageError(f"nothing is written, since a prompt failed ({failed[0].status}): {failed[0].error or ''}")
    if load.invalid_because is not None:
        raise UsageError(f"nothing is written, since the load is invalid: {load.invalid_because}")
    return Measurement(
        users=users,
        iterations=iterations,
        generation=float(load.generation_time.p50),
        total=float(load.total_time.p50),
    )


def bound_above(measured: float) -> float:
    """Return a round bound of about 1.5 times the measured value, for a metric where lower is better."""
    return _rounded_up(measured * _ROOM)


def _rounded_up(value: float) -> float:
    """Round up to 1, 1.2, 1.5, 2 ... times a power of ten."""
    if value <= 0:
        return 0.0
    power = 10.0 ** int(f"{value:e}".partition("e")[2])
    step = next(step for step in _STEPS if step >= value / power - 1e-9)
    return float(f"{step * power:.3g}")
