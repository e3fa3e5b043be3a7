"""A steady crowd for a while: does the service keep its pace from the first minute to the last?"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=3, duration="2m", think_time=("1s", "3s"))
class TestSteadyCrowd:
    def test_nobody_waits_long(self, load: LoadResult) -> None:
        assert load.success_rate == 100
        assert load.total_time.p95 < 60

    def test_the_end_is_as_fast_as_the_beginning(self, load: LoadResult) -> None:
        first, last = load.between(0, 40), load.between(80, 120)
        assert last.generation_time.p50 < 1.2 * float(first.generation_time.p50)
