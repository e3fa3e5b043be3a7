"""What is known of a run besides its outcomes: its servers, GPUs and settings, and the accounting of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_comfyload.errors import GeneratorError
from pytest_comfyload.protocol.json_values import finite
from pytest_comfyload.protocol.system_stats import SystemStats, own_devices
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.result.telemetry import GpuSample, UsageSample

__all__ = [
    "UNKNOWN",
    "Accounting",
    "Device",
    "ExecutorName",
    "GeneratorFacts",
    "GpuFacts",
    "RunFacts",
    "ServerFacts",
    "Stall",
    "custom_node",
]

# How load arrives, by the names of the executors.
ExecutorName = Literal[
    "per-user iterations",
    "shared iterations",
    "constant users",
    "ramping users",
    "burst",
    "constant arrival rate",
    "ramping arrival rate",
    "recorded arrivals",
]


@dataclass(frozen=True, slots=True)
class Stall:
    """The generator stalled from `at` to `end` (run's clock), for `length` wall seconds."""

    at: float
    end: float
    length: float


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run besides its outcomes. Times are seconds of the run's clock; lags are wall seconds.

    `silent_ooms`: retries for lack of memory in the servers' logs; None where no server shows its log.
    `gpu_sources`: a line for each server, which source told of its GPUs; `gpu_facts`: what it told before the load.
    `executors`: how load arrived, by name, one for each group. `balance`: how servers were chosen for users.
    `workers`: the URLs of those behind the balancer that `servers` are; the usage is theirs then.
    `loop_lag`: its p99, `worst_loop_lag`: the greatest; `stalls`: those longer than `max_send_lag`.
    `load`: the shape of the load, without what is sent; `parameters`: those of the test; `gate`: the figure that is
    compared from run to run, `gates`: all of them; `subject`: what is sent, the constant inputs by `class.input`;
    `server_facts`: of the servers, or of the workers where those are known. `repetition`: which time the same
    load ran, `attempt 2`. `nodes`: by workflow, how many of each class are executed. `cold_starts`: wall seconds of
    each start of the servers that were launched for the run.
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
    cold_starts: tuple[float, ...] = ()

    # Why prompts are missing: a generator of several was lost.
    incomplete: str | None = None
    generators: tuple[GeneratorFacts, ...] = ()
    half: ABHalf | None = None

    @property
    def simulated(self) -> bool:
        return self.time_scale is not None

    @property
    def all_gates(self) -> tuple[str, ...]:
        return self.gates or (self.gate,)


@dataclass(frozen=True, slots=True)
class ABHalf:
    """Which run of an A/B comparison one is: `comparison` is common to all of its runs, `pair` counts from 1.

    `labels`: what the server of each side is, where that differs.
    """

    comparison: str
    title: str
    side: Literal["A", "B"]
    pair: int
    labels: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class GeneratorFacts:
    """One of several processes that sent a load: prompts, and wall seconds.

    `done`: those with an outcome; `submitted` also counts those that were lost with it. `send_lag`: its p99.
    `round_trip`: the shortest between it and the controller, by which its clock was set. `lost`: why it was lost.
    """

    name: str
    submitted: int
    done: int
    send_lag: float | None
    round_trip: float
    lost: str | None = None


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
                f"the counts do not add up: {self.intended} intended, {self.submitted} submitted, ended: {ended}"
            )


# Of a custom node pack that is there.
UNKNOWN = "version unknown"


@dataclass(frozen=True, slots=True)
class Device:
    """`name` is torch's whole word for it; `memory` in bytes; None where the server does not tell."""

    name: str
    type: str
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """`flags` are its command line without the program. `system` is os.name of its machine. `custom_nodes`: commit or
    version by pack, empty where that is unknown; those that it tells of.
    """

    url: str
    comfyui: str
    torch: str
    python: str
    system: str
    flags: tuple[str, ...]
    devices: tuple[Device, ...]
    custom_nodes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def told_by(cls, url: str, stats: SystemStats, custom_nodes: Mapping[str, str]) -> ServerFacts:
        system: dict[str, Any] = stats.raw["system"]
        return cls(
            url=url,
            comfyui=stats.version,
            torch=_word(system.get("pytorch_version")),
            python=_word(system.get("python_version")).partition(" ")[0],
            system=_word(system.get("os")),
            flags=stats.argv[1:],
            # In which others torch holds memory may change from run to run: two runs are compared by the first.
            devices=tuple(map(_device, own_devices(stats.raw)[:1])),
            custom_nodes=custom_nodes,
        )


def custom_node(pack: str) -> str:
    """Return what a custom node pack is called among the things that users compare."""
    return f"custom node {pack}"


def _device(device: Mapping[str, Any]) -> Device:
    memory = finite(device.get("vram_total"))
    return Device(
        _word(device.get("name")),
        _word(device.get("type")),
        memory,
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """`server` and `gpu` as in its samples, `gpu` its UUID where it has one; None is what the source does not tell.

    memory: bytes. driver: the whole version, `550.54.15`. cuda: the newest version that this driver serves, `12.4`.
    power_limit: W. mig: whether the card is cut into slices.
    """

    server: str
    gpu: str
    name: str = ""
    memory: float | None = None
    driver: str | None = None
    cuda: str | None = None
    power_limit: float | None = None
    mig: bool | None = None
