"""The prompts of a load: each drawn from the seed, the user and the iteration, whatever the order of arrival."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_comfyload.metrics.comparable import compared, refuse_absent_classes
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.workflow.input_files import InputFile, with_local_files
from pytest_comfyload.workflow.template import DrawnPrompt
from pytest_comfyload.workflow.texts import DEFAULT_TEXTS, PromptText, load_texts
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["LoadedPart", "Source", "expect_gates", "matching"]


@dataclass(frozen=True, slots=True)
class LoadedPart:
    """`name` is the group's, or None; `inputs` have the names under which `local` files will lie on the servers."""

    name: str | None
    scenario: Scenario
    workflows: Sequence[tuple[Workflow, float]]
    texts: Sequence[PromptText]
    inputs: Mapping[str, Any]
    local: Sequence[InputFile]

    @classmethod
    def load(cls, name: str | None, scenario: Scenario, files: Path) -> LoadedPart:
        """Raises: UsageError."""
        workflows = [(Workflow.load(source, root=files), weight) for source, weight in scenario.workflows]
        texts = load_texts(DEFAULT_TEXTS if scenario.prompts is None else scenario.prompts, root=files)
        return cls(name, scenario, workflows, texts, *with_local_files(scenario.inputs, files))

    def check(self, unknown: Collection[str]) -> None:
        """What can be known without a server; the inputs at the addresses `unknown` are still to come.

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
        """In a mix, an input is meant for those workflows that have the node."""
        return matching(inputs, workflow) if len(self.workflows) > 1 else inputs

    def must_run(self, workflow: Workflow) -> Sequence[str]:
        """The classes that must run; in a mix, those that the workflow has, and those that none has."""
        anywhere = frozenset().union(*(other.classes for other, _ in self.workflows))
        return [each for each in self.scenario.must_run if each in workflow.classes or each not in anywhere]

    @property
    def texts_draw(self) -> bool:
        """Whether texts bring inputs of their own."""
        return any(text.inputs for text in self.texts)


def expect_gates(gates: Sequence[str], parts: Sequence[LoadedPart]) -> None:
    """Refuse gates that are no figure of these loads. Raises: UsageError."""
    for gate in gates:
        compared(gate)
    workflows = [workflow for part in parts for workflow, _ in part.workflows]
    refuse_absent_classes(gates, [name for workflow in workflows for name in workflow.classes])


def matching(inputs: Mapping[str, Any], workflow: Workflow) -> dict[str, Any]:
    """Those whose address means a node of the workflow."""
    return {address: value for address, value in inputs.items() if workflow.matches(address)}


@dataclass(frozen=True, slots=True)
class Source:
    """Draws a workflow by weight, then varies it.

    Of each workflow there is one for every text, since a text can bring inputs of its own. `users` is how many take
    turns with the texts. `vary_text`: no two prompts have the same text.
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
