from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.workflow import api_format
from pytest_comfyload.workflow.api_format import shipped_workflows
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import FLUX, INFO

NODE: dict[str, Any] = {"1": {"class_type": "A", "inputs": {"x": 1}}}


def refusal(source: Any, root: Path | None = None) -> str:
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(source, root=root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_workflows_load_by_name() -> None:
    assert {"txt2img", "txt2img_sdxl"} <= set(shipped_workflows())
    for name in shipped_workflows():
        workflow = Workflow.load(name)
        assert workflow.name == name
        assert all(node["_meta"]["title"] for node in workflow.graph.values())


@pytest.mark.parametrize(
    ("name", "model", "size"),
    [("txt2img", "v1-5-pruned-emaonly.safetensors", 512), ("txt2img_sdxl", "sd_xl_base_1.0.safetensors", 1024)],
)
def test_what_the_text_to_image_workflows_do(name: str, model: str, size: int) -> None:
    workflow = Workflow.load(name)
    assert sorted(workflow.graph) == list("3456789")
    assert workflow.models() == {"4.ckpt_name": model}
    assert workflow.graph["5"]["inputs"] == {"width": size, "height": size, "batch_size": 1}
    sampler = workflow.graph["3"]["inputs"]
    assert (sampler["steps"], sampler["sampler_name"], sampler["scheduler"]) == (20, "euler", "normal")


@pytest.mark.parametrize(
    ("name", "own_models", "picture"),
    [
        ("img2img", {}, "comfyload/photo.png"),
        ("inpainting", {}, "comfyload/photo_masked.png"),
        ("upscale", {}, None),
        ("controlnet", {"11.control_net_name": "control_v11p_sd15_canny.pth"}, "comfyload/edges.png"),
        ("lora", {"10.lora_name": "add_detail.safetensors"}, None),
    ],
)
def test_what_the_other_workflows_need(name: str, own_models: dict[str, str], picture: str | None) -> None:
    workflow = Workflow.load(name)
    assert workflow.models() == {"4.ckpt_name": "v1-5-pruned-emaonly.safetensors", **own_models}
    loaded = [node["inputs"]["image"] for node in workflow.graph.values() if node["class_type"] == "LoadImage"]
    assert loaded == ([] if picture is None else [picture])
    variation = workflow.on(INFO).vary(random.Random(1), text="a text", filename_prefix="x")
    assert set(variation.seeds) == {f"{node}.seed" for node in workflow.matches("KSampler.seed")}
    assert variation.graph["6"]["inputs"]["text"].rstrip() == variation.text == "a text"
    assert variation.graph["7"] == workflow.graph["7"]


def test_an_installed_package_has_its_workflows_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "workflows", tmp_path / "package" / "workflows"):
        folder.mkdir(parents=True)
        (folder / f"in_{folder.parent.name}.json").write_text(json.dumps(NODE))
    monkeypatch.setattr(api_format, "__file__", str(tmp_path / "package" / "workflow" / "api_format.py"))
    assert shipped_workflows() == ["in_package"]
    assert Workflow.load("in_package").graph == NODE


def test_a_file_is_looked_for_beside_the_test_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(NODE))
    assert Workflow.load("mine.json", root=tmp_path) == Workflow("mine", NODE)
    assert Workflow.load(tmp_path / "mine.json").name == "mine"
    monkeypatch.chdir(tmp_path)
    assert Workflow.load("./mine.json", root=tmp_path / "elsewhere").graph == NODE


def test_a_dict_is_copied() -> None:
    source: dict[str, Any] = {"1": {"class_type": "A", "inputs": {"x": {"deep": [1]}}}}
    workflow = Workflow.load(source)
    source["1"]["inputs"]["x"]["deep"].append(2)
    assert workflow.graph["1"]["inputs"]["x"] == {"deep": [1]}


