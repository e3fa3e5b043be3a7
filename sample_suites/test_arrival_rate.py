"""Prompts arrive when they arrive, as from many people: the wait that a closed load can never show."""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", rate="30/min", arrival="poisson", duration="150s")
def test_thirty_a_minute(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.dropped == 0
    assert load.total_time.p95 < 60


@load_scenario("txt2img", rate=[("1m", "10/min"), ("1m", "30/min"), ("1m", "0/min")], max_in_flight=20)
def test_a_rush_hour_comes_and_goes(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.dropped == 0
