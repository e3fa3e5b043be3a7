"""How long a load will take: a load with a duration says it itself, one with iterations takes as long as its server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pytest_comfyload.scenario.executors import Executor
from pytest_comfyload.scenario.think_time import ThinkTime

__all__ = ["Part", "expected_duration", "planned_duration", "planned_prompts"]


class Part(Protocol):
    """What runs at once with other parts; `start` is in seconds from the window's begin."""

    @property
    def executor(self) -> Executor: ...
    @property
    def think_time(self) -> ThinkTime: ...
    @property
    def start(self) -> float: ...


def planned_duration(parts: Sequence[Part]) -> float | None:
    """Seconds until the last part sends nothing more; None where that depends on the server."""
    return expected_duration(parts, [None] * len(parts), servers=1)


def planned_prompts(parts: Sequence[Part]) -> float | None:
    """How many prompts, or are expected; None where that depends on the server."""
    counts = [part.executor.prompts for part in parts]
    return None if None in counts else sum(count for count in counts if count is not None)


def expected_duration(parts: Sequence[Part], generation_times: Sequence[float | None], servers: int) -> float | None:
    """Seconds; `generation_times` are what one prompt of each part takes, where that is known.

    Parts with iterations are over when the servers have done all their work, and no user can do its own any faster
    than one prompt after the other.
    """
    work, ends = 0.0, []
    for part, seconds in zip(parts, generation_times, strict=True):
        executor = part.executor
        if executor.duration is not None:
            ends.append(part.start + executor.duration)
        elif seconds is None or executor.prompts is None:
            return None
        else:
            each = executor.prompts / executor.users
            work += executor.prompts * seconds / servers
            ends.append(part.start + each * seconds + max(0.0, each - 1) * part.think_time.mean)
    return max(*ends, work)
