"""The input and the result of the engine: what is sent where and when, and what it observed besides the outcomes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol, TypeAlias

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.protocol.bodies import OutputFile
from pytest_comfyload.protocol.server_clock import ClockStep
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import Stall
from pytest_comfyload.result.telemetry import UsageSample
from pytest_comfyload.scenario.executors import Executor, OpenExecutor
from pytest_comfyload.scenario.scenario import NO_PAUSE, ThinkTime

__all__ = ["Contents", "EngineReport", "Generators", "Group", "Plan", "Prompt", "PromptSource", "Share", "Show"]

# Fetched files with their bytes, or None where they were not fetched.
Contents: TypeAlias = Sequence[tuple[OutputFile, bytes | None]]
Show: TypeAlias = Callable[[Outcome, Contents], Coroutine[Any, Any, None]]


class Prompt(Protocol):
    """One prompt's own variation of a workflow: `needed` are the nodes that an output is made of, `fresh` those whose
    input is new, so that they must run.
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
    """Gives each iteration of each user its prompt: the same one for the same arguments."""

    def __call__(self, user: int, iteration: int) -> Prompt: ...
    def warm_up(self, number: int) -> Sequence[Prompt]:
        """Draw one prompt for each workflow and model of the source."""


@dataclass(frozen=True, slots=True)
class Group:
    """Users that are alike. `name` is None where there is but one group; `start` counts from the window's begin.

    `servers`: the places of those that they use among the plan's; None: all. `sockets`: "per_user", "shared", or None
    for what suits the load.
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
    """The part of one of `count` generators: every `count`-th arrival, or user, from `number` on."""

    number: int
    count: int

    def has(self, place: int) -> bool:
        return place % self.count == self.number


WHOLE = Share(0, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """Times are seconds of the run's clock. Warm-up prompts have negative iteration numbers.

    `max_send_lag`, in wall seconds: beyond it the generator was late, or stalled.
    `workers`: the ComfyUI servers behind the balancer that `servers` are, where they are known. `show`
    gets each outcome with the bytes of its files, after it was reported; it must not raise. `share`: what this
    process sends of it; where that is not all, another process watches the servers.
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
        """Return whether the group's users have one client together at each server.

        By default where no user stays, as in open loads; a balancer may keep all that share cookies at one worker.
        """
        if group.sockets is None:
            return isinstance(group.executor, OpenExecutor) and not self.workers
        return group.sockets == "shared"


class Generators(Protocol):
    """Other processes that send the prompts of a plan, each its share, in place of this one."""

    async def open(self, plan: Plan, clock: Clock) -> None:
        """Open the users that must stand ready. Raises: GeneratorError."""

    async def run(self, begin: float, report: Callable[[Outcome], None]) -> Sequence[EngineReport]:
        """Run the window from `begin` (run's clock) to its end, or until `stop`; `report` gets each outcome."""

    def stop(self) -> None:
        """Have all of them end soon, and leave the servers clean."""


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

    def add(self, others: Sequence[EngineReport]) -> None:
        """Add what other generators of the same load observed."""
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
