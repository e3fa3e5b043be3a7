"""Checks at collection (marks, names of metrics, inputs of the command line), and the list of planned loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.metrics.units import counted, format_duration
from pytest_comfyload.plugin.marker import check_marks, marked_scenario
from pytest_comfyload.plugin.session import LoadSession
from pytest_comfyload.scenario.scenario import Scenario, planned_duration, planned_prompts
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["expect_metrics_to_exist", "expect_overrides_to_match", "expect_valid_marks", "planned_lines"]


_VALID = pytest.StashKey[set[bytes]]()


def expect_valid_marks(collector: pytest.Collector, obj: object, node_names: Sequence[str]) -> None:
    """Check the marks of a module, class or function. Raises: CollectError."""
    try:
        check_marks(obj, collector.path.parent, node_names, collector.config.stash.setdefault(_VALID, set()))
    except ComfyloadError as error:
        raise collector.CollectError(str(error)) from None


def expect_metrics_to_exist(collector: pytest.Collector, item: Any) -> None:
    """Check the names of metrics in a test's source. Raises: CollectError."""
    from pytest_comfyload.plugin.misspelled import misspelled

    if sentences := misspelled(item):
        raise collector.CollectError(f"{collector.nodeid}::{item.originalname}: {'; '.join(sentences)}")


def expect_overrides_to_match(session: LoadSession, items: Sequence[pytest.Item], *, is_worker: bool) -> None:
    """Check that each --comfyui-input matches a node of a scenario. Raises: pytest.UsageError."""
    overrides = session.settings.overrides
    message = _unmatched(overrides, items) if overrides else None
    if message and is_worker:
        # xdist turns a worker's UsageError into an internal error, so the loads report it instead.
        session.refusal = message
    elif message:
        raise pytest.UsageError(message)


def _unmatched(overrides: Mapping[str, str], items: Sequence[pytest.Item]) -> str | None:
    """Return the message on the first override that matches no node of any scenario; None if all match."""
    workflows = _workflows(items)
    for address in overrides:
        if workflows and not any(workflow.matches(address) for workflow in workflows):
            classes = sorted(frozenset().union(*(workflow.classes for workflow in workflows)))
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
            # Reported when the test itself is set up.
            continue
    return workflows


def planned_lines(items: Sequence[pytest.Item]) -> list[str]:
    """Return the title of each load once, followed by its scenario; nothing for items without a load."""
    lines: dict[object, list[str]] = {}
    for item in items:
        try:
            marked = marked_scenario(item)
        except ComfyloadError as error:
            lines[item.nodeid] = [item.nodeid, f"  {error}"]
            continue
        if marked is not None:
            lines[marked.key] = [marked.title, f"  {_planned(marked.scenario)}"]
    return [line for of_load in lines.values() for line in of_load]


def _planned(scenario: Scenario) -> str:
    parts = [part for _, part in scenario.parts]
    return " · ".join([str(scenario), *_duration(parts), *_prompts(scenario)])


def _duration(parts: Sequence[Scenario]) -> Iterator[str]:
    seconds = planned_duration(parts)
    if seconds is not None:
        yield format_duration(seconds)


def _prompts(scenario: Scenario) -> Iterator[str]:
    prompts = planned_prompts([part for _, part in scenario.parts])
    if prompts is not None:
        about = "about " if scenario.planned is None else ""
        yield f"{about}{counted(round(prompts), 'prompt')}"
