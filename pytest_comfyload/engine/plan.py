"""Input and result of the engine: what is sent where and when, and what was observed in addition to the outcomes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol, TypeAlias

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.protocol.outputs import OutputFile
from pytest_comfyload.protocol.server_clock import ClockStep
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import Stall
from pytest_comfyload.result.telemetry import UsageSample
from pytest_comfyload.scenario.executors import Executor, OpenExecutor
from pytest_comfyload.scenario.scenario import NO_PAUSE, ThinkTime

__all__ = ["Contents", "EngineReport", "Generators", "Group", "Plan", "Prompt", "PromptSource", "Share", "Show"]

# Output files with their bytes, or None if they were not fetched.
Contents: TypeAlias = Sequence[tuple[OutputFile, bytes | None]]
Show: TypeAlias = Callable[[Outcome, Contents], Coroutine[Any, Any, None]]


class Prompt(Protocol):
    """One prompt's variant of a workflow.

    `needed` are the nodes on which an output depends, and `fresh` those whose input is new, so that they must run.
    """

    @property
    def workflow(self) -> str: ...
    @property
    def graph(self) -> Mapping[str, Any]: ...
    @property
    def fresh(self) -> frozenset[str]: ...
    @property
    def needed(self) -> frozenset[str]: ...
    @property
    def seeds(self) -> Mapping[str, int]: ...
    @property
    def text(self) -> str | None: ...
    @property
    def inputs(self) -> Mapping[str, Any]: ...
    @property
    def extra_data(self) -> Mapping[str, Any]: ...


class PromptSource(Protocol):
    """The source of the prompt for each iteration of each user, always the same for the same arguments."""

    def __call__(self, user: int, iteration: int) -> Prompt: ...
    def warm_up(self, number: int) -> Sequence[Prompt]:
        """Return one prompt for each workflow and model of the source."""


@dataclass(frozen=True, slots=True)
class Group:
    """Users of the same kind.

    `name` is None if there is only one group. `start` is relative to the start of the window. `servers` are the places
    of the group's servers among those of the plan; None for all. `sockets` is "per_user", "shared", or None to choose
    by the kind of load.
    """

    name: str | None
    executor: Executor
    prompts: PromptSource
    timeout: float
    think_time: ThinkTime = NO_PAUSE
    start: float = 0.0
    queue_timeout: float | None = None
    sockets: str | None = None
    fetch: bool = True
    servers: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one of `count` generators: every `count`-th arrival, or user, starting at `number`."""

    number: int
    count: int

    def has(self, place: int) -> bool:
        return place % self.count == self.number


WHOLE = Share(0, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the engine runs. Times are seconds of the run's clock. Warm-up prompts have negative iteration numbers.

    `max_send_lag` is the lag, in wall seconds, beyond which the generator was late or has stalled. `workers` are the
    ComfyUI servers behind the balancer at `servers`, if they are known. `show` is called with each outcome and the
    bytes of its files after it was reported, and must not raise. `share` is the part that this process sends; if that
    is not all, another process watches the servers.
    """

    run_id: str
    servers: tuple[ServerAddress, ...]
    groups: tuple[Group, ...]
    seed: int
    warmup: int = 1
    drain: float = 300.0
    balance: str = "least_queue"
    abort_on_failure_rate: float | None = None
    abort_on_saturation: bool = False
    workers: tuple[ServerAddress, ...] = ()
    show: Show | None = None
    max_send_lag: float = 0.1
    share: Share = WHOLE

    def places(self, group: Group) -> tuple[int, ...]:
        """Return the places of the group's servers."""
        return tuple(range(len(self.servers))) if group.servers is None else group.servers

    def shares_sockets(self, group: Group) -> bool:
        """Return whether the group's users share one client for each server.

        By default they do in open loads, whose users do not persist, unless the servers are balancers, which may send
        all users that share cookies to the same worker.
        """
        if group.sockets is None:
            return isinstance(group.executor, OpenExecutor) and not self.workers
        return group.sockets == "shared"


class Generators(Protocol):
    """Other processes that send the prompts of a plan instead of this one, each its share."""

    async def open(self, plan: Plan, clock: Clock) -> None:
        """Open the users that must be ready at the start. Raises: GeneratorError."""

    async def run(self, begin: float, report: Callable[[Outcome], None]) -> Sequence[EngineReport]:
        """Run the window from `begin` (run's clock) to its end or until `stop`, and report each outcome."""

    def stop(self) -> None:
        """Make all generators end soon and clean up the servers."""


@dataclass(slots=True)
class EngineReport:
    """The engine's observations. The window is in seconds of the run's clock, lags are in wall seconds.

    `aborted` says why the run was stopped early, and `invalid` why it says nothing about the server. `marked` adds to
    an outcome what was learned since it was reported: foreign prompts in the queue, or a server's clock that was set.
    `clock_steps` are the steps of servers' clocks, by URL, which show as contradictory timestamps.
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

    def add(self, others: Sequence[EngineReport]) -> None:
        """Add the observations of other generators of the same load."""
        marks = [self.marked, *(other.marked for other in others)]
        self.intended += sum(other.intended for other in others)
        self.dropped += sum(other.dropped for other in others)
        self.loop_lag = max(self.loop_lag, *(other.loop_lag for other in others))
        self.worst_loop_lag = max(self.worst_loop_lag, *(other.worst_loop_lag for other in others))
        self.stalls = tuple(sorted((*self.stalls, *(stall for other in others for stall in other.stalls)), key=_at))
        for other in others:
            for url, steps in other.clock_steps.items():
                self.clock_steps = {**self.clock_steps, url: (*self.clock_steps.get(url, ()), *steps)}
        self.aborted = self.aborted or next(filter(None, (other.aborted for other in others)), None)
        self.invalid = self.invalid or next(filter(None, (other.invalid for other in others)), None)
        self.marked = lambda outcome: reduce(lambda marked, mark: mark(marked), reversed(marks), outcome)

    @property
    def submitted(self) -> int:
        return self.intended - self.dropped


def _at(stall: Stall) -> float:
    return stall.at
