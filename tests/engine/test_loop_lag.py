"""The generator's own lag: every missed deadline counts, stalls have times, and busy time is what delays a prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine import loop_lag
from pytest_comfyload.engine.loop_lag import PASSES, PERIOD, LoopLag, MeasuredLoop
from pytest_comfyload.result.outcome import OutcomeStatus
from tests.result.outcomes import failure, outcome


def lag_of(*looks: tuple[float, float], late: float = 9.0) -> LoopLag:
    """Return the lag after `looks`, pairs of run clock and busy wall seconds so far; the loop is `late` at each."""
    lag = LoopLag(Clock(), 0.1)
    for now, busy in looks:
        lag.note(now, busy, late)
    return lag


def watched(work: Callable[[], None], scale: float = 1.0, **changes: Callable[[], float]) -> tuple[LoopLag, float]:
    """Watch a loop that idles for 0.3 s, calls `work`, and idles again; return the lag and the time before `work`."""

    async def run() -> tuple[LoopLag, float]:
        clock = Clock(scale)
        lag = LoopLag(clock, 0.1, **changes)
        async with lag.watching():
            await asyncio.sleep(0.3)
            before = clock.now()
            work()
            await asyncio.sleep(0.3)
        return lag, before

    with asyncio.Runner(loop_factory=MeasuredLoop) as runner:
        return runner.run(run())


def test_before_the_first_deadline_nothing_is_late() -> None:
    lag = LoopLag(Clock(), 0.1)
    assert (lag.p99, lag.worst, lag.busy(0.0, 10.0), lag.stalls) == (0.0, 0.0, 0.0, [])


def test_every_missed_deadline_counts() -> None:
    lag = LoopLag(Clock(), 0.1)
    for _ in range(1000):
        assert lag.missed(0.001) == 0.0
    assert lag.p99 == pytest.approx(0.001)
    # One second without any progress counts as fifty missed deadlines, late by up to a second, not as a single one.
    assert lag.missed(1.005) == pytest.approx(50 * PERIOD)
    assert lag.worst == pytest.approx(1.005)
    # Ten of 1,051 lags are greater than the p99.
    assert lag.p99 == pytest.approx(1.005 - 10 * PERIOD)


def test_the_loop_is_evenly_busy_between_two_looks() -> None:
    lag = lag_of((10.0, 1.0), (12.0, 2.0), (13.0, 2.0), (14.0, 3.0))
    assert lag.busy(10.0, 14.0) == pytest.approx(2.0)
    assert lag.busy(11.0, 12.5) == pytest.approx(0.5)
    assert lag.busy(13.25, 13.5) == pytest.approx(0.25)
    assert lag.busy(13.5, 14.5) == pytest.approx(1.0)  # after the last sample, as busy as before it
    assert lag.busy(12.2, 12.8) == 0.0


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0.0, 1.0)), min_size=2, max_size=60), st.data())
def test_busy_times_add_up_and_never_exceed_the_time(steps: Sequence[tuple[float, float]], data: st.DataObject) -> None:
    now, busy, lag = 0.0, 0.0, LoopLag(Clock(), 0.1)
    for length, share in steps:
        now, busy = now + length, busy + length * share
        lag.note(now, busy, 0.0)
    begin, middle, end = sorted(data.draw(st.tuples(*[st.floats(0, now)] * 3)))
    assert 0 <= lag.busy(begin, middle) <= middle - begin + 1e-9
    assert lag.busy(begin, middle) + lag.busy(middle, end) == pytest.approx(lag.busy(begin, end))


def test_of_a_long_run_the_old_looks_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "_MOST_POINTS", 100)
    lag = lag_of(*((0.02 * k, 0.01 * k) for k in range(10_000)))
    assert len(lag._times) <= 101
    assert lag.busy(0.0, 199.98) == pytest.approx(99.99)
    assert lag.busy(150.0, 160.0) == pytest.approx(5.0)


def test_a_loop_that_waits_is_idle_and_one_that_computes_is_busy() -> None:
    lag, before = watched(lambda: time.sleep(0.4))
    busy = lag.busy(before, before + 0.4)
    assert 0.35 < busy <= 0.4
    assert lag.busy(before - 0.25, before) < 0.15
    assert lag.worst > 0.35
    [stall] = [each for each in lag.stalls if each.length > 0.35]
    assert stall.at == pytest.approx(before, abs=0.05)
    assert stall.end == pytest.approx(before + 0.4, abs=0.1)
    assert lag.stood_still(before + 0.1, before + 0.2)
    assert not lag.stood_still(before + 0.5, before + 0.6)


def test_lags_are_wall_time_and_stalls_are_dated_by_the_runs_clock() -> None:
    lag, before = watched(lambda: time.sleep(0.2), scale=20.0)
    assert 0.15 < lag.busy(before, before + 4.0) <= 0.2
    [stall] = [each for each in lag.stalls if each.length > 0.15]
    assert stall.at == pytest.approx(before, abs=1.0)
    assert stall.end - stall.at == pytest.approx(20 * stall.length, abs=1.0)


def test_a_machine_that_slept_stood_still() -> None:
    slept = [0.0]
    lag, before = watched(lambda: slept.__setitem__(0, 30.0), slept=lambda: slept[0])
    [stall] = [each for each in lag.stalls if each.length == 30.0]
    # The loop's own clock stalled as well, so a prompt in flight took longer than measured.
    assert before <= stall.at <= before + 0.1
    assert lag.busy(before - 0.1, before + 0.2) > 29.9
    assert lag.stood_still(before - 1, before + 1)


def test_what_the_generator_adds_is_its_busy_time_while_the_prompt_is_not_with_the_server() -> None:
    # The loop is always busy, but the prompt waits for it only for 0.1 s until it is accepted and for 0.5 s after its
    # end, not during its 3 s on the server.
    lag = lag_of((0.0, 0.0), (10.0, 10.0))
    assert lag.added_to(outcome(1.0)) == pytest.approx(0.1 + 0.2 + 0.3)
    assert lag.added_to(outcome(1.0, lag=0.4)) == pytest.approx(1.0)
    idle = lag_of((0.0, 0.0), (10.0, 0.0))
    assert idle.added_to(outcome(1.0)) == 0.0
    assert lag.added_to(failure(OutcomeStatus.CONNECTION)) is None
    assert lag.added_to(outcome(1.0).voided()) is None


def test_a_loop_that_is_never_late_adds_little_to_a_long_download() -> None:
    # Busy half of the time with incoming bytes, and never more than a millisecond late.
    looks = [(0.02 * k, 0.01 * k) for k in range(5000)]
    quick, slow = lag_of(*looks, late=0.001), lag_of(*looks, late=0.5)
    download = outcome(1.0, fetch=60.0)
    assert quick.added_to(download) == pytest.approx(2 * PASSES * 0.001)
    assert slow.added_to(download) == pytest.approx(0.05 + PASSES * 0.5)  # half of 0.1 s, and the passes of a minute
