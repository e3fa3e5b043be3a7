"""A steady load: three users for a while, with a pause after each picture. Does the service keep its pace?

The load of a class runs once, and each of its tests checks a different aspect of it.
"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=3, duration="60s", think_time=("1s", "3s"))
class TestSteadyLoad:
    def test_waiting_time(self, load: LoadResult) -> None:
        assert load.success_rate == 100
        assert load.total_time.p90 < 60  # seconds

    def test_no_slowdown(self, load: LoadResult) -> None:
        first, last = load.between(0, 20), load.between(40, 60)
        assert last.generation_time.p50 < 1.2 * float(first.generation_time.p50)
