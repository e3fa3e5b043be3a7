"""What the preflight check reports as contradicting `/object_info` is what a real server rejects."""

from __future__ import annotations

import json
import random
import urllib.error
import urllib.request
from typing import Any

from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.test_preflight import TXT2IMG, checked, refusal

REFUSED: dict[str, dict[str, Any]] = {
    "no checkpoint": {"4": {"ckpt_name": "nope.safetensors"}},
    "no sampler": {"3": {"sampler_name": "eulr"}},
    "too few steps": {"3": {"steps": 0}},
    "steps in words": {"3": {"steps": "many"}},
    "cfg too high": {"3": {"cfg": 101}},
}


def post(url: str, graph: Any) -> int:
    body = json.dumps({"prompt": graph}).encode()
    request = urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_real_server_agrees(real_comfyui: str) -> None:
    with urllib.request.urlopen(f"{real_comfyui}/object_info", timeout=30) as answer:
        info = json.load(answer)
    small = {"3.steps": "1", "5.width": "64", "5.height": "64", "KSampler.seed": "123454321"}
    good = checked(TXT2IMG.on(ObjectInfo(info)).with_inputs(small), info)
    assert post(real_comfyui, good.vary(random.Random(1), text="x", filename_prefix="c").graph) == 200
    for change in REFUSED.values():
        bad = json.loads(json.dumps(good.graph))
        for node_id, inputs in change.items():
            bad[node_id]["inputs"].update(inputs)
        assert len(refusal(Workflow.load(bad), info)) == 1
        assert post(real_comfyui, bad) == 400
