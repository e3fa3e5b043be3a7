"""Several workflows on one server: what does it cost to switch models all the time?"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario(mix={"txt2img": 3, "lora": 1}, users=2, shared_iterations=40, seed=7)
def test_mix_of_workflows(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.by("workflow")["txt2img"].generation_time.p50 < 12  # seconds
    assert load.by("workflow")["lora"].generation_time.p50 < 15
