"""GPUs are recognised by DCGM's metric names and by ours, and their values are converted to a sample's units."""

from __future__ import annotations

import pytest

from pytest_comfyload.gpu.prometheus import OWN, OWN_INFO, OWN_POWER_LIMIT, OWN_THROTTLED, Card, cards_of, parse_metrics
from pytest_comfyload.result.run_facts import GpuFacts
from pytest_comfyload.result.telemetry import reasons_of
from tests.gpu.exporter import DCGM

MIB = 1024**2
FIRST, SECOND = "GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52", "GPU-9d3a1f52-0b1e-4c8b-a1e1-5b6d6f3a7a11"


def _cards(text: str) -> list[Card]:
    return cards_of(parse_metrics(text))


def test_what_dcgm_tells() -> None:
    first, second = _cards(DCGM)
    assert (first.gpu, first.index, first.title, first.xid) == (FIRST, "0", "NVIDIA GeForce RTX 4090", 0)
    assert first.values == {
        "utilization": 96.25,
        "memory_used": 18000 * MIB,
        "memory_total": (18000 + 6144 + 420) * MIB,
        "temperature": 71.0,
        "power": 412.547,
        "energy": pytest.approx(78951253.482),
        "clock": 2520.0,
        "throttle": ("sw_power_cap", "sw_thermal"),
    }
    # What the exporter does not report for a card is absent; an idle card is not throttled.
    assert second.gpu == SECOND
    assert second.values["utilization"] == 3.0
    assert "energy" not in second.values
    assert second.values["throttle"] == ()


def test_what_our_own_exporter_tells() -> None:
    label = 'uuid="GPU-1",name="NVIDIA H100"'
    lines = [f"{name.metric}{{{label}}} {number}" for number, name in enumerate(OWN, 1)]
    lines += [f'{OWN_THROTTLED}{{{label},reason="{reason}"}} {on}' for reason, on in (("b", 1), ("a", 1), ("c", 0))]
    (card,) = _cards("\n".join(lines))
    assert (card.gpu, card.title) == ("GPU-1", "NVIDIA H100")
    assert card.values == {
        "utilization": 1.0,
        "memory_used": 2.0,
        "memory_total": 3.0,
        "temperature": 4.0,
        "power": 5.0,
        "energy": 6.0,
        "clock": 7e-6,
        "throttle": ("a", "b"),
    }


def test_what_a_card_is() -> None:
    name, memory = "NVIDIA GeForce RTX 4090", (18000 + 6144 + 420) * MIB
    first = _cards(DCGM)[0].facts("http://gpu1")
    assert first == GpuFacts("http://gpu1", FIRST, name, memory, driver="550.54.15")
    labels = 'gpu="0",UUID="GPU-1"'
    (limited,) = _cards(f"DCGM_FI_DEV_POWER_MGMT_LIMIT{{{labels}}} 450.000\n")
    assert limited.facts("s") == GpuFacts("s", "GPU-1", power_limit=450.0)
    (own,) = _cards(f'{OWN_INFO}{{uuid="GPU-1",driver="570.1"}} 1\n{OWN_POWER_LIMIT}{{uuid="GPU-1"}} 300')
    assert own.facts("s") == GpuFacts("s", "GPU-1", driver="570.1", power_limit=300.0)


def test_newer_names_blanks_and_nan() -> None:
    (card,) = _cards(
        """
DCGM_FI_DEV_FB_TOTAL{UUID="GPU-1",gpu="3"} 1024
DCGM_FI_DEV_FB_USED{UUID="GPU-1",gpu="3"} 512
DCGM_FI_DEV_FB_FREE{UUID="GPU-1",gpu="3"} 500
DCGM_FI_DEV_GPU_TEMP{UUID="GPU-1",gpu="3"} 9223372036854775792
DCGM_FI_DEV_POWER_USAGE{UUID="GPU-1",gpu="3"} NaN
DCGM_FI_DEV_CLOCKS_EVENT_REASONS{UUID="GPU-1",gpu="3"} 64
DCGM_FI_DEV_XID_ERRORS{UUID="GPU-1",gpu="3"} 79
DCGM_FI_DEV_SM_CLOCK 100
"""
    )
    assert (card.index, card.xid) == ("3", 79)
    assert card.values == {"memory_total": 1024 * MIB, "memory_used": 512 * MIB, "throttle": ("hw_thermal",)}


def test_parts_of_a_card_are_gpus_of_their_own() -> None:
    line = 'DCGM_FI_DEV_FB_USED{{gpu="0",UUID="GPU-1",GPU_I_PROFILE="1g.5gb",GPU_I_ID="{}"}} 1'
    assert [card.gpu for card in _cards(f"{line.format(7)}\n{line.format(8)}")] == ["GPU-1/7", "GPU-1/8"]


def test_nothing_is_made_of_other_metrics() -> None:
    assert _cards('node_load1 0.5\nprocess_cpu_seconds_total{gpu="0"} 3\n') == []


def test_a_card_is_named_by_uuid_or_number() -> None:
    first, second = _cards(DCGM)
    assert first.is_one_of(["0"])
    assert first.is_one_of([SECOND, FIRST])
    assert not second.is_one_of(["0", FIRST])


def test_idle_and_set_clocks_are_no_throttling() -> None:
    assert reasons_of(0x1 | 0x2 | 0x100) == ()
    assert reasons_of(0xFC) == (
        "sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "hw_power_brake"
    )  # fmt: skip