def test_real_exports_load() -> None:
    assert Workflow.load(FLUX).graph == FLUX
    assert Workflow.load({"prompt": FLUX, "client_id": "x"}).graph == FLUX
    node_called_prompt = {"prompt": {"class_type": "A", "inputs": {}}}
    assert Workflow.load(node_called_prompt).graph == node_called_prompt


EDITORS: dict[str, Any] = {"nodes": [], "links": []}


@pytest.mark.parametrize(
    ("wrapped", "extra_data"),
    [
        ({"input": {"workflow": NODE, "images": []}}, {}),
        ({"id": "sync", "input": {"prompt": NODE}, "webhook": None}, {}),
        ({"prompt": NODE, "extra_data": {"style": "noir"}, "client_id": "x"}, {"style": "noir"}),
        ({"output": NODE, "workflow": EDITORS}, {"extra_pnginfo": {"workflow": EDITORS}}),
        ({"prompt": NODE, "workflow": EDITORS, "extra_data": {"extra_pnginfo": None}}, {"extra_pnginfo": None}),
        ({"prompt": NODE, "workflow": "a name", "extra_data": None}, {}),
    ],
)
def test_a_graph_is_unwrapped_with_what_is_sent_beside_it(wrapped: dict[str, Any], extra_data: dict[str, Any]) -> None:
    workflow = Workflow.load(wrapped)
    assert workflow.graph == NODE
    assert workflow.extra_data == extra_data


@pytest.mark.parametrize(
    ("wrapped", "says"),
    [
        ({"prompt": NODE, "output": NODE}, "'prompt' and 'output' both hold a workflow"),
        ({"input": {"workflow": {"1": {}}, "images": []}}, "under 'input.workflow': no workflow in API format"),
        (
            {"input": {"image": "a.png"}},
            "under 'input': no workflow in API format, whose nodes have a class_type; its keys are image",
        ),
        ({"input": {"workflow": EDITORS}}, "under 'input.workflow': this is the editor's own format"),
    ],
)
def test_a_wrapper_without_one_graph_is_named(wrapped: dict[str, Any], says: str) -> None:
    assert says in refusal(wrapped)


def test_a_dict_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["input"] = endless
    assert "no workflow in API format" in refusal(endless)


def test_links_by_number_are_links_to_the_id() -> None:
    literals = {"size": [512, 512], "flag": [True, 0]}
    graph = {
        "4": {"class_type": "A", "inputs": literals},
        "5": {"class_type": "B", "inputs": {"a": [4, 0], "b": ["4", 1]}},
    }
    read = Workflow.load(graph).graph
    assert read["5"]["inputs"] == {"a": ["4", 0], "b": ["4", 1]}
    assert read["4"]["inputs"] == literals


def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path: Path) -> None:
    node = '{"class_type": "A", "inputs": {"text": "\\"8\\": {", "8": 1}}'
    (tmp_path / "w.json").write_text(f'{{\n"8": {node},\n"9": {node},\n"8": {node}\n}}')
    assert refusal("w.json", tmp_path) == (
        'w.json, line 4: duplicate key "8", first in line 2; JSON keeps only the last: give each its own name'
    )


def test_keys_that_would_pin_the_servers_cache_are_dropped() -> None:
    node = {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "is_changed": [float("nan")]}
    assert Workflow.load({"1": node}).graph == {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}


