"""What a server says of itself before a load: its programs, its flags, the device that it computes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.protocol.bodies import SystemStats, own_devices
from pytest_comfyload.protocol.messages import finite

__all__ = ["UNKNOWN", "Device", "ServerFacts", "custom_node"]

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
    """What a custom node pack is called among the things that users compare."""
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
