"""One part of a scenario on its way to the engine: its files read, then fitted to the servers, then a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_comfyload.engine.plan import Group
from pytest_comfyload.run.input_files import InputFile, input_files, with_local_files
from pytest_comfyload.run.source import Source
from pytest_comfyload.run.target import Target, object_info_of
from pytest_comfyload.scenario.check import check_servable
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.scenario.texts import DEFAULT_TEXTS, load_texts
from pytest_comfyload.scenario.workflow import Workflow

__all__ = ["FittedPart", "LoadedPart"]

_Weighted = Sequence[tuple[Workflow, float]]


@dataclass(frozen=True, slots=True)
class LoadedPart:
    """`name` is the group's, or None; `inputs` have the names under which `local` files will lie on the servers."""

    name: str | None
    scenario: Scenario
    workflows: _Weighted
    texts: Sequence[str]
    inputs: Mapping[str, Any]
    local: Sequence[InputFile]

    @classmethod
    def load(cls, name: str | None, scenario: Scenario, files: Path) -> LoadedPart:
        """Raises: UsageError."""
        workflows = [(Workflow.load(source, root=files), weight) for source, weight in scenario.workflows]
        texts = DEFAULT_TEXTS if scenario.prompts is None else load_texts(scenario.prompts, root=files)
        return cls(name, scenario, workflows, texts, *with_local_files(scenario.inputs, files))

    async def fitted(self, target: Target, overrides: Mapping[str, str]) -> FittedPart:
        """As every server of the target can run it. Raises: ServerError, WorkflowError."""
        object_info: dict[str, Any] = {}
        workflows = list(self.workflows)
        for server in target.servers:
            for number, (workflow, weight) in enumerate(workflows):
                info = await object_info_of(server, workflow)
                workflows[number] = (self._with_inputs(workflow, overrides, info, server.url), weight)
                object_info |= info
        files = [file for workflow, _ in workflows for file in input_files(workflow, object_info, self.local)]
        return FittedPart(self, workflows, object_info, files)

    def _with_inputs(
        self, workflow: Workflow, overrides: Mapping[str, str], object_info: Mapping[str, Any], url: str
    ) -> Workflow:
        inputs: Mapping[str, Any] = self.inputs
        if len(self.workflows) > 1:
            # In a mix, an input is meant for those workflows that have the node.
            inputs = {address: value for address, value in inputs.items() if workflow.matches(address)}
        meant = {address: text for address, text in overrides.items() if workflow.matches(address)}
        workflow = workflow.with_inputs({**inputs, **meant}, object_info)
        allowed = self.scenario.allow_api_nodes
        return check_servable(workflow, object_info, server=url, allow_api_nodes=allowed)


@dataclass(frozen=True, slots=True)
class FittedPart:
    """`files` are those that the servers must have before the load."""

    part: LoadedPart
    workflows: _Weighted
    object_info: Mapping[str, Any]
    files: Sequence[InputFile]

    def group(self, seed: str, filename_prefix: str) -> Group:
        """What the engine gets."""
        name, scenario = self.part.name, self.part.scenario
        return Group(
            name=name,
            executor=scenario.executor,
            prompts=Source(
                workflows=self.workflows,
                texts=self.part.texts,
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
        )
