"""The prompts of a group, each drawn from the run's seed and its own place: the order of arrival changes nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.scenario.workflow import Workflow

__all__ = ["DrawnPrompt", "Source"]


@dataclass(frozen=True, slots=True)
class DrawnPrompt:
    """One prompt to send, and of which workflow it is."""

    workflow: str
    graph: Mapping[str, Any]
    fresh: frozenset[str]
    needed: frozenset[str]
    seeds: Mapping[str, int]
    text: str | None
    inputs: Mapping[str, Any]
    extra_data: Mapping[str, Any] = field(repr=False)


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
    object_info: Mapping[str, Any]
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
        variation = workflow.vary(
            rng,
            text=self.texts[turn],
            filename_prefix=f"{self.filename_prefix}/{workflow.name}",
            object_info=self.object_info,
            place={"index": index, "user": user, "iteration": iteration},
            vary_text=self.vary_text,
        )
        return DrawnPrompt(
            workflow=workflow.name,
            graph=variation.graph,
            fresh=variation.fresh,
            needed=variation.needed,
            seeds=variation.seeds,
            text=variation.text,
            inputs=variation.inputs,
            extra_data=workflow.extra_data,
        )
