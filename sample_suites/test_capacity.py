"""How many people can this server have at once? A capacity search is a test like any other."""

from __future__ import annotations

from collections.abc import Callable

from pytest_comfyload import Capacity


def test_capacity(find_capacity: Callable[..., Capacity]) -> None:
    capacity = find_capacity("txt2img", slo="total_time.p95 < 30", arrival="users", budget="30m")
    assert capacity.resolved, capacity.sentence()
    assert capacity.value >= 4  # users who send one prompt after the other


def test_capacity_for_people_who_come_when_they_like(find_capacity: Callable[..., Capacity]) -> None:
    capacity = find_capacity("txt2img", slo="total_time.p95 < 30", arrival="poisson", budget="30m")
    assert capacity.resolved, capacity.sentence()
    assert capacity.value > 4  # prompts per minute
