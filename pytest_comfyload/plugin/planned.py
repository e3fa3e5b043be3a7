"""What `--collect-only` says of the loads: each with what its scenario comes to, as far as that needs no server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.metrics.units import format_duration
from pytest_comfyload.plugin.marker import marked_scenario
from pytest_comfyload.scenario.scenario import Scenario, planned_duration, planned_prompts

__all__ = ["planned_lines"]


def planned_lines(items: Sequence[pytest.Item]) -> list[str]:
    """The title of each load once, then its scenario; nothing for items without one."""
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
    return " · ".join([str(scenario), *_duration(parts), *_prompts(parts)])


def _duration(parts: Sequence[Scenario]) -> Iterator[str]:
    seconds = planned_duration(parts)
    if seconds is not None:
        yield format_duration(seconds)


def _prompts(parts: Sequence[Scenario]) -> Iterator[str]:
    prompts = planned_prompts(parts)
    if prompts is not None:
        about = "about " if any(part.executor.duration is not None for part in parts) else ""
        yield f"{about}{round(prompts)} prompt{'' if round(prompts) == 1 else 's'}"
