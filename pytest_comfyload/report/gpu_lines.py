"""What the terminal summary says of a run's GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_comfyload.result.checks import format_value

__all__ = ["gpu_lines"]


def gpu_lines(run: Mapping[str, Any]) -> Iterator[str]:
    """Nothing where nothing was told; a line for all GPUs, one for each where there are several."""
    gpu: Mapping[str, Any] = run.get("gpu") or {}
    output = run.get("delivers", "images").removesuffix("s")
    if parts := [*_work(gpu, output), *_strain(gpu)]:
        yield f"GPU: {' · '.join(parts)}"
    if memory := _memory(gpu, run.get("server") or {}):
        yield memory
    for name, device in gpu.get("devices", {}).items():
        used = [f"VRAM peak {_vram(device)}"] if "memory_used" in device else []
        if parts := [*_work(device, output), *used, *_strain(device)]:
            yield f"  {name}: {' · '.join(parts)}"


def _work(gpu: Mapping[str, Any], output: str) -> Iterator[str]:
    if utilization := gpu.get("utilization"):
        busy = (
            f" ({format_value(utilization['busy_mean'], '%')} while prompts ran)" if "busy_mean" in utilization else ""
        )
        yield f"utilization {format_value(utilization['mean'], '%')}{busy}"
    if power := gpu.get("power"):
        yield f"power {format_value(power['mean'], 'W')}"
    if "per_image" in (energy := gpu.get("energy", {})):
        source = "" if energy["source"] == "counter" else f" (by {energy['source']})"
        yield f"{format_value(energy['per_image'], 'J')} per {output}{source}"


def _strain(gpu: Mapping[str, Any]) -> Iterator[str]:
    if temperature := gpu.get("temperature"):
        yield f"max {format_value(temperature['max'], '°C')}"
    if throttled := gpu.get("throttled"):
        reasons = ", ".join(
            f"{name} {format_value(share, '%')}" for name, share in throttled.get("reasons", {}).items()
        )
        yield f"throttled {format_value(throttled['percent'], '%')}" + (f" ({reasons})" if reasons else "")


def _memory(gpu: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    """The card's figure, and ComfyUI's own: both are right, and they differ."""
    if "memory_used" not in gpu:
        return ""
    own = server.get("vram_used")
    # ComfyUI's is the sum of a server's devices: of several GPUs it is not the same thing.
    if not own or "devices" in gpu or "utilization" not in gpu:
        return f"VRAM: peak {_vram(gpu)}"
    said = format_value(own["max"], "B")
    return f"VRAM: peak {_vram(gpu)}; ComfyUI says {said}: it counts what torch keeps for later use as free"


def _vram(gpu: Mapping[str, Any]) -> str:
    share = f" ({format_value(gpu['vram']['peak'], '%')})" if "vram" in gpu else ""
    return f"{format_value(gpu['memory_used']['peak'], 'B')}{share}"
