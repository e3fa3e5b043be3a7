"""The pytest plugin.

Every pytest run loads it, and most have no load tests. These hooks only detect whether there is a load test, an option,
or a killed session whose runs are not stored yet, and `activate` the other hooks if so.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from pytest_comfyload.plugin.fixtures import comfyui, comfyui_process, find_capacity, gpu, load, run_ab, run_load
from pytest_comfyload.plugin.load_tests import FIXTURES, MARK, own_marks, requests_any
from pytest_comfyload.plugin.options import SIMULATED_GPU, TIME_SCALE, add_options, are_given, simulator_name
from pytest_comfyload.plugin.project import may_have_spools, package_hint, session_project

__all__ = ["comfyui", "comfyui_process", "find_capacity", "gpu", "load", "run_ab", "run_load"]

_HEADER = pytest.StashKey[str]()
_CHECKED = pytest.StashKey[bool]()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_comfyload.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARK}(workflow, users=, iterations=, duration=, burst=, …): the load that runs before the test"
    )
    if are_given(config) or _has_leftovers(config):
        from pytest_comfyload.plugin.hooks import activate

        config.stash[_HEADER] = activate(config).session.settings.target


def _has_leftovers(config: pytest.Config) -> bool:
    """Return whether this session may have to store the runs of an earlier session."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return False
    return may_have_spools(session_project(config))


def pytest_report_header(config: pytest.Config) -> str:
    return f"comfyload: {config.stash.get(_HEADER, simulator_name(SIMULATED_GPU, float(TIME_SCALE)))}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Prepare an xdist worker, in the controller."""
    from pytest_comfyload.plugin.hooks import activate

    activate(node.config).prepare_worker(node)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Generator[None, Any, Any]:
    """Report an invalid mark, or a metric that does not exist, as a collection error of one line."""
    # This hook is called for every name in a module; the module's own mark is checked with the first.
    if isinstance(collector, pytest.Module) and not collector.stash.get(_CHECKED, False):
        _check_marks(collector, collector.obj, [collector.nodeid])
        collector.stash[_CHECKED] = True
    _check_marks(collector, obj, [collector.nodeid, name])
    made = yield
    # All items of a parametrised function have the same source.
    if isinstance(made, list) and made and requests_any(made[0], FIXTURES):
        from pytest_comfyload.plugin.collection import expect_metrics_to_exist
        from pytest_comfyload.plugin.hooks import activate

        activate(collector.config)
        expect_metrics_to_exist(collector, made[0])
    return made


def _check_marks(collector: pytest.Collector, obj: object, node_names: Sequence[str]) -> None:
    """Check the marks of an object, if it has any. Raises: CollectError."""
    if own_marks(obj):
        from pytest_comfyload.plugin.collection import expect_valid_marks
        from pytest_comfyload.plugin.hooks import activate

        activate(collector.config)
        expect_valid_marks(collector, obj, node_names)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker(MARK)]
    for item in marked:
        # The marker runs the load, whether or not the test requests its result.
        names = getattr(item, "fixturenames", None)
        if names is not None and "load" not in names:
            names.append("load")
    if marked:
        from pytest_comfyload.plugin.collection import expect_overrides_to_match
        from pytest_comfyload.plugin.hooks import activate

        expect_overrides_to_match(activate(config).session, marked, is_worker=hasattr(config, "workerinput"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if hint := package_hint(config, terminalreporter.stats.get("error", ())):
        terminalreporter.write_line(hint)
