"""The GPUs of this machine, or the reason why there are none."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml_devices import GpuProcess, NoGpus, NvmlDevice, nvml_devices, short, to_watch
from tests.gpu.nvml_stub import SONAME, StubProcess, stub_process
from tests.gpu.watching import CARD_0, CARD_1, SLICE_0, SLICE_1, watched


def _listed(stub: StubProcess) -> tuple[NvmlDevice, ...]:
    devices = stub(nvml_devices)
    assert not isinstance(devices, NoGpus)
    return devices


def test_cards_are_listed_in_order_with_what_they_are(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetMemoryInfo@1 !3", "nvmlDeviceGetName@1 NVIDIA_GB10")
    assert _listed(stub) == (
        NvmlDevice(0, CARD_0, "NVIDIA Stub 4090", 24_000_000_000),
        NvmlDevice(1, CARD_1, "NVIDIA GB10", None),
    )


def test_who_computes_on_a_card(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetComputeRunningProcesses_v3@0 4711:1000000,815:-1")
    first, second = _listed(stub)
    assert first.processes == (GpuProcess(CARD_0, 4711, 1_000_000), GpuProcess(CARD_0, 815, None))
    assert second.processes == ()


def test_the_processes_of_an_older_driver(stub_without: Callable[..., StubProcess]) -> None:
    if not hasattr(importlib.import_module("pynvml"), "nvmlDeviceGetComputeRunningProcesses_v2"):
        pytest.skip("this version of nvidia-ml-py has no call for such a driver")
    old = stub_without("nvmlDeviceGetComputeRunningProcesses_v3")
    old.script("nvmlDeviceGetComputeRunningProcesses_v2 7:5")
    assert _listed(old)[0].processes == (GpuProcess(CARD_0, 7, 5),)


@pytest.mark.parametrize("error", ["!4", "!15", "!999"])
def test_a_card_that_does_not_answer_is_left_out(stub: StubProcess, error: str) -> None:
    stub.script(f"nvmlDeviceGetHandleByIndex_v2@0 {error}")
    assert [device.index for device in _listed(stub)] == [1]


def test_slices_follow_their_card(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetMaxMigDeviceCount@0 3", "nvmlDeviceGetMigDeviceHandleByIndex@0.2 !6")
    devices = _listed(stub)
    assert [(device.uuid, device.card) for device in devices] == [
        (CARD_0, None),
        (SLICE_0, CARD_0),
        (SLICE_1, CARD_0),
        (CARD_1, None),
    ]
    assert [device.uuid for device in to_watch(devices)] == [SLICE_0, SLICE_1, CARD_1]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (4, "/dev/nvidia"),
        (9, "not loaded"),
        (13, "too old"),
        (18, "another version"),
        (999, "Unknown Error; nvidia-smi"),
        (22, "An error of the stand-in; nvidia-smi"),
    ],
)
def test_why_nvml_does_not_open(stub: StubProcess, code: int, words: str) -> None:
    stub.script(f"nvmlInitWithFlags !{code}")
    none = stub(nvml_devices)
    assert isinstance(none, NoGpus)
    assert words in none.reason
    with pytest.raises(UsageError, match=words):
        stub(watched)


def test_a_machine_without_the_library(tmp_path: Path) -> None:
    (tmp_path / SONAME).touch()
    with stub_process(tmp_path) as bare:
        none = bare(nvml_devices)
    assert isinstance(none, NoGpus)
    assert "no NVIDIA driver" in none.reason


def test_a_python_without_the_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    none = nvml_devices()
    assert isinstance(none, NoGpus)
    assert "pip install nvidia-ml-py" in none.reason


def test_a_driver_without_gpus(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetCount_v2 0")
    none = stub(nvml_devices)
    assert isinstance(none, NoGpus)
    assert "no GPU answers" in none.reason


def test_a_driver_that_counts_no_gpus(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetCount_v2 !999")
    assert isinstance(stub(nvml_devices), NoGpus)


def test_a_short_uuid_still_names_the_gpu() -> None:
    assert short(CARD_1) == "GPU-00010000"
    assert short(SLICE_1) == "MIG-00000001"
    assert short("MIG-GPU-00000000-aaaa/1/0") == "MIG-GPU-00000000-aaaa/1/0"
