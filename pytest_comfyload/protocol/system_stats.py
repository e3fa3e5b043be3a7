"""A server's description of itself: version, flags, memory, the devices that it uses, and what is installed there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.errors import NotComfyUI
from pytest_comfyload.protocol.json_values import as_dict, as_list, finite, json_name, json_object, storable

__all__ = [
    "MOST_DEVICES",
    "SystemStats",
    "own_devices",
    "parse_custom_nodes",
    "parse_model_sizes",
    "parse_system_stats",
    "used_memory",
]

# Devices of one server: the largest machine has no more, even split into MIG instances.
MOST_DEVICES = 256


@dataclass(frozen=True, slots=True)
class SystemStats:
    """Content of /system_stats; `devices` are the names of those that the server uses.

    `time_scale`, in virtual seconds per second, is reported only by a simulated server.
    """

    version: str
    devices: tuple[str, ...]
    argv: tuple[str, ...]
    time_scale: float | None
    raw: Mapping[str, Any]


def parse_system_stats(body: object) -> SystemStats:
    """Parse the body of GET /system_stats. Raises: NotComfyUI."""
    stats = json_object(body, "GET /system_stats")
    system = stats.get("system")
    if not isinstance(system, dict) or not isinstance(stats.get("devices"), list):
        raise NotComfyUI("GET /system_stats answered without `system` and `devices`")
    scale = finite(as_dict(system.get("simulator")).get("time_scale"))
    return SystemStats(
        str(system.get("comfyui_version") or "unknown"),
        tuple(str(device.get("name")) for device in own_devices(stats)),
        tuple(map(str, as_list(system.get("argv")))),
        scale if scale is not None and scale > 0 else None,
        stats,
    )


def own_devices(stats: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the devices that the server uses: the first, and any others on which its torch has reserved memory.

    A server lists every device that torch can see; on an unused one it has a context at most. Raises: NotComfyUI.
    """
    devices = [device for device in as_list(stats.get("devices")) if isinstance(device, dict)]
    if len(devices) > MOST_DEVICES:
        raise NotComfyUI(f"GET /system_stats lists {len(devices)} devices, more than {MOST_DEVICES}")
    primary, *others = devices or [{}]
    working = (device for device in others if (finite(device.get("torch_vram_total")) or 0) > 0)
    return [device for device in (primary, *working) if device]


def used_memory(stats: SystemStats) -> tuple[float, float]:
    """Return the bytes in use of the machine's RAM and of the memory of the server's devices. Raises: NotComfyUI."""
    used = [_used(device, "vram") for device in own_devices(stats.raw)]
    ram, vram = _used(stats.raw["system"], "ram"), finite(sum(each for each in used if each is not None))
    if ram is None or vram is None or None in used:
        raise NotComfyUI("GET /system_stats answered without memory figures")
    return ram, vram


def _used(memory: Mapping[str, Any], kind: str) -> float | None:
    total, free = finite(memory.get(f"{kind}_total")), finite(memory.get(f"{kind}_free"))
    return None if total is None or free is None else finite(total - free)


# --- what is installed besides ComfyUI, from bodies that not every server sends ---------------------------------------

_COMMIT = re.compile(r"[0-9a-f]{40}")


def parse_custom_nodes(body: object) -> dict[str, str]:
    """Return the commit or version of each enabled pack by its folder's name, from ComfyUI-Manager's list.

    It is empty for packs whose version is unknown. Raises: NotComfyUI.
    """
    if not isinstance(body, dict):
        raise NotComfyUI(f"GET /customnode/installed answered with {json_name(body)} where a JSON object is expected")
    return {
        storable(name): _version(pack.get("ver"))
        for name, pack in body.items()
        if isinstance(pack, Mapping) and pack.get("enabled") is not False
    }


def parse_model_sizes(body: object) -> dict[str, int]:
    """Return the size in bytes of each file in a model folder, by name. Raises: NotComfyUI."""
    if not isinstance(body, list):
        raise NotComfyUI(f"GET /experiment/models answered with {json_name(body)} where a JSON list is expected")
    files = [file for file in body if isinstance(file, dict) and isinstance(file.get("name"), str)]
    return {storable(file["name"]): int(size) for file in files if (size := finite(file.get("size"))) is not None}


def _version(told: Any) -> str:
    if not isinstance(told, str) or told == "unknown":
        return ""
    return told[:7] if _COMMIT.fullmatch(told) else storable(told)
