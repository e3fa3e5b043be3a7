"""Inpainting: repaint the masked part of a picture."""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("inpainting", users=2, iterations=3)
def test_inpainting(load: LoadResult) -> None:
    assert load.success_rate == 100  # percent
    assert load.generation_time.p50 < 10  # seconds
