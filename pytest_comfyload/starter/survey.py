"""Basis of a first suite: what the server provides, and the workflow that is sent to it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.run.target import unsocketed
from pytest_comfyload.text import harmless_line
from pytest_comfyload.workflow.graph import link_of, spots
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.slots import Slots
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["StarterWorkflow", "Survey", "own_workflow", "shipped_workflow", "survey"]

_LOADER, _INPUT = "CheckpointLoaderSimple", "ckpt_name"


@dataclass(frozen=True, slots=True)
class Survey:
    """What a server provides: `devices` that it computes on, and `classes`, the number of its node classes."""

    version: str
    devices: tuple[str, ...]
    classes: int
    checkpoints: tuple[str, ...]
    simulated: bool

    @property
    def hardware(self) -> str:
        """The devices on one line of plain characters, which is inserted into a Python file."""
        # torch names them `cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync`.
        named = (re.sub(r"^\w+:\d+ | : \w+$", "", device) for device in self.devices)
        shown = harmless_line(", ".join(named)) or "an unknown device"
        return ("SIMULATED " if self.simulated else "") + re.sub(r"[^\w ,.:()+-]", "", shown)[:80]

    def sentence(self) -> str:
        checkpoints = f"{len(self.checkpoints)} checkpoint{'' if len(self.checkpoints) == 1 else 's'}"
        return f"ComfyUI {harmless_line(self.version)} on {self.hardware}: {self.classes} node classes, {checkpoints}"


@dataclass(frozen=True, slots=True)
class StarterWorkflow:
    """Workflow of a first suite.

    `source`: its name in the suite, either that of a shipped workflow or of the file that `content` is written to.
    `path`: where that workflow is now. `inputs`: the inputs that the scenario sets. `must_run`: the node classes that
    need new input in each prompt, for a workflow whose prompts would all be the same.
    """

    source: str
    path: Path | None = None
    content: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    must_run: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name that can be part of a Python identifier."""
        return re.sub(r"\W+", "_", Path(self.source).stem, flags=re.ASCII).strip("_").lower() or "workflow"


def survey(server: ServerAddress) -> Survey:
    """Query what a server provides. Raises: ServerError."""

    async def asked() -> Survey:
        async with unsocketed(server) as client:
            stats, classes = await asyncio.gather(client.system_stats(), client.object_info())
        spec = ObjectInfo(classes).spec(_LOADER, _INPUT)
        options = spec.options if spec is not None and spec.options else ()
        files = tuple(each for each in options if isinstance(each, str))
        return Survey(stats.version, stats.devices, len(classes), files, stats.time_scale is not None)

    return asyncio.run(asked())


def own_workflow(path: Path) -> StarterWorkflow:
    """Return the user's exported workflow, to be copied next to the suite as a bare graph.

    Raises:
        WorkflowError: It is not a workflow in API format; the message says how to export one.
    """
    workflow = Workflow.load(path, root=Path.cwd())
    content = json.dumps(workflow.graph, indent=2, ensure_ascii=False) + "\n"
    name = f"{StarterWorkflow(path.name).name}.json"
    return StarterWorkflow(name, path.absolute(), content, must_run=_must_run(workflow))


def _must_run(workflow: Workflow) -> tuple[str, ...]:
    """Return the classes that feed the outputs of a workflow without seeds and texts, such as one of image filters."""
    slots = Slots(workflow.nodes, workflow.kept)
    if slots.seed_ranges() or slots.positive_texts():
        return ()
    links = [(spot.node, source) for spot, value in spots(workflow.graph) if (source := link_of(value)) is not None]
    feeding = {source for _, source in links}
    return tuple(sorted({workflow.nodes.class_of(source) for node, source in links if node not in feeding}))


def shipped_workflow(checkpoints: Sequence[str]) -> StarterWorkflow:
    """Return a shipped workflow that a server with these checkpoints can run.

    Raises:
        UsageError: The server has no checkpoints.
    """
    if not checkpoints:
        raise UsageError(
            "the server has no checkpoint for a shipped workflow; export one of your own with "
            "Workflow > Export (API) in ComfyUI, and give --workflow FILE"
        )
    own = Workflow.load("txt2img").graph["4"]["inputs"][_INPUT]
    if own in checkpoints:
        return StarterWorkflow("txt2img")
    small = next((each for each in checkpoints if re.search(r"sd[-_.]?1|v1[-_.]?5|1[-_.]5", each, re.IGNORECASE)), None)
    large = next((each for each in checkpoints if "xl" in each.lower()), None)
    if small is None and large is not None:
        return StarterWorkflow("txt2img_sdxl", inputs={f"{_LOADER}.{_INPUT}": large})
    return StarterWorkflow("txt2img", inputs={f"{_LOADER}.{_INPUT}": small or checkpoints[0]})
