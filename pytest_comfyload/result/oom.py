"""Want of memory has three faces: a failed prompt, a model loaded again after one, a retry that only the log knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.phases import is_loader, step_time, weights_time

__all__ = ["is_silent_retry", "reloads_after_oom"]

_RETRY = re.compile(r"out of memory.*\b(retry|again|increas)|\btiled\b", re.IGNORECASE | re.DOTALL)
_FAILURE = re.compile(r"Traceback|Exception|Error\b")


def is_silent_retry(message: str) -> bool:
    """Whether a line of the server's log tells of a node that ran out of memory and went on in another way."""
    return _RETRY.search(message) is not None and _FAILURE.search(message) is None


def reloads_after_oom(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The prompts that loaded models which had been in place, each the first to run on its server after an oom."""
    reloads = []
    warm: set[tuple[str, str]] = set()
    unloaded: set[str] = set()
    for outcome in _in_order_of_running(outcomes):
        if outcome.status is OutcomeStatus.OOM:
            unloaded.add(outcome.ran_on)
        elif outcome.succeeded:
            if outcome.ran_on in unloaded and (outcome.ran_on, outcome.workflow) in warm and _loads(outcome):
                reloads.append(outcome)
            unloaded.discard(outcome.ran_on)
            warm.add((outcome.ran_on, outcome.workflow))
    return reloads


def _in_order_of_running(outcomes: Iterable[Outcome]) -> Sequence[Outcome]:
    timelines = ((outcome.timeline, outcome) for outcome in outcomes)
    timed = [
        (timeline.started, outcome) for timeline, outcome in timelines if timeline and timeline.started is not None
    ]
    return [outcome for _, outcome in sorted(timed, key=lambda pair: pair[0])]


def _loads(outcome: Outcome) -> bool:
    """A loader ran, or a sampler took longer than a step to get ready, which is more than chance."""
    return any(is_loader(node.class_type) or weights_time(node) > (step_time(node) or 0.0) for node in outcome.nodes)
