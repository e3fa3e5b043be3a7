"""Both targets of the contract tests are ready and can load the checkpoint they name."""

from __future__ import annotations

import json
import urllib.request

from pytest_comfyload.launch import wait_until_ready
from tests.real_comfyui.target import Target


def test_a_target_executes_and_has_its_checkpoint_and_probes(target: Target) -> None:
    wait_until_ready(target.url, timeout=60)
    with urllib.request.urlopen(f"{target.url}/object_info", timeout=30) as response:
        info = json.load(response)
    choices, *_ = info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
    assert target.checkpoint in choices
    assert {"ProbeSleep", "ProbeFail", "ProbeOOM"} <= set(info)
