"""Loading, sampling, decoding and saving are distinguished by node class and by the sampler's first step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.generation_parts import is_loader, model_load_time, step_time, weights_time
from pytest_comfyload.result.outcome import OutcomeStatus
from tests.result.made import node, prompt, run_of

# Three seconds of loading weights, then four steps of half a second.
SAMPLER = node("KSampler", 10.0, 15.1, tuple((13.0 + 0.5 * step, float(step)) for step in (1, 2, 3, 4)))


def sampling_time(sampler: NodeInterval) -> float:
    return float(run_of(prompt(nodes=(sampler,))).sampling_time.p50)


def test_the_time_before_the_first_step_is_loading() -> None:
    assert step_time(SAMPLER) == 0.5
    assert weights_time(SAMPLER) == pytest.approx(3.0)
    assert sampling_time(SAMPLER) == pytest.approx(2.1)


def test_throttled_and_thinned_steps_count_by_their_values() -> None:
    throttled = node("KSampler", 0.0, 10.0, ((3.0, 2.0), (5.0, 6.0), (7.0, 10.0)))
    assert step_time(throttled) == 0.5
    assert weights_time(throttled) == pytest.approx(2.0)


@pytest.mark.parametrize("steps", [(), ((1.0, 1.0),), ((1.0, 1.0), (1.5, 1.0))])
def test_a_sampler_that_cannot_tell_has_no_loading(steps: tuple[tuple[float, float], ...]) -> None:
    assert weights_time(node("KSampler", 0.0, 2.0, steps)) == 0.0


def test_only_samplers_hide_weights() -> None:
    assert weights_time(node("ProbeSleep", SAMPLER.start, SAMPLER.end, SAMPLER.steps)) == 0.0


@given(
    st.floats(0, 100), st.floats(0.01, 10), st.integers(2, 50), st.floats(0, 5)
)  # fmt: skip
def test_weights_and_sampling_are_the_nodes_time(wait: float, step: float, count: int, tail: float) -> None:
    steps = tuple((wait + step * number, float(number)) for number in range(1, count + 1))
    sampler = node("SamplerCustomAdvanced", 0.0, wait + step * count + tail, steps)
    sampling = sampling_time(sampler)
    assert weights_time(sampler) + sampling == pytest.approx(sampler.duration)
    assert weights_time(sampler) == pytest.approx(wait, abs=1e-6)


LOADERS = """
    CheckpointLoaderSimple UNETLoader VAELoader LoraLoader LoraLoaderModelOnly ControlNetLoader DualCLIPLoader
    UpscaleModelLoader ImageOnlyCheckpointLoader UnetLoaderGGUF CLIPVisionLoader
"""


@pytest.mark.parametrize("name", LOADERS.split())
def test_loaders(name: str) -> None:
    assert is_loader(name)


@pytest.mark.parametrize("name", ["LoadImage", "KSampler", "ImageLoader", "VideoLoaderPath", "Preloaders", "SaveLoRA"])
def test_what_is_no_model_loader(name: str) -> None:
    assert not is_loader(name)


def test_a_prompts_loading_is_loaders_and_weights() -> None:
    assert model_load_time([node("VAELoader", 0.0, 1.5), SAMPLER, node("SaveImage", 0.0, 9.0)]) == pytest.approx(4.5)
    assert model_load_time([]) == 0.0


def test_distributions_are_per_prompt_and_of_successes() -> None:
    whole = prompt(0.0, (node("UNETLoader", 0.0, 2.0), SAMPLER, node("VAEDecode", 0, 0.3), node("SaveImage", 0, 0.1)))
    warm = prompt(1.0, (node("VAEDecodeTiled", 0.0, 0.5), node("PreviewImage", 0.0, 0.2)), cached=("KSampler",))
    failed = prompt(2.0, (SAMPLER,), status=OutcomeStatus.OOM)
    load = run_of(whole, warm, failed)
    assert list(load.model_load_time.values) == pytest.approx([0.0, 5.0])
    assert list(load.sampling_time.values) == pytest.approx([2.1])
    assert load.decode_time.values == (0.3, 0.5)
    assert load.save_time.values == (0.1, 0.2)
    assert whole.model_load_time == pytest.approx(5.0)
    assert load.to_dict()["decode_time"]["n"] == 2
    assert math.isnan(run_of(failed).decode_time.mean)
