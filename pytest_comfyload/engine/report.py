"""What the engine knows of a run besides its outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.server_usage import UsageSample

__all__ = ["EngineReport"]


@dataclass(slots=True)
class EngineReport:
    """The window is in seconds of the run's clock, the lag in wall seconds.

    `aborted` and `invalid` say why the run was ended early, and why it says nothing about the server. `had_company`
    knows better than an outcome as it was reported whether somebody else's prompts were there.
    """

    window: tuple[float, float] = (0.0, 0.0)
    intended: int = 0
    dropped: int = 0
    loop_lag: float = 0.0
    foreign: int = 0
    had_company: Callable[[Outcome], bool] = lambda outcome: False
    aborted: str | None = None
    invalid: str | None = None
    server_usage: tuple[UsageSample, ...] = ()
    silent_ooms: int | None = None

    @property
    def submitted(self) -> int:
        return self.intended - self.dropped
