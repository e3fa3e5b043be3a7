"""This machine's own GPUs for a server that runs on it, read through NVML."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml import NvmlSource
from pytest_comfyload.gpu.nvml_choice import gpus_of_server
from pytest_comfyload.gpu.nvml_devices import NoGpus, nvml_devices
from pytest_comfyload.protocol.bodies import SystemStats

__all__ = ["THIS_MACHINE", "all_gpus", "gpus_of", "is_local"]

# In the place of a server's URL.
THIS_MACHINE = "this machine"


def is_local(url: str) -> bool:
    """Whether a server's address is this machine's own; a tunnel's looks the same."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def gpus_of(server: str, stats: SystemStats, named: Sequence[str] = ()) -> NvmlSource:
    """Those that are named, else those that the server computes on. Raises: UsageError, where that cannot be told."""
    if named:
        return NvmlSource(server, named)
    devices = nvml_devices()
    found = devices if isinstance(devices, NoGpus) else gpus_of_server(stats, devices)
    if isinstance(found, NoGpus):
        raise UsageError(found.reason)
    return NvmlSource(server, [device.uuid for device in found])


def all_gpus() -> NvmlSource | None:
    """None where NVML shows no GPU."""
    try:
        return NvmlSource(THIS_MACHINE)
    except UsageError:
        return None
