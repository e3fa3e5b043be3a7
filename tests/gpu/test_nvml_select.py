"""The selection of GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml_devices import GpuProcess, NoGpus, NvmlDevice
from pytest_comfyload.gpu.nvml_select import chosen, gpus_of_server, visible_devices
from pytest_comfyload.protocol.system_stats import SystemStats, parse_system_stats

RTX_4090, RTX_3060 = "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3060"
BIG, SMALL = 25_757_220_864, 12_884_901_888

A = NvmlDevice(0, "GPU-aaaa0000-1", RTX_4090, BIG)
B = NvmlDevice(1, "GPU-aaaa1111-2", RTX_4090, BIG)
C = NvmlDevice(2, "GPU-cccc0000-3", RTX_3060, SMALL)
H = NvmlDevice(0, "GPU-dddd0000-4", "NVIDIA H100", 85_000_000_000)
H0 = NvmlDevice(0, "MIG-11110000-5", "NVIDIA H100 MIG 1g.10gb", 10_000_000_000, H.uuid)
H1 = NvmlDevice(0, "MIG-22220000-6", "NVIDIA H100 MIG 1g.10gb", 10_000_000_000, H.uuid)
TWINS, MIXED, CUT = (A, B), (A, B, C), (H, H0, H1)


def _stats(
    *names: str, total: int = 25_393_692_672, kind: str = "cuda", argv: tuple[str, ...] = (), working: int = 1
) -> SystemStats:
    """Return the stats of a server that lists these devices and uses the first `working` of them."""
    devices = [
        {
            "name": f"cuda:{number} {name} : cudaMallocAsync",
            "type": kind,
            "index": number,
            "vram_total": total,
            "torch_vram_total": total if number < working else 0,
        }
        for number, name in enumerate(names)
    ]
    return parse_system_stats({"system": {"argv": ["main.py", *argv]}, "devices": devices})


def _reason(found: object) -> str:
    assert isinstance(found, NoGpus)
    return found.reason


# --- by the user's option --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, MIXED),
        (["2"], (C,)),
        (["GPU-c"], (C,)),
        ([B.uuid, "0", "GPU-aaaa1"], (B, A)),
        ([], ()),
    ],
)
def test_chosen(wanted: list[str] | None, expected: tuple[NvmlDevice, ...]) -> None:
    assert chosen(MIXED, wanted) == expected


def test_of_a_card_that_is_cut_up_all_means_its_slices() -> None:
    assert chosen(CUT, None) == (H0, H1)
    assert chosen(CUT, ["0", "MIG-2"]) == (H, H1)


@pytest.mark.parametrize("word", ["3", "GPU-b", "GPU-cccc0000-3x", "", "c", "gpu-cccc0000-3", "-1"])
def test_a_gpu_that_is_not_there_names_those_that_are(word: str) -> None:
    with pytest.raises(UsageError, match=r"GPU-cccc0000 \(NVIDIA GeForce RTX 3060\)") as error:
        chosen(MIXED, [word])
    assert repr(word) in str(error.value)


def test_a_prefix_of_several_gpus() -> None:
    with pytest.raises(UsageError, match=r"'GPU-aaaa' begins the UUIDs of 2 GPUs .*GPU-aaaa0000.*GPU-aaaa1111"):
        chosen(MIXED, ["GPU-aaaa"])


# --- by CUDA_VISIBLE_DEVICES -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("1,0", (B, A)),
        (" 1 , 0", (B, A)),
        ("", ()),
        ("-1", ()),
        ("1,-1,0", (B,)),
        ("7,0", ()),
        ("GPU-aaaa1111,GPU-aaaa0", (B, A)),
        ("GPU-aaaa", ()),
        ("GPU-", ()),
        ("nonsense", ()),
    ],
)
def test_visible_devices(words: str, expected: tuple[NvmlDevice, ...]) -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": words}, TWINS) == expected


def test_without_the_variable_everything_is_visible() -> None:
    assert visible_devices({}, MIXED) == MIXED
    assert visible_devices({}, CUT) == (H0, H1)


def test_numbers_of_unlike_cards_need_cudas_order() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "2"}
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in _reason(visible_devices(environment, MIXED))
    assert visible_devices({**environment, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, MIXED) == (C,)
    assert visible_devices({"CUDA_VISIBLE_DEVICES": C.uuid}, MIXED) == (C,)


def test_slices_are_visible_by_uuid_and_the_first_by_its_cards_number() -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": H1.uuid}, CUT) == (H1,)
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "0"}, CUT) == (H0,)


# --- by the server's own report --------------------------------------------------------------------------------------


def test_one_card_like_the_servers() -> None:
    assert gpus_of_server(_stats(RTX_3060, total=12_600_000_000), MIXED) == (C,)
    assert gpus_of_server(_stats(RTX_4090), (A, C)) == (A,)


def test_several_cards_like_the_servers() -> None:
    found = gpus_of_server(_stats(RTX_4090), MIXED)
    assert "may be any of 2 GPUs here: 0 = GPU-aaaa0000" in _reason(found)
    assert isinstance(found, NoGpus)
    assert found.candidates == TWINS


def test_a_server_that_works_on_all_of_them() -> None:
    assert gpus_of_server(_stats(RTX_4090, RTX_4090, working=2), MIXED) == TWINS


@pytest.mark.parametrize("count", [2, 8])
def test_a_server_that_lists_every_card_works_on_the_first(count: int) -> None:
    cards = tuple(replace(A, index=index, uuid=f"GPU-{index}") for index in range(count))
    names = [RTX_4090] * count
    assert gpus_of_server(_stats(*names), cards) == cards[:1]
    assert gpus_of_server(_stats(*names, working=2), cards) == cards[:2]
    assert gpus_of_server(_stats(*names, argv=("--default-device", "1")), cards) == cards[1:2]
    # If the server lists fewer GPUs than there are, its first one may be any of them.
    assert isinstance(gpus_of_server(_stats(*names[1:]), cards), NoGpus)
    assert isinstance(gpus_of_server(_stats(RTX_4090, RTX_4090, RTX_3060), MIXED), NoGpus)


@pytest.mark.parametrize("count", [2, 8])
def test_a_context_is_no_work(count: int) -> None:
    pid, context, model = 4711, 500_000_000, 12_000_000_000
    cards = tuple(
        replace(A, index=index, uuid=f"GPU-{index}", processes=(GpuProcess(f"GPU-{index}", pid, held),))
        for index, held in enumerate([context] * (count - 1) + [model])
    )
    stats = _stats(*[RTX_4090] * count)
    assert gpus_of_server(stats, cards, pid=pid) == cards[-1:]
    # Before a model is loaded there are only contexts: the first device that the server lists is the one it uses.
    unloaded = tuple(replace(card, processes=cards[0].processes) for card in cards)
    assert gpus_of_server(stats, unloaded, pid=pid) == unloaded[:1]
    hidden = tuple(replace(card, processes=(GpuProcess(card.uuid, pid, None),)) for card in cards)
    assert gpus_of_server(stats, hidden, pid=pid) == hidden[:1]


@pytest.mark.parametrize(
    "stats",
    [
        _stats("NVIDIA GeForce RTX 4090 D"),
        _stats("NVIDIA GeForce RTX 40"),
        _stats("AMD Radeon RX 7900 XTX"),
        _stats(RTX_4090, total=50_000_000_000),
        _stats(RTX_4090, total=12_000_000_000),
    ],
)
def test_no_card_like_the_servers(stats: SystemStats) -> None:
    assert "this machine has 0 = GPU-aaaa0000" in _reason(gpus_of_server(stats, MIXED))


def test_memory_that_is_not_told_leaves_the_name() -> None:
    unified = replace(A, name="NVIDIA GB10", memory_total=None)
    assert gpus_of_server(_stats("NVIDIA GB10"), (unified,)) == (unified,)


def test_a_server_without_a_gpu() -> None:
    cpu: dict[str, Any] = {"system": {}, "devices": [{"name": "cpu", "type": "cpu", "index": None}]}
    assert _reason(gpus_of_server(parse_system_stats(cpu), MIXED)) == ("the server runs on cpu, not on an NVIDIA GPU")


def test_the_servers_process_decides() -> None:
    busy = replace(B, processes=(GpuProcess(B.uuid, 4711, 1),))
    assert gpus_of_server(_stats(RTX_4090), (A, busy), pid=4711) == (busy,)
    assert isinstance(gpus_of_server(_stats(RTX_4090), (A, busy), pid=815), NoGpus)
    sliced = replace(H1, processes=(GpuProcess(H1.uuid, 9, 1),))
    whole = replace(H, processes=(GpuProcess(H.uuid, 9, 1),))
    assert gpus_of_server(_stats(H1.name), (whole, H0, sliced), pid=9) == (sliced,)


def test_the_servers_environment_decides() -> None:
    stats = _stats(RTX_4090)
    assert gpus_of_server(stats, TWINS, environment={"CUDA_VISIBLE_DEVICES": "1"}) == (B,)
    assert gpus_of_server(stats, TWINS, environment={"CUDA_VISIBLE_DEVICES": "1,0"}) == (B,)
    assert gpus_of_server(stats, TWINS, environment={}) == (A,)
    assert gpus_of_server(stats, MIXED, environment={"CUDA_VISIBLE_DEVICES": B.uuid}) == (B,)


def test_the_servers_own_flag_decides() -> None:
    flagged = _stats(RTX_4090, argv=("--cuda-device", "1"))
    assert gpus_of_server(flagged, TWINS) == (B,)
    assert gpus_of_server(flagged, TWINS, environment={"CUDA_VISIBLE_DEVICES": "0"}) == (B,)


def test_numbers_that_cuda_may_count_otherwise_are_not_believed() -> None:
    swapped = (replace(A, index=0, name=RTX_3060), replace(B, index=1, name=RTX_3060), replace(C, name=RTX_4090))
    fits_all = _stats(RTX_3060, total=25_000_000_000)
    assert isinstance(gpus_of_server(fits_all, swapped, environment={}), NoGpus)
    assert isinstance(gpus_of_server(fits_all, swapped, environment={"CUDA_VISIBLE_DEVICES": "1"}), NoGpus)
    sure = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert gpus_of_server(fits_all, swapped, environment=sure) == (swapped[1],)
