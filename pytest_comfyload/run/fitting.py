"""A part of a scenario is fitted to the servers that will run it, and becomes a group of the engine's users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.engine.plan import Group
from pytest_comfyload.run.input_files import InputFile, input_files
from pytest_comfyload.run.part import LoadedPart, matching
from pytest_comfyload.run.source import Source
from pytest_comfyload.run.target import Target, object_info_of
from pytest_comfyload.scenario.check import check_servable
from pytest_comfyload.scenario.workflow import Workflow

__all__ = ["FittedPart", "fit"]


@dataclass(frozen=True, slots=True)
class FittedPart:
    """`workflows`: one for each text, with their weights. `files`: what the servers must have before the load.

    `servers`: the places of those that the part goes to among the target's.
    """

    part: LoadedPart
    workflows: Sequence[tuple[Sequence[Workflow], float]]
    object_info: Mapping[str, Any]
    files: Sequence[InputFile]
    servers: tuple[int, ...]

    def group(self, seed: str, filename_prefix: str) -> Group:
        """What the engine gets."""
        name, scenario = self.part.name, self.part.scenario
        return Group(
            name=name,
            executor=scenario.executor,
            prompts=Source(
                workflows=self.workflows,
                texts=[text.text for text in self.part.texts],
                seed=seed if name is None else f"{seed}/{name}",
                users=scenario.executor.users,
                filename_prefix=filename_prefix,
                object_info=self.object_info,
            ),
            timeout=scenario.timeout,
            think_time=scenario.think_time,
            start=scenario.start,
            queue_timeout=scenario.queue_timeout,
            fetch=scenario.fetch,
            servers=self.servers,
        )


async def fit(part: LoadedPart, target: Target, servers: tuple[int, ...], overrides: Mapping[str, str]) -> FittedPart:
    """The part as each of these servers, or every worker, of the target can run it.

    Raises: ServerError, WorkflowError.
    """
    object_info: dict[str, Any] = {}
    workflows = list(part.workflows)
    for server in target.workers or [target.servers[place] for place in servers]:
        for number, (workflow, weight) in enumerate(workflows):
            info = await object_info_of(server, workflow)
            workflows[number] = (_served(part, workflow, overrides, info, server.url), weight)
            object_info |= info
    files = [file for workflow, _ in workflows for file in input_files(workflow, object_info, part.local)]
    by_text = [(_for_each_text(part, workflow, overrides, object_info), weight) for workflow, weight in workflows]
    return FittedPart(part, by_text, object_info, files, servers)


def _served(
    part: LoadedPart, workflow: Workflow, overrides: Mapping[str, str], object_info: Mapping[str, Any], url: str
) -> Workflow:
    meant = {**part.meant(part.inputs, workflow), **matching(overrides, workflow)}
    workflow = workflow.with_inputs(meant, object_info)
    allowed = part.scenario.allow_api_nodes
    workflow = check_servable(workflow, object_info, server=url, allow_api_nodes=allowed)
    return workflow.always_running(part.must_run(workflow), object_info, draws=part.texts_draw)


def _for_each_text(
    part: LoadedPart, workflow: Workflow, overrides: Mapping[str, str], object_info: Mapping[str, Any]
) -> Sequence[Workflow]:
    """The workflow with the inputs that come with each text, and those of the command line above them."""
    above = matching(overrides, workflow)
    return [
        workflow.with_text(text, object_info).with_inputs(above, object_info) if text.inputs else workflow
        for text in part.texts
    ]
