"""All outputs of a prompt on a real server, images or not, are fetched, checked and accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.loads import probe, run
from tests.real_comfyui.target import Target
from tests.workflow.test_exports import EXPORTS

SMALL = {"EmptyLatentImage.width": 64, "EmptyLatentImage.height": 64, "BasicScheduler.steps": 2}


@pytest.fixture(scope="module")
def real(real_comfyui: str) -> Target:
    return Target("real", real_comfyui, "tiny_sd15.safetensors")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def test_a_workflow_without_files_to_fetch(real: Target, tmp_path: Path) -> None:
    load = run(real, tmp_path, EXPORTS / "text_only.json", iterations=2, allow_cached=True)
    assert load.success_rate == 100
    assert load.total_time.n == 2
    assert 0 < float(load.total_time.p50) < 60
    assert float(load.throughput) == 0
    for outcome in load.outcomes:
        assert (outcome.texts, outcome.outputs, outcome.images) == (("two lighthouses, at night",), (), 0)


def test_a_text_made_anew_for_each_prompt(real: Target, tmp_path: Path) -> None:
    load = run(real, tmp_path, probe(0.1, {"2": node("PreviewAny", source=["1", 0])}), iterations=2)
    assert load.success_rate == 100
    assert load.cached == 0
    assert len({outcome.texts for outcome in load.outcomes}) == 2
    assert float(load.generation_time.min) >= 0.1


@pytest.mark.parametrize(
    ("nodes", "suffix"),
    [
        (
            {
                "3": node("CreateVideo", images=["5", 0], fps=8.0),
                "2": node("SaveVideo", video=["3", 0], filename_prefix="v", format="auto", codec="auto"),
            },
            ".mp4",
        ),
        ({"2": node("SaveWEBM", images=["5", 0], filename_prefix="v", codec="vp9", fps=8.0, crf=32.0)}, ".webm"),
        (
            {
                "3": node("EmptyLatentImage", width=64, height=64, batch_size=1),
                "2": node("SaveLatent", samples=["3", 0], filename_prefix="l"),
            },
            ".latent",
        ),
    ],
    ids=["mp4", "webm", "latent"],
)
def test_files_that_are_no_pictures(nodes: dict[str, Any], suffix: str, real: Target, tmp_path: Path) -> None:
    frames = {"5": node("RepeatImageBatch", image=["1", 0], amount=4)}
    load = run(real, tmp_path, probe(0.1, {**frames, **nodes}), warmup=0, allow_cached=True)
    assert load.success_rate == 100, load.outcomes[0].error
    [file] = load.outcomes[0].outputs
    assert file.filename.endswith(suffix)
    assert file.size is not None
    assert file.size > 100


def test_a_linked_noise_seed_is_varied(real: Target, tmp_path: Path) -> None:
    inputs = {"CheckpointLoaderSimple.ckpt_name": real.checkpoint, **SMALL}
    load = run(real, tmp_path, EXPORTS / "linked_noise_seed.json", iterations=2, inputs=inputs, warmup=0)
    assert load.success_rate == 100, load.outcomes[0].error
    assert len({outcome.seeds["32.value"] for outcome in load.outcomes}) == 2
    assert load.node_time["SamplerCustomAdvanced"].n == 2
