"""Text to image with a ControlNet: two models on the GPU at once."""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("controlnet", users=2, iterations=3, inputs={"ControlNetApplyAdvanced.strength": 0.8})
def test_controlnet(load: LoadResult) -> None:
    assert load.success_rate == 100  # percent
    assert load.generation_time.p50 < 15  # seconds
