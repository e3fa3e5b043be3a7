"""Prompts arrive at a rate, whether earlier ones are done or not, as from people who do not know of each other.

Users who wait for their picture before they send the next prompt slow down with the server. Arrivals do not: where they
come faster than the server works, the queue grows, and only such a load shows it.
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
    assert load.dropped == 0  # no more than 20 prompts were ever unfinished
