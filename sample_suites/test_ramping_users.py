"""More users in stages, then none: how long do they wait at each stage?"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=[("15s", 2), ("15s", 6), ("15s", 6), ("10s", 0)])
def test_ramping_users(load: LoadResult) -> None:
    few, many = load.by("stage")[1], load.by("stage")[3]
    assert load.success_rate == 100
    # The longest wait is a fact; a stage has too few prompts to support a P95.
    assert few.queue_time.max < 30  # seconds
    assert many.queue_time.max < 60
