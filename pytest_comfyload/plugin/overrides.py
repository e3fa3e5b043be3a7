"""Inputs from the command line must mean something to at least one collected scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.plugin.marker import marked_scenario
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["unmatched"]


def unmatched(overrides: Mapping[str, str], items: Sequence[pytest.Item]) -> str | None:
    """What is wrong with the first override that no scenario of these items has a node for; None: all match."""
    workflows = _workflows(items)
    for address in overrides:
        if workflows and not any(workflow.matches(address) for workflow in workflows):
            classes = sorted({node["class_type"] for workflow in workflows for node in workflow.graph.values()})
            return (
                f"--comfyui-input {address}: no collected scenario has such a node; "
                f"write NODE.INPUT=VALUE by id, title or class; classes there: {', '.join(classes)}"
            )
    return None


def _workflows(items: Sequence[pytest.Item]) -> list[Workflow]:
    workflows = []
    for item in items:
        try:
            marked = marked_scenario(item)
            if marked is not None:
                sources = [source for _, part in marked.scenario.parts for source, _ in part.workflows]
                workflows += [Workflow.load(source, root=marked.files) for source in sources]
        except ComfyloadError:
            # Said when the test itself is set up.
            continue
    return workflows
