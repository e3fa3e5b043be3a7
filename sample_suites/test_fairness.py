"""One user fills the queue: how long do the others wait?

`groups` runs several loads at once; `load.by("group")` has the results of each.
"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario(
    "txt2img",
    groups={
        "light": {"users": 2, "duration": "60s", "think_time": "5s"},
        "flooder": {"burst": 15, "start": "15s"},
    },
)
class TestFairness:
    def test_all_are_served(self, load: LoadResult) -> None:
        assert load.success_rate == 100

    def test_light_users(self, load: LoadResult) -> None:
        light = load.by("group")["light"]
        assert light.queue_time.max < 60  # seconds
        assert light.total_time.max < 180
