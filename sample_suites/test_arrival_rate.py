"""Prompts arrive at a rate, whether or not earlier ones have finished, as from independent people.

Users who wait for their picture before they send the next prompt slow down with the server. Arrivals do not: if they
come faster than the server works, the queue grows. Only such an open load shows this.
"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", rate="36/min", arrival="poisson", duration="70s", seed=3)
def test_random_arrivals(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.dropped == 0
    assert load.total_time.p90 < 60  # seconds; a P90 needs 29 prompts


@load_scenario("txt2img", rate=[("15s", "10/min"), ("15s", "30/min"), ("15s", "0/min")], max_in_flight=20)
def test_rush_hour(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.dropped == 0  # never more than 20 unfinished prompts
