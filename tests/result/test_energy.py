"""The energy that a GPU used over a window."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.result.gpu_usage import energy_of
from pytest_comfyload.result.telemetry import GpuSample


def _counter(*readings: tuple[float, float | None]) -> list[GpuSample]:
    return [GpuSample("s", "g", time, 1.0, energy=energy) for time, energy in readings]


def test_the_counter_at_the_windows_edges() -> None:
    samples = _counter((0.0, 1000.0), (10.0, 2000.0), (20.0, 4000.0))
    assert energy_of(samples, math.nan, (5.0, 15.0)) == (1500.0, "counter")


def test_a_window_beyond_the_looks_goes_on_as_it_was() -> None:
    assert energy_of(_counter((1.0, 0.0), (9.0, 800.0)), 7.0, (0.0, 10.0)) == (1000.0, "counter")


@pytest.mark.parametrize(
    "samples",
    [
        _counter(),
        _counter((5.0, 100.0)),
        _counter((0.0, 100.0), (10.0, 5.0)),  # the driver was reloaded
        _counter((0.0, None), (10.0, None)),
        _counter((20.0, 1.0), (30.0, 2.0)),
    ],
)
def test_else_the_power_over_the_window(samples: list[GpuSample]) -> None:
    assert energy_of(samples, 300.0, (0.0, 10.0)) == (3000.0, "power")
    assert energy_of(samples, math.nan, (0.0, 10.0)) is None


@given(st.lists(st.floats(0, 500), min_size=3, max_size=30), st.floats(0.05, 0.95))
def test_two_halves_of_a_window_add_up(powers: list[float], cut: float) -> None:
    energy, samples = 0.0, _counter((0.0, 0.0))
    for second, power in enumerate(powers, 1):
        energy += power
        samples += _counter((float(second), energy))
    end = float(len(powers))
    parts = [energy_of(samples, math.nan, window) for window in ((0.0, cut * end), (cut * end, end), (0.0, end))]
    joules = [part[0] for part in parts if part is not None]
    assert joules[0] + joules[1] == pytest.approx(joules[2], abs=1e-6)
    assert joules[2] == pytest.approx(energy, abs=1e-6)
