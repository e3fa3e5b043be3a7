"""What a load is about, in words that can be compared and hold nothing secret: the inputs that all its prompts have in
common, by `class.input`, and what the servers say of themselves."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from pytest_comfyload.history.secrets import public_flags, public_values
from pytest_comfyload.result.server_facts import ServerFacts
from pytest_comfyload.run.fitting import FittedPart
from pytest_comfyload.run.target import Target
from pytest_comfyload.scenario.graph import Graph, Spot, link_of, spots, value_at
from pytest_comfyload.scenario.workflow import Workflow

__all__ = ["server_facts", "subject_of_parts"]


def subject_of_parts(parts: Sequence[FittedPart]) -> dict[str, Any]:
    """Of several groups and workflows, each with its name before it. `graph` is a hash of the classes and links."""
    workflows = [(part.part.name, by_text[0]) for part in parts for by_text, _ in part.workflows]
    several = len(workflows) > 1
    inputs = {
        f"{_place(group, workflow.name) if several else ''}{name}": value
        for group, workflow in workflows
        for name, value in _of_workflow(workflow)
    }
    return public_values(inputs) | _texts(parts)


def server_facts(target: Target) -> tuple[ServerFacts, ...]:
    """Of the servers that compute: the workers, where they are known."""
    servers, stats = (target.workers, target.worker_stats) if target.workers else (target.servers, target.stats)
    told = [ServerFacts.told_by(server.url, each) for server, each in zip(servers, stats, strict=True)]
    return tuple(replace(each, flags=public_flags(each.flags)) for each in told)


def _place(group: str | None, workflow: str) -> str:
    return f"{group}: {workflow}: " if group else f"{workflow}: "


def _of_workflow(workflow: Workflow) -> Iterator[tuple[str, Any]]:
    yield "graph", _hash([[node["class_type"], _links(workflow.graph, node)] for node in workflow.graph.values()])
    counts = Counter(node["class_type"] for node in workflow.graph.values())
    drawn = {spot: setting.told(spot) for setting in workflow.settings for spot in setting.spots}
    for spot, value in _common(workflow):
        class_type = workflow.graph[spot.node]["class_type"]
        node = class_type if counts[class_type] == 1 else f"{class_type}#{spot.node}"
        yield f"{node}.{spot.input}", _storable(drawn.get(spot, value))


def _storable(value: Any) -> Any:
    """Numbers of more than 64 bits as text."""
    if isinstance(value, list):
        return [_storable(each) for each in value]
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


def _common(workflow: Workflow) -> Iterator[tuple[Spot, Any]]:
    """The literals that are the same in two prompts, and those that the user set."""
    one, other = (_prompt(workflow, name) for name in ("one", "other"))
    for spot, value in spots(workflow.graph):
        if link_of(value) is None and (spot in workflow.kept or value_at(one, spot) == value_at(other, spot)):
            yield spot, value


def _prompt(workflow: Workflow, name: str) -> Graph:
    return workflow.vary(random.Random(name), text=name, filename_prefix=name, object_info=None).graph


def _links(graph: Graph, node: Mapping[str, Any]) -> list[list[str]]:
    """Input, and the class that feeds it: node ids may change without a change of the workflow."""
    sources = [(name, link_of(value)) for name, value in sorted(node["inputs"].items())]
    return [[name, graph[source]["class_type"]] for name, source in sources if source is not None]


def _texts(parts: Sequence[FittedPart]) -> dict[str, Any]:
    texts = [text.text for part in parts if part.part.scenario.prompts is not None for text in part.part.texts]
    return {"prompts": f"{len(texts)} texts, {_hash(texts)}"} if texts else {}


def _hash(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:8]
