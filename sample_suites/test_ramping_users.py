"""More and more users, then fewer: what does each step cost them?"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=[("20s", 2), ("20s", 6), ("20s", 6), ("10s", 0)])
def test_six_users_wait_in_line_but_all_are_served(load: LoadResult) -> None:
    few, many = load.by("stage")[1], load.by("stage")[3]
    assert load.success_rate == 100
    assert few.queue_time.max < 30  # seconds; the longest wait is a fact, and a percentile of a part would be a guess
    assert many.queue_time.max < 60
