"""What the engine is told: where the users are, what they send and when, and how long it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.scenario.executors import Executor

__all__ = ["Plan", "Prompt", "PromptSource"]


class Prompt(Protocol):
    """One prompt's own variation of the workflow."""

    @property
    def graph(self) -> Mapping[str, Any]: ...
    @property
    def varied(self) -> frozenset[str]: ...
    @property
    def seeds(self) -> Mapping[str, int]: ...
    @property
    def text(self) -> str | None: ...
    @property
    def inputs(self) -> Mapping[str, Any]: ...


class PromptSource(Protocol):
    """Gives each iteration of each user its prompt: the same one for the same arguments."""

    def __call__(self, server: str, user: int, iteration: int) -> Prompt: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Times are seconds of the run's clock. Warm-up prompts have negative iteration numbers."""

    run_id: str
    workflow: str
    servers: tuple[ServerAddress, ...]
    executor: Executor
    prompts: PromptSource
    warmup: int
    timeout: float
    queue_timeout: float | None
    drain: float
    fetch: bool
