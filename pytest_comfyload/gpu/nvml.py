"""The GPUs of this machine as a source of samples, read through NVIDIA's own library."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml_choice import chosen
from pytest_comfyload.gpu.nvml_devices import GpuProcess, NoGpus, nvml_devices, short
from pytest_comfyload.gpu.nvml_facts import nvml_facts
from pytest_comfyload.gpu.nvml_watch import NvmlWatch
from pytest_comfyload.gpu.source import Keep, Now
from pytest_comfyload.metrics.units import format_value

__all__ = ["NvmlSource"]


class NvmlSource:
    """The GPUs of the server at `server`, ten samples a second of each.

    gpus: UUIDs, prefixes of them, or NVML's numbers; None means all of this machine.
    """

    def __init__(self, server: str, gpus: Sequence[str] | None = None) -> None:
        """Raises: UsageError, where NVML does not open or has no such GPU."""
        devices = nvml_devices()
        if isinstance(devices, NoGpus):
            raise UsageError(devices.reason)
        self.server = server
        self.devices = chosen(devices, gpus)
        self.facts = nvml_facts(server, self.devices)
        self._watch: NvmlWatch | None = None

    def __str__(self) -> str:
        return f"nvml:{','.join(short(device.uuid) for device in self.devices)}"

    @property
    def losses(self) -> tuple[str, ...]:
        """GPUs that were lost, and faults of their hardware, since the last watch began."""
        return self._watch.losses if self._watch else ()

    @property
    def processes(self) -> tuple[GpuProcess, ...]:
        """The processes with a context on these GPUs since the last watch began, with the most memory of each."""
        return self._watch.processes if self._watch else ()

    @property
    def company(self) -> tuple[str, ...]:
        """A sentence for each GPU on which others computed too; who uses most of its memory is taken for the server.

        A process with a context that was not seen to compute is not named: torch has one on every card it is asked of.
        """
        active = [each for each in self.processes if each.worked is not False]
        by_gpu = {device.uuid: [each for each in active if each.gpu == device.uuid] for device in self.devices}
        return tuple(_company(gpu, processes) for gpu, processes in by_gpu.items() if len(processes) > 1)

    @contextlib.asynccontextmanager
    async def watching(self, keep: Keep, now: Now) -> AsyncIterator[None]:
        """Raises on entering: UsageError, where a GPU no longer answers."""
        self._watch = watch = NvmlWatch(self.server, self.devices, keep, now)
        try:
            await watch.start()
            yield
        finally:
            await watch.stop()


def _company(gpu: str, processes: Sequence[GpuProcess]) -> str:
    _, *others = sorted(processes, key=lambda each: each.memory or 0, reverse=True)
    named = ", ".join(f"{each.pid} with {_memory(each.memory)}" for each in others)
    return f"not the server alone used {short(gpu)}: so did process {named}"


def _memory(held: int | None) -> str:
    return "memory that the driver hides" if held is None else format_value(held, "B")
