"""Samples are kept in bounded memory, and their totals survive thinning."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.gpu.collector import GpuCollector, merged
from pytest_comfyload.result.gpu_usage import GpuUsage
from pytest_comfyload.result.telemetry import REASONS, GpuSample

PERCENT = st.floats(0, 100)
SAMPLES = st.lists(
    st.tuples(
        st.floats(0.01, 5), PERCENT, PERCENT, PERCENT, PERCENT, st.floats(0, 50), st.sets(st.sampled_from(REASONS))
    ),
    min_size=1,
    max_size=60,
)


def _samples(made: list[tuple[float, float, float, float, float, float, set[str]]]) -> list[GpuSample]:
    time, energy, samples = 0.0, 0.0, []
    for span, utilization, memory, temperature, power, used, throttle in made:
        time, energy = time + span, energy + used
        samples.append(
            GpuSample(
                "http://a", "GPU-1", time, span, utilization, memory, 100.0, temperature, power, energy, 1000.0,
                tuple(sorted(throttle)),
            )
        )  # fmt: skip
    return samples


@given(SAMPLES.map(_samples), st.integers(8, 12))
def test_means_peaks_energy_and_throttling_survive(samples: list[GpuSample], most: int) -> None:
    collector = GpuCollector(most)
    for sample in samples:
        collector.keep(sample)
    assert len(collector.samples) <= most
    whole = (0.0, samples[-1].time)
    before, after = GpuUsage(samples, whole), GpuUsage(collector.samples, whole)
    for quantity in ("utilization", "power", "clock"):
        assert float(getattr(after, quantity).mean) == pytest.approx(float(getattr(before, quantity).mean))
        assert float(getattr(after, quantity).max) == pytest.approx(float(getattr(before, quantity).max))
    assert float(after.temperature.max) == float(before.temperature.max)
    assert float(after.memory_used.peak) == float(before.memory_used.peak)
    assert float(after.memory_used.mean) >= float(before.memory_used.mean) - 1e-9
    assert float(after.energy) == pytest.approx(float(before.energy), nan_ok=True)
    assert float(after.throttled) == pytest.approx(float(before.throttled))
    for reason in REASONS:
        assert float(after.throttled.reasons[reason]) == pytest.approx(float(before.throttled.reasons[reason]))
    assert math.fsum(each.span for each in collector.samples) == pytest.approx(samples[-1].time)


def test_what_one_does_not_tell_the_other_tells() -> None:
    both = merged(
        GpuSample("s", "g", 1.0, 1.0, power=100.0), GpuSample("s", "g", 2.0, 1.0, temperature=50.0, throttle=("x",))
    )
    assert (both.time, both.span, both.power, both.temperature, both.throttle) == (2.0, 2.0, 100.0, 50.0, ("x",))
    assert both.utilization is None


def test_each_gpu_of_each_server_has_its_own_room() -> None:
    collector = GpuCollector(8)
    for time in range(100):
        for server in ("http://a", "http://b"):
            collector.keep(GpuSample(server, "cuda:0", float(time), 1.0, utilization=50.0))
    assert {each.server for each in collector.samples} == {"http://a", "http://b"}
    assert len(collector.samples) <= 16
    assert [each.time for each in collector.samples] == sorted(each.time for each in collector.samples)


def test_samples_may_come_from_any_thread() -> None:
    collector = GpuCollector(1000)

    def keep(gpu: str) -> None:
        for time in range(200):
            collector.keep(GpuSample("s", gpu, float(time), 1.0))

    threads = [threading.Thread(target=keep, args=(f"{number % 2}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(collector.samples) == 800
