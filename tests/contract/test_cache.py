"""Cached results are detected, reported and judged; nodes that must run do run; varied inputs are told apart."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.result.outcome import CacheClass
from tests.contract.loads import SMALL, probe, run
from tests.real_comfyui.target import Target


def fixed_seed() -> dict[str, int]:
    """Return a seed that this server has not seen, because its cache outlives a test."""
    return {"ProbeSleep.seed": random.getrandbits(40)}


def test_a_run_that_only_saves_what_is_cached_is_invalid(target: Target, tmp_path: Path) -> None:
    inputs = {**fixed_seed(), "SaveImage.filename_prefix": "probe_{index}"}
    load = run(target, tmp_path, probe(0.4), inputs=inputs, iterations=3)
    assert {outcome.cache_class for outcome in load.outcomes} == {CacheClass.FULLY}
    assert load.state == "invalid"
    assert "all 3 successful prompts came entirely from the server's cache" in str(load.invalid_because)
    assert (load.cached_classes, load.always_ran) == ({"ProbeSleep": 3}, ("SaveImage",))
    assert (load.cached, load.generation_time.n) == (3, 0)


def test_the_cache_may_be_allowed(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(0.2), inputs=fixed_seed(), iterations=2, allow_cached=True)
    assert load.cached == 2
    assert load.state == "valid"


def test_loaders_from_the_cache_are_what_a_warm_up_is_for(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, "txt2img", iterations=3, prompts=["the same"], vary_text=False, overrides=SMALL)
    assert load.state == "valid"
    assert load.cached_classes["CheckpointLoaderSimple"] == load.cached_classes["CLIPTextEncode"] == 3
    assert load.always_ran == ("KSampler", "VAEDecode", "SaveImage")
    assert load.executions["txt2img"]["CLIPTextEncode"] == [3, 0, 0]
    assert load.sampling_time.n == load.decode_time.n == load.save_time.n == load.model_load_time.n == 3
    for outcome in load.outcomes:
        assert outcome.model_load_time <= sum(node.duration for node in outcome.nodes)


def test_each_prompt_has_its_own_text_encoded(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, "txt2img", iterations=3, prompts=["the same"], overrides=SMALL)
    assert load.state == "valid"
    assert {outcome.text for outcome in load.outcomes} == {"the same"}
    assert load.executions["txt2img"] == {
        "CLIPTextEncode": [0, 3, 0],  # the negative prompt is the same every time
        "CheckpointLoaderSimple": [3, 0],
        "EmptyLatentImage": [3, 0],
        "KSampler": [0, 3],
        "SaveImage": [0, 3],
        "VAEDecode": [0, 3],
    }


def test_must_run_feeds_encoders_a_text_that_no_prompt_had(target: Target, tmp_path: Path) -> None:
    load = run(
        target, tmp_path, "txt2img", iterations=3, prompts=["the same"], must_run=["CLIPTextEncode"], overrides=SMALL
    )
    assert load.state == "valid"
    assert "CLIPTextEncode" in load.always_ran
    assert all("CLIPTextEncode" not in outcome.cached for outcome in load.outcomes)
    assert {outcome.text for outcome in load.outcomes} == {"the same"}


def scaling(image: str) -> dict[str, Any]:
    """Return a workflow whose image is the only input to vary."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {
            "class_type": "ImageScale",
            "inputs": {"image": ["1", 0], "upscale_method": "area", "width": 64, "height": 64, "crop": "disabled"},
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "scaled"}},
    }


def test_must_run_feeds_a_picture_that_no_prompt_had(target: Target, tmp_path: Path) -> None:
    for _ in range(2):  # nor one of an earlier run
        load = run(target, tmp_path, scaling("comfyload/photo.png"), users=2, iterations=3, must_run=["ImageScale"])
        assert load.state == "valid", load.invalid_because
        assert load.success_rate == 100
        assert load.always_ran == ("LoadImage", "ImageScale", "SaveImage")
        assert all(not outcome.cached for outcome in load.outcomes)


def test_must_run_varies_a_picture_that_only_the_server_has(target: Target, tmp_path: Path) -> None:
    [made] = run(target, tmp_path, scaling("comfyload/edges.png"), warmup=0, must_run=["LoadImage"]).outcomes[0].outputs
    theirs = f"{made.subfolder}/{made.filename} [output]"
    load = run(target, tmp_path, scaling(theirs), iterations=2, must_run=["LoadImage"])
    assert load.state == "valid", load.invalid_because
    assert "ImageScale" in load.always_ran


def test_must_run_with_a_picture_that_is_nowhere(target: Target, tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"must_run: 1\.image = 'sub/nowhere\.png' cannot be varied: .* 404; give"):
        run(target, tmp_path, scaling("sub/nowhere.png"), must_run=["ImageScale"])


def test_must_run_fails_a_run_whose_draws_came_again(target: Target, tmp_path: Path) -> None:
    inputs = {"ProbeSleep.seed": {random.getrandbits(40): 1, 7: 0}}
    load = run(target, tmp_path, probe(0.2), inputs=inputs, iterations=2, must_run=["ProbeSleep"], allow_cached=True)
    assert load.state == "invalid"
    assert "must_run: ProbeSleep did not run in all 2 successful prompts" in str(load.invalid_because)


def test_must_run_without_a_way_is_said_before_the_load(target: Target, tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="nothing that feeds node 1 ProbeSleep can be varied"):
        run(target, tmp_path, probe(0.2), inputs={"ProbeSleep.seed": 7}, must_run=["ProbeSleep"])


def test_what_was_drawn_groups_the_prompts(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(), inputs={"ProbeSleep.seconds": [0.1, 0.8]}, iterations=8, seed=3)
    parts = load.by("ProbeSleep.seconds")
    assert set(parts) == {0.1, 0.8}
    for seconds, part in parts.items():
        assert isinstance(seconds, float)
        assert float(part.node_time["ProbeSleep"].min) == pytest.approx(seconds, abs=0.3)
    assert sum(len(part.outcomes) for part in parts.values()) == 8


def test_inputs_come_with_the_lines_of_a_file(target: Target, tmp_path: Path) -> None:
    lines = '{"prompt": "a", "KSampler.steps": 1}\n{"prompt": "b", "KSampler.steps": "2"}\n'
    (tmp_path / "p.jsonl").write_text(lines)
    small = {address: value for address, value in SMALL.items() if address != "KSampler.steps"}
    load = run(target, tmp_path, "txt2img", prompts="p.jsonl", iterations=4, overrides=small)
    assert [outcome.inputs["KSampler.steps"] for outcome in load.outcomes] == [1, 2, 1, 2]
    assert [outcome.text for outcome in load.outcomes] == ["a", "b", "a", "b"]


def test_the_servers_memory_and_log_are_watched(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(0.3), iterations=2)
    assert load.server.ram_used.max.n >= 2
    assert 0 < float(load.server.ram_used.mean) <= float(load.server.ram_used.max)
    assert load.silent_ooms == 0
