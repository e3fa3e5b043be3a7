"""The types of the fixtures that are called, for annotations: editors complete their arguments, type checkers check
them.

They say the same as the signature of `load_scenario`, once more: a type checker reads no arguments from a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, TypedDict, Unpack

from pytest_comfyload.capacity.answer import Capacity
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.scenario.distributions import DistributionSpec

__all__ = ["FindCapacity", "LoadArguments", "RunAB", "RunLoad", "SharedArguments"]

# Seconds, or a text such as "30s", "10m".
Seconds = float | str
_Workflow = str | PathLike[str] | Mapping[str, Any] | None


class SharedArguments(TypedDict, total=False):
    """The arguments of `load_scenario` that say nothing of when prompts are sent."""

    mix: Mapping[str, float] | None
    warmup: int
    timeout: Seconds
    queue_timeout: Seconds | None
    inputs: Mapping[str, Any] | None
    prompts: Sequence[str] | str | PathLike[str] | None
    extra_data: Mapping[str, Any] | None
    vary_text: bool
    seed: int | None
    must_run: Sequence[str] | None
    allow_cached: bool
    servers: str | int | Sequence[str | int]
    balance: Literal["least_queue", "round_robin", "sticky"]
    sockets: Literal["per_user", "shared"] | None
    fetch: bool
    max_send_lag: Seconds
    on_foreign: Literal["mark", "fail", "wait"]
    abort_on_failure_rate: float | None
    abort_on_saturation: bool
    gate: str | Sequence[str]
    id: str | None
    allow_api_nodes: bool


class LoadArguments(SharedArguments, total=False):
    """The arguments of `load_scenario` beside the workflow."""

    groups: Mapping[str, Mapping[str, Any]] | None
    users: int | Sequence[tuple[Seconds, int]] | None
    iterations: int | None
    shared_iterations: int | None
    duration: Seconds | None
    burst: int | None
    rate: str | Sequence[tuple[Seconds, str]] | None
    arrival: Literal["constant", "poisson"]
    trace: str | PathLike[str] | None
    window: str | None
    speed: float | None
    max_in_flight: int | None
    think_time: Seconds | tuple[Seconds, Seconds] | DistributionSpec
    preset: Literal["smoke", "load", "stress", "spike", "soak", "breakpoint"] | None
    drain: Seconds | None


class RunLoad(Protocol):
    """The fixture `run_load`: runs a load now, with the arguments of `load_scenario`."""

    def __call__(self, workflow: _Workflow = None, **arguments: Unpack[LoadArguments]) -> LoadResult:
        """Run the load and return what came of it; the test fails where the load is no measurement."""


class RunAB(Protocol):
    """The fixture `run_ab`: B against A, in interleaved pairs of runs."""

    def __call__(
        self,
        workflow: _Workflow = None,
        *,
        A: Mapping[str, Any],
        B: Mapping[str, Any],
        pairs: int = 8,
        **arguments: Unpack[LoadArguments],
    ) -> ABResult:
        """Run so many pairs; `A` and `B` are what each side has of its own of the arguments of `load_scenario`."""


class FindCapacity(Protocol):
    """The fixture `find_capacity`: the largest load under which an SLO holds."""

    def __call__(
        self,
        workflow: _Workflow = None,
        *,
        slo: str,
        budget: Seconds = "45m",
        arrival: Literal["poisson", "users"] = "poisson",
        think_time: Seconds = 0,
        people: Mapping[str, Any] | None = None,
        **arguments: Unpack[SharedArguments],
    ) -> Capacity:
        """Search for the load: prompts per minute, users or people.

        Args:
            workflow: As `load_scenario` takes it.
            slo: Such as "total_time.p95 < 60", seconds.
            budget: Time of the servers that the search may take: seconds, or "45m".
            arrival: "poisson" for prompts per minute, "users" for users.
            think_time: The users' pause before the next prompt: seconds, or "45s".
            people: What one person does, such as {"images_per_day": 10}, for a number of people.
            arguments: Of `load_scenario`.
        """
