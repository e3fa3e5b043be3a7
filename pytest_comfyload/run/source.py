"""The prompts of a group, each drawn from the run's seed and its own place: the order of arrival changes nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.scenario.workflow import Workflow

__all__ = ["DrawnPrompt", "Source"]


@dataclass(frozen=True, slots=True)
class DrawnPrompt:
    """One prompt to send, and of which workflow it is."""

    workflow: str
    graph: Mapping[str, Any]
    varied: frozenset[str]
    seeds: Mapping[str, int]
    text: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """Draws a workflow by weight, then varies it. `users` is how many take turns with the texts."""

    workflows: Sequence[tuple[Workflow, float]]
    texts: Sequence[str]
    seed: str
    users: int
    filename_prefix: str
    object_info: Mapping[str, Any]

    def __call__(self, user: int, iteration: int) -> DrawnPrompt:
        rng = random.Random(f"{self.seed}/{user}/{iteration}")
        workflows, weights = zip(*self.workflows, strict=True)
        workflow = workflows[0] if len(workflows) == 1 else rng.choices(workflows, weights)[0]
        return self._varied(workflow, rng, iteration * self.users + user)

    def warm_up(self, number: int) -> list[DrawnPrompt]:
        rng = random.Random(f"{self.seed}/warm-up/{number}")
        return [self._varied(workflow, rng, -number) for workflow, _ in self.workflows]

    def _varied(self, workflow: Workflow, rng: random.Random, turn: int) -> DrawnPrompt:
        variation = workflow.vary(
            rng,
            text=self.texts[turn % len(self.texts)],
            filename_prefix=f"{self.filename_prefix}/{workflow.name}",
            object_info=self.object_info,
        )
        return DrawnPrompt(workflow.name, variation.graph, variation.varied, variation.seeds, variation.text)
