from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.simulator.gpu_model import GpuActivity
from pytest_comfyload.simulator.timing import GPUS

BOARD = GPUS["rtx4090"].board
WORK = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.sampled_from([0.0, 0.05, 0.5, 1.0])), max_size=30)
"""Triples of a pause and a stretch of work after it, both in seconds, and the load during the stretch."""


def test_a_board_without_work_is_idle() -> None:
    reading = GpuActivity(BOARD, 100.0).read(160.0)
    assert reading.utilization == 0
    assert reading.condition.power == pytest.approx(BOARD.idle_power)
    assert reading.condition.energy == pytest.approx(60 * BOARD.idle_power)


@pytest.mark.parametrize(("now", "percent"), [(10.0, 0), (10.25, 20), (11.0, 80), (12.0, 80), (12.5, 40), (13.0, 0)])
def test_utilization_is_the_share_of_the_last_second_in_which_kernels_ran(now: float, percent: float) -> None:
    activity = GpuActivity(BOARD, 0.0)
    activity.spend(10.0, 12.0, 0.8)
    activity.rest()
    assert activity.read(now).utilization == pytest.approx(percent)


def test_of_work_that_was_announced_only_what_has_been_done_counts() -> None:
    activity = GpuActivity(BOARD, 0.0)
    activity.spend(10.0, 100.0, 1.0)
    done = activity.read(20.0).condition.energy
    assert done == pytest.approx(10 * BOARD.idle_power + 10 * BOARD.power_limit, rel=0.05)
    assert activity.read(40.0).condition.energy - done == pytest.approx(20 * BOARD.power_limit, rel=0.01)


def test_a_worker_that_comes_late_does_not_make_the_gpu_idle() -> None:
    """The event loop may be busy between two steps, but the GPU does not wait for it."""
    activity = GpuActivity(BOARD, 0.0)
    activity.spend(10.0, 12.0, 1.0)
    assert activity.read(12.9).utilization == 100
    activity.spend(12.0, 14.0, 1.0)
    assert activity.read(13.0).utilization == 100


@given(WORK, st.randoms(use_true_random=False))
def test_the_counter_never_falls_whenever_it_is_read(
    work: list[tuple[float, float, float]], rng: random.Random
) -> None:
    """This includes a prompt that turns out to have started before the last reading."""
    activity = GpuActivity(BOARD, 0.0)
    at, energies = 0.0, [0.0]
    for pause, seconds, load in work:
        begin = at + pause
        at = begin + seconds
        energies.append(activity.read(begin + rng.uniform(0, 0.5)).condition.energy)
        activity.spend(begin, at, load)
        energies.append(activity.read(begin + rng.uniform(0, seconds)).condition.energy)
        energies.append(activity.read(at + rng.uniform(0, 0.5)).condition.energy)
        activity.rest()
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(energies))


@given(WORK, st.floats(0, 10))
def test_what_is_folded_away_is_not_forgotten(work: list[tuple[float, float, float]], later: float) -> None:
    """The result equals a walk over all history, although only the last second is kept."""
    activity = GpuActivity(BOARD, 0.0)
    condition, at = BOARD.idle(), 0.0
    for pause, seconds, load in work:
        activity.spend(at + pause, at + pause + seconds, load)
        condition = BOARD.after(BOARD.after(condition, pause, 0.0), seconds, load)
        at += pause + seconds
    activity.rest()
    read = activity.read(at + later).condition
    expected = BOARD.after(condition, later, 0.0)
    assert read.power == pytest.approx(expected.power)
    assert read.temperature == pytest.approx(expected.temperature)
    assert read.energy == pytest.approx(expected.energy)


def test_an_hour_of_work_takes_no_memory() -> None:
    activity = GpuActivity(BOARD, 0.0)
    for step in range(36_000):
        activity.spend(step / 10, (step + 1) / 10, 0.99 if step % 2 else 0.5)
    assert len(activity._stretches) < 15
