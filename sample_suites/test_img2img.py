"""Image to image. The input picture comes with the workflow, and is uploaded once, before the load.

`inputs` sets an input of a node, by the node's class, title or id, without changing the workflow's file.
"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("img2img", users=2, iterations=3, inputs={"KSampler.denoise": 0.5})
def test_img2img(load: LoadResult) -> None:
    assert load.success_rate == 100  # percent
    assert load.generation_time.p50 < 10  # seconds
