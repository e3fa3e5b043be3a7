"""What a first suite is made for: what the server has, and the workflow that is sent to it."""

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
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["StarterWorkflow", "Survey", "own_workflow", "shipped_workflow", "survey"]

_LOADER, _INPUT = "CheckpointLoaderSimple", "ckpt_name"


@dataclass(frozen=True, slots=True)
class Survey:
    """What a server has: `devices` are those that it works on, `classes` how many node classes it knows."""

    version: str
    devices: tuple[str, ...]
    classes: int
    checkpoints: tuple[str, ...]
    simulated: bool

    @property
    def hardware(self) -> str:
        """The devices on one line of plain characters: it is quoted in a Python file."""
        # torch names them `cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync`.
        named = (re.sub(r"^\w+:\d+ | : \w+$", "", device) for device in self.devices)
        shown = harmless_line(", ".join(named)) or "an unknown device"
        return ("SIMULATED " if self.simulated else "") + re.sub(r"[^\w ,.:()+-]", "", shown)[:80]

    def sentence(self) -> str:
        checkpoints = f"{len(self.checkpoints)} checkpoint{'' if len(self.checkpoints) == 1 else 's'}"
        return f"ComfyUI {harmless_line(self.version)} on {self.hardware}: {self.classes} node classes, {checkpoints}"


@dataclass(frozen=True, slots=True)
class StarterWorkflow:
    """`source`: as the suite names it, a shipped name or the file that `content` goes to, which is at `path` now.
    `inputs`: those that the scenario sets.
    """

    source: str
    path: Path | None = None
    content: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As a part of a Python name."""
        return re.sub(r"\W+", "_", Path(self.source).stem, flags=re.ASCII).strip("_").lower() or "workflow"


def survey(server: ServerAddress) -> Survey:
    """Ask a server what it has. Raises: ServerError."""

    async def asked() -> Survey:
        async with unsocketed(server) as client:
            stats, classes = await asyncio.gather(client.system_stats(), client.object_info())
        spec = ObjectInfo(classes).spec(_LOADER, _INPUT)
        options = spec.options if spec is not None and spec.options else ()
        files = tuple(each for each in options if isinstance(each, str))
        return Survey(stats.version, stats.devices, len(classes), files, stats.time_scale is not None)

    return asyncio.run(asked())


def own_workflow(path: Path) -> StarterWorkflow:
    """Return the user's exported workflow, to be copied beside the suite without what was wrapped around it.

    Raises:
        WorkflowError: It is no workflow in API format; says how to export one.
    """
    workflow = Workflow.load(path, root=Path.cwd())
    content = json.dumps(workflow.graph, indent=2, ensure_ascii=False) + "\n"
    return StarterWorkflow(f"{StarterWorkflow(path.name).name}.json", path.absolute(), content)


def shipped_workflow(checkpoints: Sequence[str]) -> StarterWorkflow:
    """Return a shipped workflow that a server with these checkpoints can run.

    Raises:
        UsageError: There is none.
    """
    if not checkpoints:
        raise UsageError(
            "the server has no checkpoint for a shipped workflow; export one of your own by Workflow > Export (API) in "
            "ComfyUI, and give --workflow FILE"
        )
    own = Workflow.load("txt2img").graph["4"]["inputs"][_INPUT]
    if own in checkpoints:
        return StarterWorkflow("txt2img")
    small = next((each for each in checkpoints if re.search(r"sd[-_.]?1|v1[-_.]?5|1[-_.]5", each, re.IGNORECASE)), None)
    large = next((each for each in checkpoints if "xl" in each.lower()), None)
    if small is None and large is not None:
        return StarterWorkflow("txt2img_sdxl", inputs={f"{_LOADER}.{_INPUT}": large})
    return StarterWorkflow("txt2img", inputs={f"{_LOADER}.{_INPUT}": small or checkpoints[0]})
