"""The node classes of all workers: what a user may send, and which workers can execute it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pytest_comfyload.gateway.validation import PromptJudgement, judge
from pytest_comfyload.protocol.json_values import as_dict, as_list

__all__ = ["NodeCatalog", "model_of"]

# Loader inputs that name the main model of a prompt, where most of its time is spent.
_MODEL_INPUTS = ("ckpt_name", "unet_name")


class NodeCatalog:
    """The /object_info of each worker, and their union: every class and every choice that at least one worker has."""

    def __init__(self) -> None:
        self.union: dict[str, Any] = {}
        self.asked_at = 0.0
        self._workers: dict[str, Mapping[str, Any]] = {}

    def learn(self, worker: str, classes: Mapping[str, Any]) -> None:
        """Record the node classes that a worker reported."""
        self.asked_at = time.monotonic()
        if self._workers.get(worker) == classes:
            return
        self._workers[worker] = classes
        union: dict[str, Any] = {}
        for each in self._workers.values():
            for name, info in each.items():
                union[name] = info if name not in union or union[name] == info else _merged(union[name], info)
        self.union = union

    def judge(self, graph: object, targets: object) -> tuple[PromptJudgement, str]:
        """Return the judgement of a prompt and the workers that can execute it: `,w1,w3,`, or empty for all."""
        judgement = judge(graph, self.union, targets)
        if judgement.error is not None or self._are_equal:
            return judgement, ""
        able = [name for name, classes in self._workers.items() if _can_execute(graph, classes, targets, judgement)]
        if not able:
            # Every class and model exists on some worker, but no single worker has all of them: answer as one would.
            return judge(graph, next(iter(self._workers.values())), targets), ""
        return judgement, "" if len(able) == len(self._workers) else f",{','.join(able)},"

    @property
    def differing(self) -> bool:
        """Whether the workers differ in their node classes or choices."""
        return not self._are_equal

    @property
    def _are_equal(self) -> bool:
        first, *others = self._workers.values() or [{}]
        return all(each is first or each == first for each in others)


def _can_execute(graph: object, classes: Mapping[str, Any], targets: object, wanted: PromptJudgement) -> bool:
    found = judge(graph, classes, targets)
    return found.error is None and set(found.outputs) >= set(wanted.outputs)


def _merged(one: Any, other: Any) -> Any:
    """Return the first description with the choices of the second added."""
    inputs = {
        section: {
            name: _with_choices(declaration, as_dict(as_dict(as_dict(other).get("input")).get(section)).get(name))
            for name, declaration in as_dict(declared).items()
        }
        for section, declared in as_dict(as_dict(one).get("input")).items()
    }
    return {**one, "input": inputs}


def _with_choices(declaration: Any, other: Any) -> Any:
    if not (as_list(declaration) and as_list(other)):
        return declaration
    if isinstance(declaration[0], list) and isinstance(other[0], list):
        return [[*declaration[0], *(each for each in other[0] if each not in declaration[0])], *declaration[1:]]
    options, more = (as_dict(each[1] if len(each) > 1 else None).get("options") for each in (declaration, other))
    if declaration[0] == "COMBO" and isinstance(options, list) and isinstance(more, list):
        added = [*options, *(each for each in more if each not in options)]
        return ["COMBO", {**declaration[1], "options": added}, *declaration[2:]]
    return declaration


def model_of(graph: Mapping[str, Any]) -> str:
    """Return the checkpoint or diffusion model that a prompt loads first, or an empty string if it names none."""
    for node in graph.values():
        for name in _MODEL_INPUTS:
            value = as_dict(as_dict(node).get("inputs")).get(name)
            if isinstance(value, str):
                return value
    return ""
