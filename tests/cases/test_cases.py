"""What people really send, modelled on public bug reports, on a server of either kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.errors import WorkflowError, WorkflowNotServable
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.workflow.workflow import Workflow
from tests.conftest import TIME_SCALE
from tests.contract.loads import fetched, run
from tests.real_comfyui.target import Target

DATA = Path(__file__).parent / "data"
CHECKPOINT = {"CheckpointLoaderSimple.ckpt_name": "tiny_sd15.safetensors"}
SMALL = {**CHECKPOINT, "EmptyLatentImage.width": "64", "EmptyLatentImage.height": "64", "KSampler.steps": "2"}
OUT_OF_MEMORY = ("dml", "cpu", "mps", "cublas", "memoryerror", "hip")
KEY = "comfyui-0123456789abcdef"


@pytest.fixture(scope="module")
def lenient_simulator() -> Iterator[str]:
    """Return the URL of a simulator that runs any class."""
    with SimulatorProcess(time_scale=TIME_SCALE, probe_nodes=True) as server:
        yield server.url


@pytest.fixture(scope="module", params=["simulator", pytest.param("real", marks=pytest.mark.real)])
def lenient(request: pytest.FixtureRequest) -> Target:
    """Each kind of server in turn; this simulator refuses no class and no file."""
    name = request.param
    url = request.getfixturevalue("real_comfyui" if name == "real" else "lenient_simulator")
    return Target(name, url, "tiny_sd15.safetensors")


def case(name: str) -> Path:
    return DATA / f"{name}.json"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def needs_real(target: Target) -> None:
    """Skip if the test depends on what a node does: the simulator runs any class, but guesses what it does."""
    if target.name != "real":
        pytest.skip("the simulator only guesses what these nodes do")


@pytest.mark.parametrize("name", ["int_link", "wrapped_runpod", "wrapped_output", "seed_minus_one"])
def test_a_plain_wrapper_a_numbered_link_and_a_value_that_is_replaced(
    name: str, target: Target, tmp_path: Path
) -> None:
    load = run(target, tmp_path, case(name), iterations=2, overrides=SMALL)
    assert load.success_rate == 100, load.outcomes[0].error
    assert len({tuple(outcome.seeds.values()) for outcome in load.outcomes}) == 2


def test_a_key_that_stands_twice_is_named_with_its_line() -> None:
    with pytest.raises(WorkflowError, match=r'duplicate_keys.json, line 76: duplicate key "8", first in line 63'):
        Workflow.load(case("duplicate_keys"))


def test_a_model_that_is_not_there_is_one_line_before_the_load(target: Target, tmp_path: Path) -> None:
    with pytest.raises(WorkflowNotServable) as caught:
        run(target, tmp_path, case("int_link"), overrides={"CheckpointLoaderSimple.ckpt_name": "nope.safetensors"})
    header, line = str(caught.value).splitlines()
    assert header == f"{target.url} cannot run int_link:"
    assert line.strip().startswith("node 4 CheckpointLoaderSimple.ckpt_name = 'nope.safetensors': the server has ")
    assert "tiny_sd15.safetensors" in line
    assert '; choose with --comfyui-input "CheckpointLoaderSimple.ckpt_name=' in line


def test_a_value_among_those_to_draw_that_the_server_refuses_is_said_before_the_load(
    target: Target, tmp_path: Path
) -> None:
    drawn = {"KSampler.sampler_name": ["euler", "eulr"]}
    with pytest.raises(WorkflowNotServable, match=r"KSampler.sampler_name = 'eulr': the server has euler, "):
        run(target, tmp_path, case("int_link"), inputs=drawn, overrides=SMALL)


def test_a_node_that_validates_its_own_inputs_is_the_judge_of_them(lenient: Target, tmp_path: Path) -> None:
    load = run(lenient, tmp_path, case("validate_inputs_combo"), iterations=3, max_send_lag="30s")
    assert load.success_rate == 100, load.outcomes[0].error
    assert load.state == "valid", load.invalid_because
    if lenient.name == "real":  # the simulator knows a class only once it has seen it
        said = "accepts validate_inputs_combo, although its /object_info says otherwise: node 2 LoadText|case.file"
        assert any(said in note for note in load.facts.notes)


def test_a_seed_without_a_largest_value(lenient: Target, tmp_path: Path) -> None:
    load = run(lenient, tmp_path, case("seed_max_inf"), iterations=3)
    assert load.success_rate == 100, load.outcomes[0].error
    assert load.cached == 0


def test_a_blank_preview_beside_a_picture_is_not_judged(lenient: Target, tmp_path: Path) -> None:
    load = run(lenient, tmp_path, case("blank_mask_preview"), iterations=3)
    assert load.success_rate == 100, load.outcomes[0].error
    assert load.blank_outputs == 0
    assert [len(outcome.outputs) for outcome in load.outcomes] == [2, 2, 2]
    assert [len(outcome.results) for outcome in load.outcomes] == [1, 1, 1]
    assert float(load.throughput) == pytest.approx(float(load.prompt_throughput))


def test_a_blank_result_is_a_note(lenient: Target, tmp_path: Path) -> None:
    graph = {
        "1": node("EmptyImage", width=64, height=64, batch_size=1, color=255),
        "9": node("SaveImage", images=["1", 0], filename_prefix="x"),
    }
    load = run(lenient, tmp_path, graph, inputs={"EmptyImage.color": [255, 65280, 16711680]}, iterations=2, seed=2)
    assert load.success_rate == 100, load.outcomes[0].error
    if lenient.name == "real":  # the simulator produces no images of one colour
        assert load.blank_outputs == 2
        assert any("2 prompts delivered blank pictures" in note for note in load.facts.notes)


def test_pictures_that_come_by_the_socket_count(lenient: Target, tmp_path: Path) -> None:
    load = run(lenient, tmp_path, case("websocket_image"), iterations=3)
    assert load.success_rate == 100, load.outcomes[0].error
    assert load.throughput.unit == "images/min"
    assert float(load.throughput) == pytest.approx(float(load.prompt_throughput))
    for outcome in load.outcomes:
        (picture,) = outcome.outputs
        assert (picture.node_id, picture.type, picture.width) == ("9", "websocket", 64)
    assert len({outcome.outputs[0].pixels for outcome in load.outcomes}) == 3


def test_videos_under_any_name_count(lenient: Target, tmp_path: Path) -> None:
    own = {} if lenient.name == "real" else {"CaseVideo.format": "video/h264-mp4"}  # the simulator relies on it
    load = run(lenient, tmp_path, case("workflow_as_null_optional"), iterations=3, inputs=own)
    assert load.success_rate == 100, load.outcomes[0].error
    assert load.throughput.unit == "outputs/min"
    assert float(load.throughput) == pytest.approx(float(load.prompt_throughput))
    assert [file.filename[-4:] for outcome in load.outcomes for file in outcome.outputs] == [".mp4"] * 3


def test_an_animation_that_fades_in_is_not_blank(lenient: Target, tmp_path: Path) -> None:
    graph = {"1": node("CaseNoise", seed=1, width=64), "9": node("CaseFrames", images=["1", 0])}
    load = run(lenient, tmp_path, graph, iterations=1)
    assert load.success_rate == 100, load.outcomes[0].error
    assert load.blank_outputs == 0


def test_what_a_file_brings_beside_its_graph_is_sent(lenient: Target, tmp_path: Path) -> None:
    load = run(lenient, tmp_path, case("extra_pnginfo"), iterations=3)
    assert load.success_rate == 100, load.outcomes[0].error
    sent = fetched(f"{lenient.url}/history/{load.outcomes[0].prompt_id}")[load.outcomes[0].prompt_id]["prompt"][3]
    assert sent["extra_pnginfo"] == {"workflow": {"nodes": [], "links": []}}
    assert sent["comfyload"] == {"run": load.facts.run_id}


def test_extra_data_of_the_scenario_is_sent(lenient: Target, tmp_path: Path) -> None:
    graph = json.loads(case("extra_pnginfo").read_text())["prompt"]
    groups = {name: {"users": 1, "extra_data": {"extra_pnginfo": {"workflow": {"nodes": [name]}}}} for name in "ab"}
    load = run(lenient, tmp_path, graph, groups=groups)
    assert load.success_rate == 100, load.outcomes[0].error
    for outcome in load.outcomes:
        sent = fetched(f"{lenient.url}/history/{outcome.prompt_id}")[outcome.prompt_id]["prompt"][3]
        assert sent["extra_pnginfo"]["workflow"]["nodes"] == [outcome.group]


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_out_of_memory_of_each_backend(kind: str, lenient: Target, tmp_path: Path) -> None:
    needs_real(lenient)
    load = run(lenient, tmp_path, case("oom_messages"), inputs={"CaseRaise.kind": kind}, warmup=0)
    assert load.oom_errors == 1, load.outcomes[0].error


def test_texts_among_which_only_the_user_can_choose(lenient: Target, tmp_path: Path) -> None:
    needs_real(lenient)
    prompts = ["a cat", "a dog"]
    with pytest.raises(WorkflowError, match=r"2 texts that may be the prompt: 30.string_a .* 30.string_b"):
        run(lenient, tmp_path, case("concat_prompts"), iterations=2, prompts=prompts)
    chosen = {"StringConcatenate.string_a": "masterpiece"}
    load = run(lenient, tmp_path, case("concat_prompts"), iterations=2, prompts=prompts, inputs=chosen)
    assert load.success_rate == 100, load.outcomes[0].error
    assert [outcome.text for outcome in load.outcomes] == prompts


def test_a_seed_that_is_written_as_text_is_varied(lenient: Target, tmp_path: Path) -> None:
    load = run(lenient, tmp_path, case("text_seed_one_prompt"), iterations=3, prompts=["a cat"])
    assert load.state == "valid", load.invalid_because
    assert load.success_rate == 100, load.outcomes[0].error
    assert len({outcome.seeds["3.seed"] for outcome in load.outcomes}) == 3


def test_a_load_whose_warm_up_takes_too_long_does_not_start(lenient: Target, tmp_path: Path) -> None:
    overrides = {"ProbeSleep.seconds": "60"}
    load = run(lenient, tmp_path, case("twenty_minute_video"), iterations=2, timeout="2s", overrides=overrides)
    assert load.invalid_because == (
        "the load did not start: the warm-up prompt failed: timeout (the prompt was executing for 2 s and was given "
        "up: timeout='2s')"
    )
    assert load.accounting.intended == 0


@pytest.mark.parametrize("given", ["environment", "scenario"])
def test_api_keys_reach_paid_nodes_and_nothing_else(
    given: str, lenient: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_real(lenient)
    paid = {"1": node("CaseApi", seed=1), "9": node("SaveImage", images=["1", 0], filename_prefix="x")}
    own: dict[str, Any] = {}
    for key, status in ((f"{KEY}-good", OutcomeStatus.SUCCESS), (f"{KEY}-bad", OutcomeStatus.EXECUTION_ERROR)):
        if given == "environment":
            monkeypatch.setenv("COMFYUI_API_KEY_COMFY_ORG", key)
        else:
            own = {"extra_data": {"auth_token_comfy_org": key}}
        load = run(lenient, tmp_path, paid, warmup=0, allow_api_nodes=True, **own)
        assert [outcome.status for outcome in load.outcomes] == [status], load.outcomes[0].error
    assert "Unauthorized: '…' is no valid key" in str(load.outcomes[0].error)
    assert secrets_in(tmp_path, KEY) == []


def secrets_in(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
