"""The subject of a load: what all its prompts have in common, and what the servers report about themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.protocol.system_stats import SystemStats
from pytest_comfyload.run.prepare import FittedPart
from pytest_comfyload.run.subject import model_folders, server_facts, subject_of_parts
from pytest_comfyload.run.target import Installed, Target
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.prompts import LoadedPart


def _subject(*installed: Installed, **arguments: Any) -> dict[str, Any]:
    """Return the subject with the settings of the command line and the facts of the servers applied."""
    return subject_of_parts(_fitted(**arguments), installed)


def _fitted(object_info: Mapping[str, Any] = {}, **arguments: Any) -> list[FittedPart]:
    fitted = []
    for name, part in Scenario.build(**arguments).parts:
        loaded = LoadedPart.load(name, part, Path())
        workflows = [
            ([workflow.on(ObjectInfo(object_info)).with_inputs(loaded.meant(loaded.inputs, workflow))], weight)
            for workflow, weight in loaded.workflows
        ]
        fitted.append(FittedPart(loaded, workflows, [], (0,), []))
    return fitted


def test_constant_inputs_are_named_by_class_and_what_varies_is_not() -> None:
    subject = _subject(workflow="txt2img", inputs={"KSampler.steps": 7})
    assert subject["KSampler.steps"] == 7
    assert subject["CheckpointLoaderSimple.ckpt_name"].endswith(".safetensors")
    assert "KSampler.seed" not in subject
    assert "SaveImage.filename_prefix" not in subject
    texts = [name for name in subject if name.startswith("CLIPTextEncode")]
    assert len(texts) == 1  # the negative one, named by its node


def test_what_the_user_set_stays_though_it_would_vary() -> None:
    assert _subject(workflow="txt2img", inputs={"KSampler.seed": 5})["KSampler.seed"] == 5


def test_what_is_drawn_is_all_that_can_be_drawn() -> None:
    assert _subject(workflow="txt2img", inputs={"KSampler.steps": [20, 30]})["KSampler.steps"] == [20, 30]


def test_very_many_values_are_told_by_their_number_and_a_hash() -> None:
    def told(values: object) -> Any:
        return _subject(workflow="txt2img", inputs={"KSampler.steps": values})["KSampler.steps"]

    many = list(range(1, 5001))
    assert told(many) == told(tuple(many)) == told(dict.fromkeys(many, 1))
    assert re.fullmatch("5,000 values, [0-9a-f]{8}", told(many))
    assert told(many) != told([*many[:-1], 1])
    assert told(many[:100]) == many[:100]


def test_two_runs_have_the_same_subject() -> None:
    assert _subject(workflow="lora") == _subject(workflow="lora")


def test_another_graph_is_another_subject() -> None:
    assert _subject(workflow="lora")["graph"] != _subject(workflow="txt2img")["graph"]


def test_in_a_mix_and_in_groups_each_has_its_name_before_it() -> None:
    mix = _subject(mix={"txt2img": 3, "lora": 1})
    assert {"txt2img: KSampler.steps", "lora: KSampler.steps"} <= mix.keys()
    groups = _subject(groups={"light": {"workflow": "txt2img"}, "flooder": {"workflow": "txt2img", "burst": 5}})
    assert {"light: txt2img: KSampler.steps", "flooder: txt2img: KSampler.steps"} <= groups.keys()


CKPT = "CheckpointLoaderSimple.ckpt_name"


def test_a_model_with_its_size_where_a_server_tells_it() -> None:
    small, large = (Installed(models={"checkpoints": {"a.safetensors": size}}) for size in (1000, 2_132_625_612))
    one = {"workflow": "txt2img", "inputs": {CKPT: "a.safetensors"}}
    assert _subject(small, **one)[CKPT] == "a.safetensors (1,000 B)"
    assert _subject(large, small, large, **one)[CKPT] == "a.safetensors (1,000 B or 2,132,625,612 B)"
    assert _subject(Installed(), **one)[CKPT] == "a.safetensors"
    drawn = {"workflow": "txt2img", "inputs": {CKPT: ["a.safetensors", "b.safetensors"]}}
    assert _subject(small, **drawn)[CKPT] == ["a.safetensors (1,000 B)", "b.safetensors"]
    # Only models in the folder of the loader count.
    elsewhere = Installed(models={"loras": {"a.safetensors": 1000}})
    assert _subject(elsewhere, **one)[CKPT] == "a.safetensors"


def test_where_the_models_of_a_workflow_are() -> None:
    assert model_folders(_fitted(workflow="lora")) == ["checkpoints", "loras"]


def test_the_custom_nodes_of_a_workflow_by_what_every_server_tells() -> None:
    graph = {"1": {"class_type": "Mine", "inputs": {}}, "2": {"class_type": "Stock", "inputs": {}}}
    modules = {"Mine": "custom_nodes.my-pack.v2", "Stock": "nodes", "Other": "custom_nodes.unused"}
    object_info = {name: {"python_module": module} for name, module in modules.items()}
    subject = subject_of_parts(_fitted(object_info, workflow=graph))
    assert [name for name in subject if "node " in name] == ["custom node my-pack.v2"]
    assert subject["custom node my-pack.v2"] == "version unknown"


def test_texts_are_known_by_their_hash() -> None:
    one, other = (_subject(workflow="txt2img", prompts=[text])["prompts"] for text in ("a cat", "a dog"))
    assert one.startswith("1 texts, ")
    assert one != other


def test_nothing_secret_and_nothing_that_cannot_be_stored() -> None:
    graph = {"1": {"class_type": "Api", "inputs": {"api_key": "hunter2", "big": 2**70, "url": "https://a:b@host"}}}
    subject = _subject(workflow=graph)
    assert (subject["Api.api_key"], subject["Api.big"], subject["Api.url"]) == ("…", str(2**70), "https://host")


def test_what_a_server_says_of_itself() -> None:
    raw = {
        "system": {
            "comfyui_version": "0.3.75",
            "pytorch_version": "2.9",
            "python_version": "3.11.7 (main)",
            "os": "nt",
        },
        "devices": [{"name": "cuda:0 X", "type": "cuda", "vram_total": 8}, {"name": 3}, "strange"],
    }
    stats = SystemStats("0.3.75", (), ("main.py", "--token", "hunter2"), None, raw)
    address = ServerAddress("http://gpu1:8188")
    (told,) = server_facts(Target((address,), (stats,), None), [Installed({"pack": "abc1234"})])
    assert (told.comfyui, told.torch, told.python, told.system) == ("0.3.75", "2.9", "3.11.7", "nt")
    assert told.custom_nodes == {"pack": "abc1234"}
    assert told.flags == ("--token", "…")
    assert [(device.name, device.type, device.memory) for device in told.devices] == [("cuda:0 X", "cuda", 8)]


def test_of_a_balancer_the_workers_are_told() -> None:
    stats = SystemStats("1", (), (), None, {"system": {}, "devices": []})
    balancer, worker = ServerAddress("http://lb"), ServerAddress("http://gpu1")
    (told,) = server_facts(Target((balancer,), (stats,), None, (worker,), (stats,)), [Installed()])
    assert told.url == "http://gpu1"
