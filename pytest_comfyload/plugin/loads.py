"""Implementation of the fixtures: the loads of one test, run by its session, which may fail or skip the test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_comfyload.errors import ComfyloadError, LoadStopped
from pytest_comfyload.plugin.hooks import activate
from pytest_comfyload.plugin.marker import marked_scenario
from pytest_comfyload.plugin.repetition import joined, parameters_of, repetition_of
from pytest_comfyload.plugin.session import COMPARISONS, LOADS
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.text import harmless

if TYPE_CHECKING:
    from pytest_comfyload.capacity.answer import Capacity
    from pytest_comfyload.launch.fleet import LaunchedServers
    from pytest_comfyload.result.ab_result import ABResult
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.run.ab import Turn
    from pytest_comfyload.run.gpu_sampling import GpuSampler
    from pytest_comfyload.run.target import ComfyServers

__all__ = ["RequestedLoads"]


class RequestedLoads:
    """Loads of the test that is running when they are requested; fixtures of any scope may request them."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        # Session-scoped fixtures have an item, too: the test that requests them.
        self._session = activate(request.config, request._pyfuncitem).session

    @property
    def _item(self) -> pytest.Item:
        item = self._session.running.item
        assert item is not None
        return item

    @property
    def _folder(self) -> Path:
        return self._item.path.parent

    @property
    def _parameters(self) -> str:
        """Parameters of the test; empty if several tests share the load."""
        return "" if self._session.running.shared else parameters_of(self._item)

    def marked(self) -> LoadResult:
        """Return the result of the load that the mark describes."""
        try:
            marked = marked_scenario(self._item)
            if marked is None:
                _fail(
                    "the `load` fixture needs a load: decorate the test with @load_scenario(...), "
                    "or use `run_load(...)`"
                )
            result = self._session.result_of(marked)
        except (ComfyloadError, pytest.fail.Exception) as error:
            # pytest.fail.Exception: the test timed out while it waited for another worker's load.
            _fail(str(error))
        except LoadStopped as error:
            _skip(str(error))
        return self._looked_at(result)

    def run(self, *args: Any, **kwargs: Any) -> LoadResult:
        session = self._session
        try:
            scenario = Scenario.build_in(self._folder, *args, **kwargs)
            title = scenario.id or session.running.numbered(LOADS, "load")
            once = partial(session.run, scenario, title, self._folder, self._parameters)
            repetition = repetition_of(self._item)
            result = once(repetition=repetition)
            result.past = session.past_of(
                result,
                self._folder,
                lambda number: once(repetition=joined(repetition, f"rerun {number}"), among=result.facts.servers),
            )
        except ComfyloadError as error:
            _fail(str(error))
        except LoadStopped as error:
            _skip(str(error))
        return self._looked_at(result)

    def find_capacity(self, workflow: Any = None, **kwargs: Any) -> Capacity:
        from pytest_comfyload.capacity.find import find_capacity
        from pytest_comfyload.scenario.server_selection import ServerChoice

        session = self._session
        run_once = _on_the_same_servers(partial(session.run, repetition=repetition_of(self._item)))

        def run(scenario: Scenario, title: str) -> LoadResult:
            result = run_once(scenario, f"{scenario.id or session.running.name}, {title}", self._folder)
            self._session.running.keep(self._item, LOADS, result)
            return result

        try:
            session.servers.expect_allowed("find_capacity")
            count = session.servers.count(ServerChoice.parse(kwargs.get("servers", "all")))
            capacity = find_capacity(workflow, server_count=count, run=run, **kwargs)
        except ComfyloadError as error:
            _fail(str(error))
        session.screen.say(f"comfyload: {capacity.sentence()}")
        session.screen.release()
        return capacity

    def run_ab(self, workflow: Any = None, **kwargs: Any) -> ABResult:
        from pytest_comfyload.run.ab import run_ab

        session = self._session
        title = str(kwargs.get("id") or session.running.numbered(COMPARISONS, "comparison"))
        run = _on_the_same_servers(
            partial(session.run, parameters=self._parameters, repetition=repetition_of(self._item))
        )
        try:
            session.servers.expect_allowed("run_ab")
            with session.servers.of_sides(kwargs, self._folder) as servers:

                def half(scenario: Scenario, turn: Turn) -> LoadResult:
                    on = None if servers is None else partial(servers.for_run, turn.side)
                    place = turn.number, turn.runs
                    return run(scenario, f"{title}, {turn.side}", self._folder, place=place, half=turn.half, on=on)

                ab = run_ab(
                    workflow,
                    title=title,
                    half=half,
                    launched=servers,
                    overrides=session.settings.overrides,
                    files=self._folder,
                    say=session.screen.say,
                    **kwargs,
                )
        except ComfyloadError as error:
            _fail(str(error))
        except LoadStopped as error:
            _skip(str(error))
        finally:
            session.screen.release()
        session.running.keep(self._item, COMPARISONS, ab)
        if ab.invalid_because is not None:
            # The load that ended the comparison.
            last = max((*ab.A, *ab.B), key=lambda load: load.facts.epoch)
            session.running.keep(self._item, LOADS, last)
            _fail(ab.sentence())
        return ab

    def servers(self, files: Path) -> ComfyServers:
        """Return the servers; `files` is the folder that relative paths start from."""
        from pytest_comfyload.run.target import ComfyServers

        try:
            self._session.servers.expect_allowed("comfyui")
            # A prompt submitted by hand does not belong to a series of runs.
            return ComfyServers(self._session.servers.addresses(), partial(self._session.run, kept=False), files)
        except ComfyloadError as error:
            _fail(str(error))

    def launched(self) -> LaunchedServers:
        try:
            return self._session.servers.launched()
        except ComfyloadError as error:
            _fail(str(error))

    def gpu_sampler(self) -> GpuSampler:
        try:
            self._session.servers.expect_allowed("gpu")
        except ComfyloadError as error:
            _fail(str(error))
        return self._session.servers.gpu_sampler()

    def _looked_at(self, result: LoadResult) -> LoadResult:
        from pytest_comfyload.capacity.solve import capacity_of

        self._session.running.keep(self._item, LOADS, result)
        result.sized_by = capacity_of
        if result.invalid_because is not None:
            _fail(f"Not judged: {result.invalid_because}.")
        return result


def _on_the_same_servers(run: Callable[..., LoadResult]) -> Callable[..., LoadResult]:
    """Return a function that runs loads to compare: loads with the same number of servers get the same servers."""
    taken: dict[tuple[int | None, ...], tuple[str, ...]] = {}

    def once_more(scenario: Scenario, *args: Any, **kwargs: Any) -> LoadResult:
        counts = tuple(part.servers.first for _, part in scenario.parts)
        load = run(scenario, *args, among=taken.get(counts, ()), **kwargs)
        taken.setdefault(counts, load.facts.servers)
        return load

    return once_more


def _fail(message: str) -> NoReturn:
    # From None: the message is complete, and pytest would print the cause above it.
    raise pytest.fail.Exception(harmless(message), pytrace=False) from None


def _skip(message: str) -> NoReturn:
    raise pytest.skip.Exception(message) from None
