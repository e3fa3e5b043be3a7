"""Everybody at once: how long does the last one wait?"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", burst=15)
def test_the_last_of_fifteen_gets_its_picture_within_two_minutes(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.total_time.max < 120
