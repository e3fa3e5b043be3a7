"""Every kind of work that a ComfyUI server is asked for, one load each: keep those that yours serves."""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=2, iterations=2)
def test_txt2img(load: LoadResult) -> None:
    assert load.success_rate == 100  # percent
    assert load.generation_time.p50 < 10  # seconds


@load_scenario("img2img", users=2, iterations=2, inputs={"KSampler.denoise": 0.5})
def test_img2img(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.generation_time.p50 < 10


@load_scenario("inpainting", users=2, iterations=2)
def test_inpainting(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.generation_time.p50 < 10


@load_scenario("upscale", users=2, iterations=2)
def test_upscale(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.generation_time.p50 < 30


@load_scenario("controlnet", users=2, iterations=2, inputs={"ControlNetApplyAdvanced.strength": 0.8})
def test_controlnet(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.generation_time.p50 < 15


@load_scenario("lora", users=2, iterations=2)
def test_lora(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.generation_time.p50 < 10
