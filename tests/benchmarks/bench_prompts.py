"""CPU time of drawing a prompt, by the size of its graph, and of 99,999 values for an input.

python -m tests.benchmarks.bench_prompts
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.prompts import Source
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import OBJECT_INFO

ROUNDS, PROMPTS = 5, 1000
COLORS = {"EmptyImage.color": range(1, 100_000)}
SMALL: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def large(nodes: int) -> Workflow:
    """Return copies of txt2img in one graph of about `nodes` nodes, in which every encoder must run."""
    graph = Workflow.load("txt2img").graph
    copies = {
        f"{copy}:{node_id}": {**node, "inputs": {name: _linked(value, copy) for name, value in node["inputs"].items()}}
        for copy in range(nodes // len(graph))
        for node_id, node in graph.items()
    }
    return Workflow.load(copies).on(ObjectInfo(OBJECT_INFO)).always_running(["CLIPTextEncode"])


def _linked(value: Any, copy: int) -> Any:
    return [f"{copy}:{value[0]}", value[1]] if isinstance(value, list) else value


def seconds(work: Callable[[int], object], times: int) -> float:
    """Return the CPU seconds of one call of `work`: the least of several rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for number in range(times):
            work(number)
        rounds.append((time.process_time() - began) / times)
    return min(rounds)


def main() -> None:
    info = ObjectInfo(OBJECT_INFO)
    colors = {address: list(values) for address, values in COLORS.items()}
    small = Workflow.load(SMALL).on(info)
    workflows = {
        "2 nodes, 99,999 values": small.with_inputs(colors),
        "txt2img_sdxl": Workflow.load("txt2img_sdxl").on(info),
        "300 nodes, must_run": large(300),
    }
    for name, workflow in workflows.items():
        draw = functools.partial(Source([([workflow], 1.0)], ["a cat"], "7", 1, "comfyload/run"), 0)
        print(f"{name:24}{1e6 * seconds(draw, PROMPTS):8.1f} µs a prompt")
    print(f"{'reading 99,999 values':24}{1e3 * seconds(lambda _: small.with_inputs(colors), 3):8.1f} ms")


if __name__ == "__main__":
    main()
