"""Prompts arrive when they arrive, as from many people: the wait that a closed load can never show."""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", rate="36/min", arrival="poisson", duration="150s")
def test_thirty_six_a_minute(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.dropped == 0
    assert load.total_time.p95 < 60


@load_scenario("txt2img", rate=[("20s", "10/min"), ("20s", "30/min"), ("20s", "0/min")], max_in_flight=20)
def test_a_rush_hour_comes_and_goes(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.dropped == 0
