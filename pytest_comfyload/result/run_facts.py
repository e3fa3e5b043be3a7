"""What is known of a run besides its outcomes, and the accounts that they must balance with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_comfyload.errors import GeneratorError
from pytest_comfyload.result.gpu_facts import GpuFacts
from pytest_comfyload.result.gpu_sample import GpuSample
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.result.server_facts import ServerFacts
from pytest_comfyload.result.server_usage import UsageSample

__all__ = ["Accounting", "ExecutorName", "RunFacts", "Stall"]

# How load arrives, by the names of the executors.
ExecutorName = Literal[
    "per-user iterations",
    "shared iterations",
    "constant users",
    "ramping users",
    "burst",
    "constant arrival rate",
    "ramping arrival rate",
]


@dataclass(frozen=True, slots=True)
class Stall:
    """The generator stood still from `at` to `end` (run's clock), for `length` wall seconds."""

    at: float
    end: float
    length: float


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run besides its outcomes. Times are seconds of the run's clock; lags are wall seconds.

    `silent_ooms`: retries for want of memory in the servers' logs; None where no server shows its log.
    `gpu_sources`: a line for each server, which source told of its GPUs; `gpu_facts`: what it told before the load.
    `executors`: how load arrived, by name, one for each group. `balance`: how servers were chosen for users.
    `workers`: the URLs of those behind the balancer that `servers` are; the usage is theirs then.
    `loop_lag`: its p99, `worst_loop_lag`: the greatest; `stalls`: those longer than `max_send_lag`.
    `load`: the shape of the load, without what is sent; `parameters`: those of the test; `gate`: the figure that is
    compared from run to run, `gates`: all of them; `subject`: what is sent, the constant inputs by `class.input`;
    `server_facts`: of the servers, or of the workers where those are known. `repetition`: which time the same
    load ran, `attempt 2`. `nodes`: by workflow, how many of each class are executed.
    """

    run_id: str
    title: str
    scenario: str
    workflow: str
    servers: tuple[str, ...]
    seed: int
    epoch: float
    window: tuple[float, float]
    time_scale: float | None
    intended: int
    submitted: int
    loop_lag: float
    max_send_lag: float
    allow_cached: bool = False
    open_load: bool = False
    invalid: str | None = None
    notes: tuple[str, ...] = ()
    server_versions: tuple[str, ...] = ()
    must_run: tuple[str, ...] = ()
    silent_ooms: int | None = None
    server_usage: tuple[UsageSample, ...] = ()
    workers: tuple[str, ...] = ()
    gpu_sources: tuple[str, ...] = ()
    gpu_usage: tuple[GpuSample, ...] = ()
    gpu_facts: tuple[GpuFacts, ...] = ()
    load: str = ""
    parameters: str = ""
    gate: str = "generation_time.p50"
    subject: Mapping[str, Any] = field(default_factory=dict)
    server_facts: tuple[ServerFacts, ...] = ()
    executors: tuple[str, ...] = ()
    balance: str = "least_queue"
    repetition: str = ""
    nodes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    worst_loop_lag: float = 0.0
    stalls: tuple[Stall, ...] = ()
    gates: tuple[str, ...] = ()

    @property
    def simulated(self) -> bool:
        return self.time_scale is not None

    @property
    def all_gates(self) -> tuple[str, ...]:
        return self.gates or (self.gate,)


@dataclass(frozen=True, slots=True)
class Accounting:
    """intended = submitted + dropped, submitted = the sum over every way to end; of measured prompts."""

    intended: int
    submitted: int
    by_status: Mapping[OutcomeStatus, int]

    @property
    def dropped(self) -> int:
        return self.intended - self.submitted

    def check(self) -> None:
        """Raises: GeneratorError if a prompt was lost by us or counted twice."""
        if self.submitted != sum(self.by_status.values()) or self.dropped < 0:
            ended = ", ".join(f"{count} {status}" for status, count in self.by_status.items())
            raise GeneratorError(
                f"the accounts do not balance: {self.intended} intended, {self.submitted} submitted, ended: {ended}"
            )
