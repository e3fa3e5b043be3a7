"""A server is saturated when there is always something for it to generate: only then its pace is its own."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import RunFacts

__all__ = ["is_saturated"]

# Of the window; the rest is what a server needs between two prompts, and the way to the first one.
BUSY = 0.95


def is_saturated(facts: RunFacts, outcomes: Iterable[Outcome]) -> bool:
    start, end = facts.window
    generating = math.fsum(outcome.generation_time or 0.0 for outcome in outcomes)
    return generating >= BUSY * (end - start) * (len(facts.workers) or len(facts.servers))
