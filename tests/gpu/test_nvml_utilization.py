"""Every sample of the driver counts exactly once, however the driver returns them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.gpu.nvml_reader import mean_of_new
from tests.gpu.nvml_stub import StubProcess
from tests.gpu.watching import watched

steps = st.lists(st.tuples(st.integers(1, 1_000_000), st.floats(0, 100)), min_size=1, max_size=40)


@given(steps, st.lists(st.integers(1, 7), max_size=40), st.integers(0, 5))
def test_however_samples_are_cut_up_and_repeated_each_counts_once(
    steps: list[tuple[int, float]], cuts: list[int], overlap: int
) -> None:
    begin = stamp = 10_000_000
    samples = [(stamp := stamp + step, value) for step, value in steps]
    seen, at, busy, span, count = begin, 0, 0.0, 0.0, 0
    for cut in [*cuts, len(samples)]:
        batch = samples[max(0, at - overlap) : at + cut]
        fresh = len(samples[at : at + cut])
        at += cut
        new = mean_of_new([*batch, (0, 99.0)], seen)
        assert (new is None) == (fresh == 0)
        if new is not None:
            seen, busy, span, count = new.latest, busy + new.mean * fresh, span + new.span, count + fresh
    assert count == len(samples)
    assert busy == pytest.approx(sum(value for _, value in samples))
    assert span == pytest.approx((stamp - begin) / 1e6)


def test_a_sample_after_a_gap_does_not_speak_of_the_gap() -> None:
    new = mean_of_new([(60_000_000, 100.0), (60_200_000, 20.0), (70_000_000, 30.0)], seen=1)
    assert new is not None
    assert (new.mean, new.span) == (50.0, 2.2)


def test_samples_that_the_driver_repeats(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetSamples 100000:10 100000:10,300000:20,500000:40 300000:20,500000:40 500000:40,600000:90")
    samples = stub(watched, 4).samples
    assert [(sample.utilization, round(sample.span, 6)) for sample in samples[:4]] == [
        (30.0, 0.4),
        (None, 0.0),
        (90.0, 0.1),
        (None, 0.0),
    ]


def test_a_sample_that_comes_in_the_middle_of_the_question_counts_at_the_next(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetSamples 100000:10 200000:30|300000:50 200000:30,300000:50 !6")
    samples = stub(watched, 3).samples
    assert [(sample.utilization, round(sample.span, 6)) for sample in samples[:3]] == [
        (None, 0.0),
        (40.0, 0.2),
        (None, 0.0),
    ]


def test_no_sample_yet_is_no_zero(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetSamples !6 !6 !6 100000:10 200000:20", "nvmlDeviceGetUtilizationRates 77")
    samples = stub(watched, 4).samples
    assert [sample.utilization for sample in samples[:4]] == [77.0, 77.0, 77.0, 20.0]


@pytest.mark.parametrize("error", ["!2", "!3", "!4", "!13"])
def test_the_rate_speaks_of_the_time_since_the_last_reading(stub: StubProcess, error: str) -> None:
    stub.script(f"nvmlDeviceGetSamples {error}", "nvmlDeviceGetUtilizationRates 70 80 90")
    samples = stub(watched, 3).samples
    assert [sample.utilization for sample in samples[:3]] == [70.0, 80.0, 90.0]
    for before, after in pairwise(samples):
        assert after.span == pytest.approx(after.time - before.time)


def test_a_driver_without_samples(stub_without: Callable[..., StubProcess]) -> None:
    assert stub_without("nvmlDeviceGetSamples")(watched, 2).samples[-1].utilization == 50.0


def test_a_card_that_tells_neither(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetSamples !3", "nvmlDeviceGetUtilizationRates !3")
    sample = stub(watched, 2).samples[1]
    assert sample.utilization is None
    assert sample.span > 0
    assert sample.power == 250.5
