"""Text to image in two passes, the second at twice the size."""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("upscale", users=2, iterations=3)
def test_upscale(load: LoadResult) -> None:
    assert load.success_rate == 100  # percent
    assert load.generation_time.p50 < 30  # seconds
