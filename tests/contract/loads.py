"""Loads for contract tests: small workflows, and what the server itself reports about a prompt."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.real_comfyui.target import Target

__all__ = ["SMALL", "fetched", "probe", "run", "server_times"]

# Small enough for a CPU: about a second per prompt.
SMALL = {
    "CheckpointLoaderSimple.ckpt_name": "tiny_sd15.safetensors",
    "EmptyLatentImage.width": "64",
    "EmptyLatentImage.height": "64",
    "KSampler.steps": "3",
}


def run(
    target: Target,
    store: Path,
    *args: Any,
    overrides: Mapping[str, str] | None = None,
    delete_leftovers: bool = False,
    **kwargs: Any,
) -> LoadResult:
    """Run one load against a target; the arguments are those of `load_scenario`.

    These tests are about servers, on a machine shared with other tests: a late generator must not invalidate them.
    """
    return run_load(
        LoadRun(
            scenario=Scenario.build(*args, **{"max_send_lag": "30s", **kwargs}),
            servers=(ServerAddress.parse(target.url),),
            title="contract",
            files=store,
            store=store,
            overrides=overrides or {},
            delete_leftovers=delete_leftovers,
        )
    )


def probe(seconds: float = 0.5, then: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a workflow that sleeps and saves an image; `then` adds or replaces nodes."""
    graph: dict[str, Any] = {
        "1": {"class_type": "ProbeSleep", "inputs": {"seconds": seconds, "seed": 1, "width": 64}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "probe"}},
    }
    return {**graph, **(then or {})}


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def server_times(target: Target, prompt_id: str) -> dict[str, float]:
    """Return the server's own stamps of a prompt, in seconds: create_time, execution_start, execution_success."""
    entry = fetched(f"{target.url}/history/{prompt_id}")[prompt_id]
    stamps = {kind: data["timestamp"] / 1000 for kind, data in entry["status"]["messages"]}
    return {**stamps, "create_time": entry["prompt"][3]["create_time"] / 1000}
