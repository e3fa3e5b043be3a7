"""Prompts of a load, each drawn from the seed, the user and the iteration, regardless of the order of arrival."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_comfyload.metrics.comparable import compared, refuse_absent_classes
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.workflow.input_files import InputFile, with_local_files
from pytest_comfyload.workflow.preflight import paid_nodes, refuse_paid, respelled
from pytest_comfyload.workflow.template import DrawnPrompt
from pytest_comfyload.workflow.texts import DEFAULT_TEXTS, PromptText, load_texts
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["LoadedPart", "Source", "expect_gates"]


@dataclass(frozen=True, slots=True)
class LoadedPart:
    """A scenario with its files loaded; `name` is the group's, or None.

    `inputs` refer to the `local` files by the names that they will have on the servers.
    """

    name: str | None
    scenario: Scenario
    workflows: Sequence[tuple[Workflow, float]]
    texts: Sequence[PromptText]
    inputs: Mapping[str, Any]
    local: Sequence[InputFile]

    @classmethod
    def load(cls, name: str | None, scenario: Scenario, files: Path) -> LoadedPart:
        """Load the workflows, texts and local files of a scenario. Raises: UsageError."""
        workflows = [(Workflow.load(source, root=files), weight) for source, weight in scenario.workflows]
        texts = load_texts(DEFAULT_TEXTS if scenario.prompts is None else scenario.prompts, root=files)
        return cls(name, scenario, workflows, texts, *with_local_files(scenario.inputs, files))

    def check(self, unknown: Collection[str]) -> None:
        """Check everything that needs no server; values at the addresses in `unknown` are not available yet.

        Raises: UsageError.
        """
        known = {address: value for address, value in self.inputs.items() if address not in unknown}
        for address in known:
            if not any(workflow.matches(address) for workflow, _ in self.workflows):
                self.workflows[0][0].with_inputs({address: known[address]})
        for workflow, _ in self.workflows:
            workflow = workflow.with_inputs(self.meant(known, workflow))
            workflow = workflow.always_running(self.must_run(workflow), draws=bool(unknown) or self.texts_draw)
            for text in self.texts:
                workflow.with_text(text)

    def meant(self, inputs: Mapping[str, Any], workflow: Workflow) -> Mapping[str, Any]:
        """Return the inputs for a workflow; in a mix, only those whose node it has."""
        return _matching(inputs, workflow) if len(self.workflows) > 1 else inputs

    def must_run(self, workflow: Workflow) -> Sequence[str]:
        """Return the classes that must run; in a mix, those in this workflow, and those in none, which are errors."""
        anywhere = frozenset().union(*(other.classes for other, _ in self.workflows))
        return [each for each in self.scenario.must_run if each in workflow.classes or each not in anywhere]

    def served(
        self, workflow: Workflow, overrides: Mapping[str, str], server: str, api_keys: Mapping[str, str]
    ) -> Workflow:
        """Return the workflow as it is sent to a server, whose node classes it must already know.

        Args:
            overrides: Inputs from the command line, as text by address.
            server: The server's URL.
            api_keys: The keys for paid nodes, as extra_data.

        Raises:
            WorkflowError: The workflow has no place for an input, a text or a class of `must_run`.
        """
        inputs = self.meant(self.inputs, workflow)
        workflow = respelled(workflow.with_inputs({**inputs, **_matching(overrides, workflow)}))
        if not self.scenario.allow_api_nodes:
            refuse_paid(workflow, server)
        # Keys are only sent with workflows whose nodes need them.
        keys = api_keys if paid_nodes(workflow.nodes) else {}
        workflow = replace(workflow, extra_data={**workflow.extra_data, **keys, **self.scenario.extra_data})
        if self.scenario.prompts is not None:
            # Inputs from the command line take precedence over prompts, and may replace them.
            workflow = workflow.taking_texts(inputs, optional=len(self.workflows) > 1)
        return workflow.always_running(self.must_run(workflow), draws=self.texts_draw)

    def for_each_text(self, workflow: Workflow, overrides: Mapping[str, str]) -> Sequence[Workflow]:
        """Return the workflow for each text, with the text's inputs, which those of the command line override."""
        above = _matching(overrides, workflow)
        return [workflow.with_text(text).with_inputs(above) if text.inputs else workflow for text in self.texts]

    @property
    def texts_draw(self) -> bool:
        """Whether any text brings inputs of its own."""
        return any(text.inputs for text in self.texts)


def expect_gates(gates: Sequence[str], parts: Sequence[LoadedPart]) -> None:
    """Refuse gates that are not figures of these loads. Raises: UsageError."""
    for gate in gates:
        compared(gate)
    workflows = [workflow for part in parts for workflow, _ in part.workflows]
    refuse_absent_classes(gates, [name for workflow in workflows for name in workflow.classes])


def _matching(inputs: Mapping[str, Any], workflow: Workflow) -> dict[str, Any]:
    """Return the inputs whose address names a node of the workflow."""
    return {address: value for address, value in inputs.items() if workflow.matches(address)}


@dataclass(frozen=True, slots=True)
class Source:
    """Source of prompts: draws a workflow by weight, then a prompt of it.

    `workflows` has one version of each workflow per text, since a text can bring inputs of its own. `users` is the
    number of users who take turns with the texts. `vary_text`: no two prompts have the same text.
    """

    workflows: Sequence[tuple[Sequence[Workflow], float]]
    texts: Sequence[str]
    seed: str
    users: int
    filename_prefix: str
    vary_text: bool = True

    def __call__(self, user: int, iteration: int) -> DrawnPrompt:
        rng = random.Random(f"{self.seed}/{user}/{iteration}")
        by_text, weights = zip(*self.workflows, strict=True)
        chosen = by_text[0] if len(by_text) == 1 else rng.choices(by_text, weights)[0]
        return self._varied(chosen, rng, iteration * self.users + user, user, iteration)

    def warm_up(self, number: int) -> list[DrawnPrompt]:
        rng = random.Random(f"{self.seed}/warm-up/{number}")
        return [self._varied(by_text, rng, -number, 0, -number) for by_text, _ in self.workflows]

    def _varied(
        self, by_text: Sequence[Workflow], rng: random.Random, index: int, user: int, iteration: int
    ) -> DrawnPrompt:
        turn = index % len(self.texts)
        workflow = by_text[turn]
        return workflow.template.draw(
            rng,
            text=self.texts[turn],
            filename_prefix=f"{self.filename_prefix}/{workflow.name}",
            place={"index": index, "user": user, "iteration": iteration},
            vary_text=self.vary_text,
        )