def test_an_unknown_name_gets_the_shipped_ones_nearest_first() -> None:
    message = refusal("txt2imgsdxl")
    assert message.startswith("no workflow 'txt2imgsdxl'; shipped: txt2img_sdxl, txt2img")
    assert ".json" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "line 1 column 1"),
        ('{\n  "1": {,}\n}', "line 2 column 9"),
        ("[1]", "not list"),
        ("null", "not NoneType"),
        ("{}", "is empty"),
        ('{"nodes": [], "links": [], "version": 0.4}', "Workflow > Export (API)"),
        ('{"prompt": {"nodes": [], "links": []}}', "Save (API Format)"),
        ('{"1": {"inputs": {}}}', "node '1' has no class_type"),
        ('{"1": {"class_type": null}}', "node '1' has no class_type"),
        ('{"1": 5}', "node '1' has no class_type"),
        ('{"1": {"class_type": "A", "inputs": [1]}}', "inputs of node '1'"),
        ('{"1": {"class_type": "A", "inputs": {"x": ["9", 0]}}}', "1.x links to node '9', which does not exist"),
        ('{"1": {"class_type": "A", "inputs": {"x": NaN}}}', "JSON cannot represent"),
        ('{"1": {"class_type": "A", "inputs": {"x": "\\ud800"}}}', "JSON cannot represent"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(content)
    message = refusal("w.json", tmp_path)
    assert says in message
    assert message.startswith("w.json")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert refusal("none.json", tmp_path).startswith("no file 'none.json' in ")
    (tmp_path / "folder.json").mkdir()
    assert "cannot read 'folder.json'" in refusal("folder.json", tmp_path)


def test_a_dict_that_is_no_json_is_refused() -> None:
    assert "write '3', not 3" in refusal({3: {"class_type": "A"}})
    assert "JSON cannot represent" in refusal({"3": {"class_type": "A", "inputs": {"x": object()}}})


def test_models_are_found_by_input_and_by_suffix() -> None:
    graph = {
        "1": {"class_type": "LoraLoader", "inputs": {"lora_name": "detail", "strength_model": 1.0, "model": ["2", 0]}},
        "2": {"class_type": "GGUFLoader", "inputs": {"file": "flux.GGUF", "device": "cuda"}},
        "3": {"class_type": "Encode", "inputs": {"ckpt_name": ["1", 0], "text": "a cat"}},
    }
    assert Workflow.load(graph).models() == {"1.lora_name": "detail", "2.file": "flux.GGUF"}


def test_inputs_come_with_a_new_workflow_that_remembers_them() -> None:
    workflow = Workflow.load("txt2img")
    changed = workflow.on(INFO).with_inputs({"KSampler.steps": "4", "3.seed": 7, "Positive Prompt.text": "x"})
    assert changed.graph["3"]["inputs"]["steps"] == 4
    assert changed.graph["6"]["inputs"]["text"] == "x"
    assert {str(spot) for spot in changed.kept} == {"3.steps", "3.seed", "6.text"}
    assert workflow == Workflow.load("txt2img")
    again = changed.with_inputs({"KSampler.steps": 9})
    assert again.graph["3"]["inputs"]["steps"] == 9
    assert again.kept == changed.kept


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from(
                    ["nodes", "prompt", "output", "workflow", "input", "extra_data", "class_type", "inputs", "1"]
                ),
                st.text(),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)
graph_like = st.dictionaries(
    st.sampled_from(["1", "2", "57:3", ""]),
    st.fixed_dictionaries(
        {"class_type": st.text(max_size=3)},
        optional={
            "inputs": st.dictionaries(
                st.text(max_size=3),
                st.one_of(json_values, st.tuples(st.sampled_from(["1", "2", "9", ""]), st.integers(0, 2))),
                max_size=3,
            ),
            "_meta": json_values,
            "is_changed": json_values,
        },
    ),
    max_size=3,
)


@given(st.one_of(json_values, graph_like))
def test_any_json_is_a_workflow_or_a_workflow_error(value: Any) -> None:
    source = value if isinstance(value, dict) else {"prompt": value}
    try:
        graph = Workflow.load(source).graph
    except WorkflowError:
        return
    assert graph
    assert Workflow.load(graph).graph == graph


@given(st.binary(max_size=200))
def test_any_file_is_a_workflow_or_a_workflow_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "w.json"
    path.write_bytes(content)
    with pytest.raises(WorkflowError):  # 200 random bytes are never a workflow
        Workflow.load(path)
