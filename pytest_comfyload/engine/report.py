"""What the engine knows of a run besides its outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pytest_comfyload.protocol.server_clock import ClockStep
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import Stall
from pytest_comfyload.result.telemetry import UsageSample

__all__ = ["EngineReport"]


@dataclass(slots=True)
class EngineReport:
    """The window is in seconds of the run's clock, the lag in wall seconds.

    `aborted` and `invalid` say why the run was ended early, and why it says nothing about the server. `marked` gives an
    outcome with what was learnt since it was reported: foreign prompts in the queue, a server's clock that was set.
    `clock_steps` are those contradictions between the stamps of a server, by its URL.
    """

    window: tuple[float, float] = (0.0, 0.0)
    intended: int = 0
    dropped: int = 0
    loop_lag: float = 0.0
    worst_loop_lag: float = 0.0
    stalls: tuple[Stall, ...] = ()
    foreign: int = 0
    marked: Callable[[Outcome], Outcome] = lambda outcome: outcome
    clock_steps: Mapping[str, tuple[ClockStep, ...]] = field(default_factory=dict)
    aborted: str | None = None
    invalid: str | None = None
    server_usage: tuple[UsageSample, ...] = ()
    silent_ooms: int | None = None

    @property
    def submitted(self) -> int:
        return self.intended - self.dropped
