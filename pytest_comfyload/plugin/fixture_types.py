"""Types of the callable fixtures, for annotations: editors complete their arguments, and type checkers check them.

They repeat the signature of `load_scenario`, since a type checker cannot read arguments from a table.
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

# Seconds, or a string such as "30s" or "10m".
Seconds = float | str
_Workflow = str | PathLike[str] | Mapping[str, Any] | None


class SharedArguments(TypedDict, total=False):
    """The arguments of `load_scenario` that do not determine when prompts are sent."""

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
    """The arguments of `load_scenario` other than the workflow."""

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
        """Run the load and return its result; the test fails if the load is invalid."""


class RunAB(Protocol):
    """The fixture `run_ab`: compares B with A in interleaved pairs of runs."""

    def __call__(
        self,
        workflow: _Workflow = None,
        *,
        A: Mapping[str, Any],
        B: Mapping[str, Any],
        pairs: int = 8,
        **arguments: Unpack[LoadArguments],
    ) -> ABResult:
        """Run this many pairs; `A` and `B` are the arguments of `load_scenario` that are specific to each side."""


class FindCapacity(Protocol):
    """The fixture `find_capacity`: finds the largest load under which an SLO is met."""

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
        """Search for the largest load, as prompts per minute, users or people.

        Args:
            workflow: As in `load_scenario`.
            slo: The SLO, such as "total_time.p95 < 60"; times are in seconds.
            budget: Server time that the search may take: seconds, or a string such as "45m".
            arrival: "poisson" to find prompts per minute, "users" to find a number of users.
            think_time: The users' pause before the next prompt: seconds, or a string such as "45s".
            people: What one person does, such as {"images_per_day": 10}, to find a number of people.
            arguments: Further arguments of `load_scenario`.
        """
