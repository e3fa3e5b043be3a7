"""Selection of GPUs by what a user wrote, by CUDA_VISIBLE_DEVICES, or by what a local server reports about itself.

Pure functions: `devices` is always the list from NVML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.gpu.nvml_devices import NoGpus, NvmlDevice, short, to_watch
from pytest_comfyload.protocol.json_values import finite
from pytest_comfyload.protocol.system_stats import SystemStats, own_devices

__all__ = ["chosen", "gpus_of_server", "visible_devices"]

_VISIBLE = "CUDA_VISIBLE_DEVICES"
# CUDA shows less memory than NVML, by up to this share: the driver reserves it for itself.
_KEPT = 0.08
_KINDS = ("GPU-", "MIG-")
# ComfyUI's flags: the only GPUs that it may see, and the GPU that comes first.
_ONLY, _FIRST = "--cuda-device", "--default-device"
_MOST_GPUS = 32
# A process works on a GPU if it uses more than this many times its smallest memory, which is a mere context.
_CONTEXTS = 2


def chosen(devices: Sequence[NvmlDevice], wanted: Sequence[str] | None) -> tuple[NvmlDevice, ...]:
    """Return the devices that `wanted` names: UUIDs, prefixes or numbers; None means all. Raises: UsageError."""
    if wanted is None:
        return to_watch(devices)
    return tuple(dict.fromkeys(_chosen(devices, word) for word in wanted))


def visible_devices(environment: Mapping[str, str], devices: Sequence[NvmlDevice]) -> tuple[NvmlDevice, ...] | NoGpus:
    """Return the devices visible to a CUDA process with this environment, in CUDA's order, up to an unknown name."""
    words = environment.get(_VISIBLE)
    if words is None:
        return to_watch(devices)
    if any(word.strip().isdecimal() for word in words.split(",")) and not _numbers_are_sure(environment, devices):
        return NoGpus(
            f"{_VISIBLE}={words} counts the fastest GPU first unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set too; "
            "set it, or name the GPUs by UUID",
            tuple(devices),
        )
    return _seen(words, devices)


def gpus_of_server(
    stats: SystemStats,
    devices: Sequence[NvmlDevice],
    *,
    pid: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[NvmlDevice, ...] | NoGpus:
    """Return the devices that a ComfyUI server on this machine works on, by its /system_stats.

    `pid`: the server's process, if known. `environment`: the environment it was started with. Without these, devices
    are matched by name and memory, and several similar GPUs are ambiguous unless the server lists them all: the result
    is then NoGpus with these as candidates. A context on a device does not count as work.
    """
    shown = [entry for entry in own_devices(stats.raw) if entry.get("type") == "cuda"]
    if not shown:
        return NoGpus(f"the server runs on {', '.join(stats.devices) or 'nothing'}, not on an NVIDIA GPU")
    if working := _working(pid, devices):
        return working
    known = _environment(stats, environment)
    visible = visible_devices(known or {}, devices)
    if isinstance(visible, NoGpus):
        return _by_likeness(shown, to_watch(devices))
    numbered = [device for entry in shown for device in _numbered(entry, visible)]
    all_listed = len(stats.raw["devices"]) == len(visible)
    if (known is not None or all_listed) and _numbers_are_sure(known or {}, devices) and len(numbered) == len(shown):
        return tuple(numbered)
    return _by_likeness(shown, visible)


# --- words -----------------------------------------------------------------------------------------------------------


def _chosen(devices: Sequence[NvmlDevice], word: str) -> NvmlDevice:
    found = _named(devices, word)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{word!r} begins the UUIDs of {len(found)} GPUs ({_listed(found)}); write more of it")
    raise UsageError(f"no GPU {word!r} on this machine; it has {nearest(word, map(_label, devices))}")


def _named(devices: Sequence[NvmlDevice], word: str) -> list[NvmlDevice]:
    if word.isdecimal():
        return [device for device in devices if device.card is None and device.index == int(word)]
    exact = [device for device in devices if device.uuid == word]
    return exact or [device for device in devices if word[:4] in _KINDS and device.uuid.startswith(word)]


def _seen(words: str, devices: Sequence[NvmlDevice]) -> tuple[NvmlDevice, ...]:
    seen: list[NvmlDevice] = []
    for word in words.split(","):
        found = _named(devices, word.strip())
        if len(found) != 1:
            break
        # With MIG, CUDA computes only on slices, and the number of a card means its first slice.
        slices = [device for device in devices if device.card == found[0].uuid]
        seen.append((slices or found)[0])
    return tuple(dict.fromkeys(seen))


def _numbers_are_sure(environment: Mapping[str, str], devices: Sequence[NvmlDevice]) -> bool:
    """Return whether CUDA numbers GPUs as NVML does: by PCI bus instead of the fastest first."""
    alike = len({device.name for device in devices if device.card is None}) < 2
    return alike or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"


def _label(device: NvmlDevice) -> str:
    number = f"{device.index} = " if device.card is None else ""
    return f"{number}{short(device.uuid)} ({device.name})"


def _listed(devices: Sequence[NvmlDevice]) -> str:
    return ", ".join(map(_label, devices))


# --- a server's own report -------------------------------------------------------------------------------------------


def _working(pid: int | None, devices: Sequence[NvmlDevice]) -> tuple[NvmlDevice, ...]:
    """Return the devices on which a process uses much more memory than its minimum, which is its CUDA context."""
    held = {
        device: process.memory or 0
        for device in to_watch([each for each in devices if any(process.pid == pid for process in each.processes)])
        for process in device.processes
        if process.pid == pid
    }
    context = min(held.values(), default=0)
    return tuple(device for device, memory in held.items() if len(held) == 1 or memory > _CONTEXTS * context)


def _environment(stats: SystemStats, environment: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return the environment, with the variable replaced by ComfyUI's flags; None if neither is known."""
    flags = dict(zip(stats.argv, stats.argv[1:], strict=False))
    if _ONLY in flags:
        return {**(environment or {}), _VISIBLE: flags[_ONLY]}
    if _FIRST in flags:
        others = (str(number) for number in range(_MOST_GPUS))
        return {**(environment or {}), _VISIBLE: ",".join(dict.fromkeys([flags[_FIRST], *others]))}
    return environment


def _numbered(entry: Mapping[str, Any], visible: Sequence[NvmlDevice]) -> list[NvmlDevice]:
    return [device for number, device in enumerate(visible) if number == entry.get("index") and _alike(device, entry)]


def _by_likeness(shown: Sequence[Mapping[str, Any]], devices: Sequence[NvmlDevice]) -> tuple[NvmlDevice, ...] | NoGpus:
    like = tuple(device for device in devices if any(_alike(device, entry) for entry in shown))
    names = ", ".join(str(entry.get("name")) for entry in shown)
    if len(like) == len(shown):
        return like
    if len(like) > len(shown):
        return NoGpus(f"the server's {names} may be any of {len(like)} GPUs here: {_listed(like)}", like)
    return NoGpus(f"the server runs on {names}, and this machine has {_listed(devices) or 'no GPU'}", tuple(devices))


def _alike(device: NvmlDevice, entry: Mapping[str, Any]) -> bool:
    """Compare with ComfyUI's report: `cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync`, and the memory CUDA shows."""
    name = re.sub(r"^cuda:\d+ | : \w+$", "", str(entry.get("name")))
    total = finite(entry.get("vram_total"))
    if device.memory_total is None or total is None:
        return name == device.name
    return name == device.name and (1 - _KEPT) * device.memory_total <= total <= device.memory_total
