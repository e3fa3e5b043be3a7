"""A source of GPU samples: opened for the time of the load, it hands over each sample as it is taken.

A source never fails a load: what it cannot read is absent from its samples, and what it lost it says afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pytest_comfyload.result.telemetry import GpuSample

__all__ = ["GpuSource", "Keep", "Now"]

# May be called from any thread.
Keep = Callable[[GpuSample], None]
# Seconds of the run's clock.
Now = Callable[[], float]


class GpuSource(Protocol):
    """The GPUs of one server, `server` its URL. `str()` is what a person reads: `nvml:GPU-4f…`, `metrics:http://…`."""

    server: str

    @property
    def losses(self) -> tuple[str, ...]:
        """What went wrong while it watched, each a sentence: a GPU that was lost, an endpoint that fell silent."""

    def watching(self, keep: Keep, now: Now) -> AbstractAsyncContextManager[None]:
        """While the context lasts, samples arrive at `keep`. Raises on entering: UsageError where it cannot begin."""
