"""What a server says of itself: version, flags, memory, the devices that it works on, and what is installed there."""

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

# Of a server: those of the largest machine, cut into the most MIG instances.
MOST_DEVICES = 256


@dataclass(frozen=True, slots=True)
class SystemStats:
    """/system_stats; `devices` are the names of those that the server works on.

    `time_scale` is set by a simulated server only: virtual seconds per second.
    """

    version: str
    devices: tuple[str, ...]
    argv: tuple[str, ...]
    time_scale: float | None
    raw: Mapping[str, Any]


def parse_system_stats(body: object) -> SystemStats:
    """Raises: NotComfyUI."""
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
    """The devices of a /system_stats that the server works on: the first, and others in which its torch holds memory.

    A server lists every device that torch can see; on an idle one it has a context at most. Raises: NotComfyUI.
    """
    devices = [device for device in as_list(stats.get("devices")) if isinstance(device, dict)]
    if len(devices) > MOST_DEVICES:
        raise NotComfyUI(f"GET /system_stats lists {len(devices)} devices, more than {MOST_DEVICES}")
    primary, *others = devices or [{}]
    working = (device for device in others if (finite(device.get("torch_vram_total")) or 0) > 0)
    return [device for device in (primary, *working) if device]


def used_memory(stats: SystemStats) -> tuple[float, float]:
    """RAM of the machine and memory in use of the devices that the server works on, in bytes. Raises: NotComfyUI."""
    used = [_used(device, "vram") for device in own_devices(stats.raw)]
    ram, vram = _used(stats.raw["system"], "ram"), finite(sum(each for each in used if each is not None))
    if ram is None or vram is None or None in used:
        raise NotComfyUI("GET /system_stats answered without memory figures")
    return ram, vram


def _used(memory: Mapping[str, Any], kind: str) -> float | None:
    total, free = finite(memory.get(f"{kind}_total")), finite(memory.get(f"{kind}_free"))
    return None if total is None or free is None else finite(total - free)


# --- what is installed beside ComfyUI, from bodies that not every server sends ----------------------------------------

_COMMIT = re.compile(r"[0-9a-f]{40}")


def parse_custom_nodes(body: object) -> dict[str, str]:
    """ComfyUI-Manager's list: by the name of its folder, the commit or version of each pack that is enabled; empty
    where it does not know one. Raises: NotComfyUI.
    """
    if not isinstance(body, dict):
        raise NotComfyUI(f"GET /customnode/installed answered with {json_name(body)} where a JSON object is expected")
    return {
        storable(name): _version(pack.get("ver"))
        for name, pack in body.items()
        if isinstance(pack, Mapping) and pack.get("enabled") is not False
    }


def parse_model_sizes(body: object) -> dict[str, int]:
    """Bytes of each file in a folder of models, by its name there. Raises: NotComfyUI."""
    if not isinstance(body, list):
        raise NotComfyUI(f"GET /experiment/models answered with {json_name(body)} where a JSON list is expected")
    files = [file for file in body if isinstance(file, dict) and isinstance(file.get("name"), str)]
    return {storable(file["name"]): int(size) for file in files if (size := finite(file.get("size"))) is not None}


def _version(told: Any) -> str:
    if not isinstance(told, str) or told == "unknown":
        return ""
    return told[:7] if _COMMIT.fullmatch(told) else storable(told)
