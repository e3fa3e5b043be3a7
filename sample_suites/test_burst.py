"""A burst: ten prompts at the same moment. How long does the last one take?"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", burst=10)
def test_burst(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.total_time.max < 120  # seconds
