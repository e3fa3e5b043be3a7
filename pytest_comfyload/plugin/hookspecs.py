"""Hooks by which a conftest.py or a plugin extends pytest-comfyload; each adds to a registry, once per session.

An extension that fails loses its own figure and adds a warning to the summary; it never fails a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_comfyload.gpu.spec import GpuReading
    from pytest_comfyload.result.extensions import CustomMetric
    from pytest_comfyload.result.load_result import LoadResult

__all__ = [
    "add_extensions", "faults_of_extensions", "pytest_comfyload_gpu_sources", "pytest_comfyload_metrics",
    "pytest_comfyload_report_panels",
]  # fmt: skip


def pytest_comfyload_metrics() -> Iterable[CustomMetric]:  # type: ignore[empty-body]
    """Return metrics of your own: `load.NAME` in tests, SLOs and gates, stored with each run."""


def pytest_comfyload_report_panels() -> Mapping[str, Callable[[LoadResult], Mapping[str, object]]]:  # type: ignore[empty-body]
    """Return panels for the report's page of a commit, by title.

    Each panel is a function that takes a load and returns values, numbers or text, by name. It is called when a run is
    stored, and its result is stored with the run, so that `comfyload report` shows it without your plugin.
    """


def pytest_comfyload_gpu_sources() -> Mapping[str, Callable[[str, str], Iterable[GpuReading]]]:  # type: ignore[empty-body]
    """Return sources of GPU figures, by the NAME in `--comfyload-gpu URL=NAME[:ARGUMENT]`.

    Each source is called with the server's URL and the argument, once per second during the run, in a thread, and
    returns a reading of each GPU of the server.
    """


_HOOKS = ("pytest_comfyload_metrics", "pytest_comfyload_report_panels", "pytest_comfyload_gpu_sources")


def add_extensions(config: pytest.Config) -> None:
    """Register the extensions of all plugins, and clear the registries at the end of the session."""
    if not any(getattr(config.hook, hook).get_hookimpls() for hook in _HOOKS):
        return
    from pytest_comfyload.gpu.spec import SOURCES
    from pytest_comfyload.result.extensions import add_metric, add_panel, remove_extensions
    from pytest_comfyload.result.load_result import LoadResult

    def remove() -> None:
        remove_extensions(LoadResult)
        SOURCES.clear()

    config.add_cleanup(remove)
    for metric in _answers(config, "pytest_comfyload_metrics", list):
        add_metric(metric, LoadResult)
    for title, content in _answers(config, "pytest_comfyload_report_panels", _items):
        add_panel(title, content)
    for name, read in _answers(config, "pytest_comfyload_gpu_sources", _items):
        SOURCES[str(name)] = read


def faults_of_extensions() -> list[str]:
    """Return the failures of extensions in this process so far, one line each."""
    extensions = sys.modules.get("pytest_comfyload.result.extensions")
    return [] if extensions is None else list(extensions.FAULTS)


def _items(answer: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return list(answer.items())


def _answers(config: pytest.Config, hook: str, read: Callable[[Any], list[Any]]) -> Iterable[Any]:
    """Yield what the implementations of a hook return; one that fails is skipped and reported."""
    from pytest_comfyload.result.extensions import fault

    for implementation in getattr(config.hook, hook).get_hookimpls():
        try:
            answer = implementation.function()
            yield from read(answer) if answer is not None else ()
        except Exception as error:
            fault(f"{hook} of {implementation.plugin_name}", error)
