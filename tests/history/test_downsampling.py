"""A thinned series is short and keeps its mean and its peaks; each GPU has a series of its own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.history.downsampling import thinned_gpu, thinned_usage
from pytest_comfyload.result.telemetry import GpuSample, UsageSample


@given(
    values=st.lists(st.tuples(st.floats(0.1, 2), st.floats(0, 100), st.floats(0, 1e11)), min_size=1, max_size=60),
    most=st.integers(1, 20),
)
def test_means_and_peaks_stay(values: list[tuple[float, float, float]], most: int) -> None:
    samples = [
        GpuSample("s", "g", float(place), span, utilization, memory)
        for place, (span, utilization, memory) in enumerate(values)
    ]
    thin = thinned_gpu(samples, most)
    assert len(thin) <= most
    assert thin[-1].time == samples[-1].time
    assert max(each.memory_used or 0 for each in thin) == max(memory for _, _, memory in values)
    assert _mean(thin) == pytest.approx(_mean(samples), abs=1e-6)


def _mean(samples: list[GpuSample] | tuple[GpuSample, ...]) -> float:
    spans = math.fsum(each.span for each in samples)
    return math.fsum((each.utilization or 0) * each.span for each in samples) / spans


def test_a_short_series_stays_as_it_is() -> None:
    samples = tuple(GpuSample("s", "g", float(time)) for time in range(5))
    assert thinned_gpu(samples, 5) == samples


def test_each_gpu_has_its_own_series() -> None:
    samples = [GpuSample("s", gpu, float(time), memory_used=time) for time in range(10) for gpu in ("a", "b")]
    thin = thinned_gpu(samples, 2)
    assert [(each.gpu, each.memory_used) for each in thin] == [("a", 4), ("a", 9), ("b", 4), ("b", 9)]


def test_what_was_not_told_stays_untold_and_every_reason_is_kept() -> None:
    reasons: list[tuple[str, ...] | None] = [None, ("power",), (), ("heat", "power")]
    (one,) = thinned_gpu([GpuSample("s", "g", 0.0, throttle=each) for each in reasons], 1)
    assert one.throttle == ("heat", "power")
    assert (one.utilization, one.memory_used, one.clock) == (None, None, None)
    (untold,) = thinned_gpu([GpuSample("s", "g", 0.0)] * 2, 1)
    assert untold.throttle is None


def test_of_memory_the_highest_is_kept() -> None:
    samples = [UsageSample("s", float(time), 5.0 - time, float(time)) for time in range(4)]
    assert thinned_usage(samples, 2) == (UsageSample("s", 1.0, 5.0, 1.0), UsageSample("s", 3.0, 3.0, 3.0))
