"""Which GPUs launched servers get, and what a run reports about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml_devices import NoGpus, NvmlDevice
from pytest_comfyload.launch.workspace import ServerState
from pytest_comfyload.run import launching
from pytest_comfyload.run.launching import LaunchRequest, RunLaunches, gpu_specs, split_arguments
from tests.launch.fake_installation import installation

ONE, TWO = "http://127.0.0.1:20001", "http://127.0.0.1:20002"
CARDS = (
    NvmlDevice(0, "GPU-a", "NVIDIA L4", None),
    NvmlDevice(1, "GPU-b", "NVIDIA A100", None),
    NvmlDevice(1, "MIG-b1", "NVIDIA A100 MIG 1g.5gb", None, card="GPU-b"),
)


@pytest.mark.parametrize(
    ("devices", "visible", "expected"),
    [
        (CARDS, None, ("GPU-a", "MIG-b1")),
        (CARDS, "GPU-a", ("GPU-a",)),
        (CARDS[:1], "0", ("GPU-a",)),
        (NoGpus("no driver"), None, ("",)),
    ],
)
def test_each_visible_gpu_has_a_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: tuple[NvmlDevice, ...] | NoGpus,
    visible: str | None,
    expected: tuple[str, ...],
) -> None:
    monkeypatch.setattr(launching, "nvml_devices", lambda: devices)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert LaunchRequest(installation(tmp_path)).plan(()).devices == expected


def test_numbers_of_unlike_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "nvml_devices", lambda: CARDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with pytest.raises(
        UsageError, match="the GPU of each launched server cannot be determined: CUDA_VISIBLE_DEVICES=1"
    ):
        LaunchRequest(installation(tmp_path)).plan(())


def test_a_node_is_given_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    request = LaunchRequest(installation(tmp_path / "ComfyUI"), nodes=(str(tmp_path / "a"), str(tmp_path / "a")))
    with pytest.raises(UsageError, match="two custom nodes have the same name a"):
        request.check()


def test_the_source_of_each_gpu_is_known() -> None:
    specs = gpu_specs([ServerState(ONE, "GPU-a", ""), ServerState(TWO, "", "")])
    assert [(url, spec.kind, spec.gpus) for url, spec in specs.items()] == [(ONE, "nvml", ("GPU-a",))]


def test_a_run_tells_of_its_own_servers_and_its_own_time() -> None:
    before = [ServerState(ONE, "", "one.log", (5.0, 6.0), ("exited with status 1",)), ServerState(TWO, "", "", (7.0,))]
    after = [
        ServerState(ONE, "", "one.log", (5.0, 6.0, 8.0), ("exited with status 1", "was killed by signal 9")),
        ServerState(TWO, "", "", (7.0, 9.0), ("was killed by signal 9",)),
    ]
    launches = RunLaunches.of([ONE], before, after)
    assert launches.cold_starts == (6.0, 8.0)
    assert launches.notes == (
        f"{ONE} was killed by signal 9 during the run and was restarted in 8.0 s; its log: one.log",
    )
    assert RunLaunches.of([ONE], before, before).notes == ()


def test_one_that_did_not_come_back() -> None:
    before, after = (
        ServerState(ONE, "", "a.log", (5.0,)),
        ServerState(ONE, "", "a.log", (5.0,), ("exited with status 1",)),
    )
    (note,) = RunLaunches.of([ONE], [before], [after]).notes
    assert note == f"{ONE} exited with status 1 during the run, and was not restarted by its end; its log: a.log"


def test_other_servers_have_none() -> None:
    assert RunLaunches.of([ONE], [], []) == RunLaunches({}, {})


def test_arguments_as_in_a_shell() -> None:
    assert split_arguments("--cpu --output 'a b'") == ("--cpu", "--output", "a b")
