"""Facts about a run besides its outcomes: its servers, GPUs and settings, and the accounting of prompts."""

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

# How load arrives: the names of the executors.
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
    """A stall of the generator, from `at` to `end` on the run's clock; `length` is in wall seconds."""

    at: float
    end: float
    length: float


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts about a run besides its outcomes. Times are in seconds of the run's clock; lags are in wall seconds.

    Args:
        servers: The URLs that prompts were sent to.
        loop_lag: The p99 of the event loop's lag.
        must_run: The node classes that every prompt must execute.
        silent_ooms: Retries for lack of memory in the servers' logs; None if no server exposes its log.
        workers: The URLs of the workers, if `servers` are balancers; usage is then that of the workers.
        gpu_sources: For each server, a line about the source of its GPU samples.
        gpu_facts: What these sources reported before the load.
        load: The shape of the load, without what is sent.
        parameters: Those of the parametrized test.
        gate: The figure by which runs are compared.
        subject: What is sent: the constant inputs, by `class.input`.
        server_facts: Facts about the servers, or about the workers if those are known.
        executors: How load arrived, by executor name, one for each group.
        balance: How servers were chosen for users.
        repetition: Which repetition of the same load it is, such as `attempt 2`.
        nodes: By workflow, how many nodes of each class are executed.
        worst_loop_lag: The greatest lag of the event loop.
        stalls: The stalls that were longer than `max_send_lag`.
        gates: All figures by which runs are compared; empty if `gate` is the only one.
        cold_starts: Wall seconds of each start of the servers that were launched for the run.
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

    # Why prompts are missing: one of several generators was lost.
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
    """The place of a run in an A/B comparison: `comparison` is the id that all of its runs share, `pair` counts from 1.

    `labels` describe the servers of A and of B; None if both sides use the same.
    """

    comparison: str
    title: str
    side: Literal["A", "B"]
    pair: int
    labels: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class GeneratorFacts:
    """One of several processes that generated a load. Counts are of prompts, times in wall seconds.

    `done` counts prompts with an outcome; `submitted` also those that were lost with the process. `send_lag` is its
    p99. `round_trip` is the shortest between the process and the controller, by which its clock was set. `lost` says
    why the process was lost, if it was.
    """

    name: str
    submitted: int
    done: int
    send_lag: float | None
    round_trip: float
    lost: str | None = None


@dataclass(frozen=True, slots=True)
class Accounting:
    """Counts of measured prompts: intended = submitted + dropped, and submitted = the sum over all statuses."""

    intended: int
    submitted: int
    by_status: Mapping[OutcomeStatus, int]

    @property
    def dropped(self) -> int:
        return self.intended - self.submitted

    def check(self) -> None:
        """Check that the counts add up. Raises: GeneratorError if the generator lost a prompt or counted one twice."""
        if self.submitted != sum(self.by_status.values()) or self.dropped < 0:
            ended = ", ".join(f"{count} {status}" for status, count in self.by_status.items())
            raise GeneratorError(
                f"the counts do not add up: {self.intended} intended, {self.submitted} submitted, ended: {ended}"
            )


# The version of a custom node pack that is installed, but does not report one.
UNKNOWN = "version unknown"


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a server. `name` is torch's full description; `memory` is in bytes, None if it is not reported."""

    name: str
    type: str
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Facts about a server.

    `flags` are its command line without the program, `system` is its machine's os.name. `custom_nodes` has the commit
    or version of each pack that the server reports, empty if that is unknown.
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
            # Other devices on which torch holds memory may change between runs, so runs are compared by the first.
            devices=tuple(map(_device, own_devices(stats.raw)[:1])),
            custom_nodes=custom_nodes,
        )


def custom_node(pack: str) -> str:
    """Return the name of a custom node pack in lists of what differs between runs."""
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
    """Facts about a GPU; None if the source does not report them.

    `server` and `gpu` are as in its samples; `gpu` is the UUID if it has one. `memory` is in bytes, `power_limit` in W.
    `driver` is the full version, `550.54.15`; `cuda` the newest version that this driver supports, `12.4`. `mig` says
    whether the card is partitioned.
    """

    server: str
    gpu: str
    name: str = ""
    memory: float | None = None
    driver: str | None = None
    cuda: str | None = None
    power_limit: float | None = None
    mig: bool | None = None
