"""One user floods the queue: what is left for the others?"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario(
    "txt2img",
    groups={
        "light": {"users": 2, "duration": "90s", "think_time": "5s"},
        "flooder": {"burst": 20, "start": "20s"},
    },
)
class TestFairness:
    def test_everybody_is_served(self, load: LoadResult) -> None:
        assert load.success_rate == 100

    def test_light_users_wait_for_the_flood_but_not_for_ever(self, load: LoadResult) -> None:
        light = load.by("group")["light"]
        assert light.queue_time.max < 60
        assert light.total_time.max < 180
