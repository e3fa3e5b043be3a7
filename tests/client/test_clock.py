from __future__ import annotations

import asyncio
import time

import pytest

from pytest_comfyload.client.clock import Clock


def test_it_starts_at_zero_and_does_not_go_back() -> None:
    clock = Clock()
    times = [clock.now() for _ in range(100)]
    assert 0 <= times[0] < 60
    assert times == sorted(times)
    assert abs(clock.epoch - time.time()) < 60


def test_virtual_seconds_are_scaled() -> None:
    clock = Clock(scale=20.0)
    assert clock.wall(10.0) == pytest.approx(0.5)
    before, started = clock.now(), time.perf_counter()
    asyncio.run(clock.sleep_until(before + 1.0))
    assert clock.now() >= before + 1.0
    assert 0.04 < time.perf_counter() - started < 30


def test_a_deadline_that_has_passed_does_not_wait() -> None:
    clock = Clock()
    asyncio.run(clock.sleep_until(-100.0))
    assert clock.now() < 60
