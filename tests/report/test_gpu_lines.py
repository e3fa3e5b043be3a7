"""What the summary says about GPUs: the figures that were reported, and nothing about the others."""

from __future__ import annotations

from typing import Any

from pytest_comfyload.report.terminal import gpu_lines

GIB = 1024**3
GPU: dict[str, Any] = {
    "utilization": {"mean": 83.1, "p95": 100.0, "max": 100.0, "busy_mean": 94.4},
    "vram": {"peak": 76.0, "mean": 60.0},
    "memory_used": {"peak": 18.2 * GIB, "mean": 15.0 * GIB},
    "temperature": {"max": 71.0, "mean": 65.0},
    "power": {"mean": 310.0, "max": 440.0},
    "energy": {"joules": 12000.0, "per_image": 1200.0, "source": "counter"},
    "throttled": {"percent": 12.5, "reasons": {"sw_power_cap": 12.5, "sw_thermal": 3.0}},
}
SERVER = {"vram_used": {"max": 15.1 * GIB, "mean": 12.0 * GIB}}


def _lines(gpu: dict[str, Any], server: dict[str, Any] = SERVER) -> list[str]:
    return list(gpu_lines({"gpu": gpu, "server": server}))


def test_all_of_one_gpu() -> None:
    assert _lines(GPU) == [
        "GPU: utilization 83.1 % (94.4 % while prompts ran) · power 310 W · 1200 J per image · max 71 °C · "
        "throttled 12.5 % (sw_power_cap 12.5 %, sw_thermal 3 %)",
        "VRAM: peak 18.2 GiB (76 %); ComfyUI says 15.1 GiB: it counts what torch keeps for later use as free",
    ]


def test_memory_alone_is_comfyuis_own_figure() -> None:
    memory = {name: GPU[name] for name in ("vram", "memory_used")}
    assert _lines(memory) == ["VRAM: peak 18.2 GiB (76 %)"]


def test_several_gpus_have_a_line_each() -> None:
    device = {name: GPU[name] for name in ("utilization", "memory_used", "temperature")}
    lines = _lines(GPU | {"devices": {"GPU-1": device, "GPU-2": {}}})
    assert lines[1:] == [
        "VRAM: peak 18.2 GiB (76 %)",
        "  GPU-1: utilization 83.1 % (94.4 % while prompts ran) · VRAM peak 18.2 GiB · max 71 °C",
    ]


def test_energy_by_power_says_so_and_what_was_not_told_is_not_there() -> None:
    energy = {"energy": {"joules": 1.0, "per_image": 2.0, "source": "power"}, "utilization": {"mean": 5.0}}
    assert _lines(energy, {}) == ["GPU: utilization 5 % · 2 J per image (by power)"]
    assert _lines({}) == []
    assert list(gpu_lines({})) == []
