"""What the prompts of measured loads asked of their servers, as the queue model wants it."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence

from pytest_comfyload.metrics.replay import Service
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus

__all__ = ["services_in", "services_of"]


def services_of(runs: Sequence[Sequence[Outcome]]) -> tuple[Service, ...]:
    """One for each of the measured prompts of some runs, failures included; prompts that we cut off are none."""
    services = services_in(runs)
    return tuple(service for run in services for service in run if service is not None)


def services_in(runs: Sequence[Sequence[Outcome]]) -> list[list[Service | None]]:
    """Of each run, for each of its outcomes; None: it says nothing of the server.

    A prompt occupies its server for its generation and for what the server needs before it starts the next one. A
    failure that the server began occupies it as long as it ran; one of unknown length as long as the longest.
    """
    gap = _gap(runs)
    judged = [each for run in runs for each in run if each.status is not OutcomeStatus.CENSORED]
    longest = max((outcome.generation_time or 0.0 for outcome in judged), default=0.0)
    return [[_service(outcome, gap, longest) for outcome in run] for run in runs]


def _service(outcome: Outcome, gap: float, longest: float) -> Service | None:
    if outcome.status is OutcomeStatus.CENSORED:
        return None
    if not outcome.succeeded:
        began = outcome.timeline is not None and outcome.timeline.started is not None
        ran = longest if outcome.generation_time is None else outcome.generation_time
        return Service(occupied=ran + gap if began else 0.0, generation=math.inf)
    generation, queue, total = outcome.generation_time, outcome.queue_time, outcome.total_time
    if generation is None or queue is None or total is None:
        return None  # the server's stamps are void
    return Service(generation + gap, generation, total - queue - generation)


def _gap(runs: Iterable[Iterable[Outcome]]) -> float:
    """The median time between the end of a prompt and the start of the next, where that one was waiting already."""
    gaps = [gap for run in runs for gap in _gaps(run)]
    return max(0.0, statistics.median(gaps or [0.0]))


def _gaps(outcomes: Iterable[Outcome]) -> Iterator[float]:
    by_server: dict[str, list[tuple[float, float, float]]] = {}
    for outcome in outcomes:
        line = outcome.timeline
        if line is not None and line.started is not None and line.ended is not None and line.accepted is not None:
            by_server.setdefault(outcome.ran_on, []).append((line.started, line.ended, line.accepted))
    for runs in by_server.values():
        for (_, ended, _), (started, _, accepted) in itertools.pairwise(sorted(runs)):
            if accepted <= ended:
                yield started - ended
