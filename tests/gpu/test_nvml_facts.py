"""What NVML reports about the driver and the settings of its cards, and what it does not report."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_comfyload.gpu.nvml import nvml_facts
from pytest_comfyload.gpu.nvml_devices import NoGpus, nvml_devices, to_watch
from pytest_comfyload.result.run_facts import GpuFacts
from tests.gpu.nvml_stub import StubProcess, opens
from tests.gpu.watching import CARD_0, CARD_1, SLICE_0

SERVER = "http://gpu1:8188"


def _facts() -> tuple[GpuFacts, ...]:
    devices = nvml_devices()
    assert not isinstance(devices, NoGpus)
    return nvml_facts(SERVER, to_watch(devices))


def test_cards_with_their_driver_and_power_limit(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetEnforcedPowerLimit@1 300500", "nvmlSystemGetCudaDriverVersion_v2 13000")
    name = "NVIDIA Stub 4090"
    assert stub(_facts) == (
        GpuFacts(SERVER, CARD_0, name, 24e9, "550.54.15", "13.0", 450.0, None),
        GpuFacts(SERVER, CARD_1, name, 24e9, "550.54.15", "13.0", 300.5, None),
    )
    assert stub(opens)[0] == 0


def test_a_slice_has_the_limit_and_the_mode_of_its_card(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetMaxMigDeviceCount@0 1", "nvmlDeviceGetMigMode@0 1", "nvmlDeviceGetMigMode@1 0")
    first, second = stub(_facts)
    assert (first.gpu, first.mig, first.power_limit) == (SLICE_0, True, 450.0)
    assert (second.gpu, second.mig) == (CARD_1, False)


@pytest.mark.parametrize(
    ("silent", "told"),
    [
        ("nvmlSystemGetDriverVersion !3", (None, "12.4", 450.0)),
        ("nvmlSystemGetCudaDriverVersion_v2 !999", ("550.54.15", None, 450.0)),
        ("nvmlDeviceGetEnforcedPowerLimit !3", ("550.54.15", "12.4", 450.0)),
        ("nvmlDeviceGetEnforcedPowerLimit !15", ("550.54.15", "12.4", None)),
        ("nvmlInitWithFlags = !9", (None, None, None)),
    ],
)
def test_what_is_not_told_is_absent(
    stub: StubProcess, silent: str, told: tuple[str | None, str | None, float | None]
) -> None:
    stub.script(silent)
    facts = stub(_facts)[0]
    assert (facts.driver, facts.cuda, facts.power_limit) == told
    assert facts.gpu == CARD_0


def test_an_old_driver_has_fewer_questions(stub_without: Callable[..., StubProcess]) -> None:
    old = stub_without("nvmlSystemGetCudaDriverVersion_v2", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetMigMode")
    facts = old(_facts)[0]
    assert (facts.driver, facts.cuda, facts.power_limit, facts.mig) == ("550.54.15", None, 450.0, None)
