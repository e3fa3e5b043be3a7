"""The interval of a mean over time covers the truth about as often as it claims, despite dependent samples."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator

import pytest

from pytest_comfyload.metrics.time_series import Point, block_interval, no_interval_because

MINUTE = (100.0, 160.0)
ALL = [(0.0, 1000.0)]


def _every_second(values: list[float], start: float = 100.0) -> list[Point]:
    return [Point(start + number + 1, 1.0, value) for number, value in enumerate(values)]


def test_it_is_students_interval_of_ten_block_means() -> None:
    means = [50.0, 60.0, 70.0, 40.0, 55.0, 65.0, 45.0, 52.0, 58.0, 61.0]
    points = _every_second([mean for mean in means for _ in range(6)])
    interval = block_interval(points, MINUTE, ALL)
    assert interval is not None
    reach = 1.833 * statistics.stdev(means) / math.sqrt(10)
    centre = statistics.fmean(means)
    assert interval == pytest.approx((centre - reach, centre + reach), abs=0.01)


def test_a_sample_counts_in_each_block_by_its_span() -> None:
    whole = block_interval(_every_second([float(second % 7) for second in range(60)]), MINUTE, ALL)
    halves = [
        Point(point.time - half, 0.5, point.value)
        for point in _every_second([float(second % 7) for second in range(60)])
        for half in (0.5, 0.0)
    ]
    assert whole == pytest.approx(block_interval(halves, MINUTE, ALL))
    # Samples outside the window do not count.
    outside = [Point(100.0, 50.0, 1e6), Point(260.0, 100.0, 1e6)]
    assert whole == pytest.approx(
        block_interval([*_every_second([float(second % 7) for second in range(60)]), *outside], MINUTE, ALL)
    )


@pytest.mark.parametrize(
    ("points", "window", "prompts", "reason"),
    [
        (_every_second([1.0] * 59), (100.0, 159.0), ALL, "shorter than 60 s"),
        (_every_second([1.0] * 60), MINUTE, [(0.0, 106.0), (113.0, 200.0)], "no prompt was executed"),
        (_every_second([1.0] * 60), MINUTE, [], "no prompt was executed"),
        (_every_second([1.0] * 53), MINUTE, ALL, "no samples"),
        ([], MINUTE, ALL, "no samples"),
    ],
)
def test_where_nothing_can_be_claimed(
    points: list[Point], window: tuple[float, float], prompts: list[tuple[float, float]], reason: str
) -> None:
    assert block_interval(points, window, prompts) is None
    assert reason in (no_interval_because(points, window, prompts) or "")


def _utilization(spans: Iterable[tuple[float, float]], seconds: int) -> list[float]:
    """Return the percentage of each second that the spans cover; they must not overlap."""
    busy = [0.0] * seconds
    for begin, end in spans:
        for second in range(max(0, int(begin)), min(int(end) + 1, seconds)):
            busy[second] += max(0.0, min(end, second + 1) - max(begin, second))
    return [100 * part for part in busy]


def _open(rng: random.Random, seconds: int) -> Iterator[tuple[float, float]]:
    """Yield spans of four-second prompts that arrive at random and use 66 % of the server, after a warm-up of 200 s."""
    time, free = -200.0, -200.0
    while time < seconds:
        time += rng.expovariate(0.66 / 4)
        begin = max(time, free)
        free = begin + rng.gauss(4.0, 0.4)
        yield begin, free


def _closed(rng: random.Random, seconds: int) -> Iterator[tuple[float, float]]:
    """Yield spans of four-second prompts with about two seconds between them."""
    time = rng.uniform(-100.0, -50.0)
    while time < seconds:
        end = time + rng.gauss(4.0, 0.4)
        yield time, end
        time = end + rng.uniform(1.0, 3.0)


@pytest.mark.parametrize(
    ("load", "seconds", "truth", "least", "naive_most"),
    [(_open, 600, 66.0, 0.78, 0.55), (_closed, 60, 66.7, 0.88, 1.0)],
)
def test_it_covers_the_truth_about_as_often_as_it_says(
    load: Callable[[random.Random, int], Iterator[tuple[float, float]]],
    seconds: int,
    truth: float,
    least: float,
    naive_most: float,
) -> None:
    rng = random.Random(7)
    covered, naive, runs = 0, 0, 300
    for _ in range(runs):
        values = _utilization(load(rng, seconds), seconds)
        interval = block_interval(_every_second(values, 0.0), (0.0, float(seconds)), ALL)
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
        naive += abs(statistics.fmean(values) - truth) <= 1.65 * statistics.stdev(values) / math.sqrt(seconds)
    assert covered / runs >= least
    assert naive / runs <= naive_most
