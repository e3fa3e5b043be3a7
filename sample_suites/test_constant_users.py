"""A steady crowd for a while: does the service keep its pace from the first minute to the last?"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=3, duration="3m", think_time=("1s", "5s"))
class TestSteadyCrowd:
    def test_nobody_waits_long(self, load: LoadResult) -> None:
        assert load.success_rate == 100
        assert load.total_time.p95 < 60

    def test_the_last_minute_is_as_fast_as_the_first(self, load: LoadResult) -> None:
        first, last = load.between(0, 60), load.between(120, 180)
        assert last.generation_time.p50 < 1.2 * float(first.generation_time.p50)
