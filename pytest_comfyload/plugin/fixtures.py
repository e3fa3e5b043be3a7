"""The fixtures: `load`, what came of the marker; `run_load`, the same by hand; `comfyui`, the servers themselves;
`find_capacity`, how much load they bear; `gpu`, what their GPUs do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_comfyload.errors import ComfyloadError, LoadStopped
from pytest_comfyload.plugin.project import test_id
from pytest_comfyload.plugin.repetition import joined, parameters_of, repetition_of
from pytest_comfyload.plugin.session import SESSION
from pytest_comfyload.text import harmless

if TYPE_CHECKING:
    from pytest_comfyload.capacity.search import Capacity
    from pytest_comfyload.result.ab_result import ABResult
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.run.ab import Turn
    from pytest_comfyload.run.gpu_sampling import GpuSampler
    from pytest_comfyload.run.target import ComfyServers
    from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["COMPARISONS", "LOADS", "comfyui", "find_capacity", "gpu", "load", "run_ab", "run_load"]

# The load results that a test has looked at.
LOADS = pytest.StashKey[list["LoadResult"]]()


@pytest.fixture
def load(request: pytest.FixtureRequest) -> LoadResult:
    """What came of the load that @load_scenario describes; it has run when the test body begins."""
    from pytest_comfyload.plugin.marker import marked_scenario

    try:
        marked = marked_scenario(request.node)
        if marked is None:
            _fail("the `load` fixture needs a load: decorate the test with @load_scenario(...), or use `run_load(...)`")
        result = request.config.stash[SESSION].result_of(marked)
    except (ComfyloadError, pytest.fail.Exception) as error:
        # The latter: the test's time ran out while it waited for another worker's load.
        _fail(str(error))
    except LoadStopped as error:
        _skip(str(error))
    return _looked_at(request, result)


@pytest.fixture
def run_load(request: pytest.FixtureRequest) -> Callable[..., LoadResult]:
    """Runs a load now: `run_load("txt2img", users=5)`, with the arguments of `load_scenario`."""

    def run(*args: Any, **kwargs: Any) -> LoadResult:
        from pytest_comfyload.scenario.scenario import Scenario

        try:
            scenario = Scenario.build(*args, **kwargs)
            title = scenario.id or _numbered(request.node)
            session = request.config.stash[SESSION]
            once = partial(session.run, scenario, title, request.path.parent, parameters_of(request.node))
            repetition = repetition_of(request.node)
            result = once(repetition=repetition)
            result.past = session.past_of(
                result, request.path.parent, lambda number: once(repetition=joined(repetition, f"rerun {number}"))
            )
        except ComfyloadError as error:
            _fail(str(error))
        except LoadStopped as error:
            _skip(str(error))
        return _looked_at(request, result)

    return run


@pytest.fixture
def find_capacity(request: pytest.FixtureRequest) -> Callable[..., Capacity]:
    """The largest load under which an SLO holds: `find_capacity("txt2img", slo="total_time.p95 < 60")`.

    budget="45m", arrival="poisson" (prompts per minute) or "users", think_time=0 of users, and the arguments of
    `load_scenario` that say nothing of the load.
    """

    def find(workflow: Any = None, **kwargs: Any) -> Capacity:
        from pytest_comfyload.capacity.find import find_capacity
        from pytest_comfyload.scenario.server_selection import ServerChoice

        session = request.config.stash[SESSION]
        loads = request.node.stash.setdefault(LOADS, [])

        def run(scenario: Scenario, title: str) -> LoadResult:
            name, repetition = f"{scenario.id or test_id(request.node)}, {title}", repetition_of(request.node)
            result = session.run(scenario, name, request.path.parent, repetition=repetition)
            loads.append(result)
            return result

        try:
            session.expect_servers("find_capacity")
            count = session.server_count(ServerChoice.parse(kwargs.get("servers", "all")))
            capacity = find_capacity(workflow, server_count=count, run=run, **kwargs)
        except ComfyloadError as error:
            _fail(str(error))
        session.screen.write([f"comfyload: {capacity.sentence()}"])
        session.screen.release()
        return capacity

    return find


@pytest.fixture(scope="session")
def comfyui(request: pytest.FixtureRequest) -> ComfyServers:
    """The servers: `.url`, `.urls`, `.system_stats()`, `.submit(workflow, inputs=…)`."""
    from pytest_comfyload.run.target import ComfyServers

    session = request.config.stash[SESSION]
    try:
        session.expect_servers("comfyui")
        # A prompt by hand is no run of a series.
        return ComfyServers(session.servers(), partial(session.run, kept=False), request.config.rootpath)
    except ComfyloadError as error:
        _fail(str(error))


def _numbered(item: pytest.Item) -> str:
    """A test's loads are told apart in their order: each is a series of its own."""
    before = len(item.stash.get(LOADS, []))
    return f"{test_id(item)}, load {before + 1}" if before else test_id(item)


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> GpuSampler:
    """The servers' GPUs without a load: `with gpu.sampling() as usage: …`, then `usage` is as `load.gpu`."""
    session = request.config.stash[SESSION]
    try:
        session.expect_servers("gpu")
    except ComfyloadError as error:
        _fail(str(error))
    return session.gpu_sampler()


def _looked_at(request: pytest.FixtureRequest, result: LoadResult) -> LoadResult:
    request.node.stash.setdefault(LOADS, []).append(result)
    if result.invalid_because is not None:
        _fail(f"Not judged: {result.invalid_because}.")
    return result


def _fail(message: str) -> NoReturn:
    # From None: the message says it all, and pytest would print its cause above it once more.
    raise pytest.fail.Exception(harmless(message), pytrace=False) from None


def _skip(message: str) -> NoReturn:
    raise pytest.skip.Exception(message) from None


# What a test has compared.
COMPARISONS = pytest.StashKey[list["ABResult"]]()


@pytest.fixture
def run_ab(request: pytest.FixtureRequest) -> Callable[..., ABResult]:
    """B against A: `run_ab("txt2img", A={"inputs": {…}}, B={"servers": "…"}, pairs=8)`, `A` and `B` being what each has
    of its own of the arguments of `load_scenario`; the others are for both.
    """

    def run(workflow: Any = None, **kwargs: Any) -> ABResult:
        from pytest_comfyload.run.ab import run_ab

        session, compared = request.config.stash[SESSION], request.node.stash.setdefault(COMPARISONS, [])
        title = str(kwargs.get("id") or _comparison_title(request.node, len(compared)))
        parameters, repetition = parameters_of(request.node), repetition_of(request.node)

        def half(scenario: Scenario, turn: Turn) -> LoadResult:
            name, place = f"{title}, {turn.side}", (turn.number, turn.runs)
            folder = request.path.parent
            return session.run(scenario, name, folder, parameters, place=place, repetition=repetition, emptied=True)

        try:
            session.expect_servers("run_ab")
            ab = run_ab(
                workflow,
                title=title,
                half=half,
                overrides=session.settings.overrides,
                files=request.path.parent,
                say=lambda line: session.screen.write([line]),
                **kwargs,
            )
        except ComfyloadError as error:
            _fail(str(error))
        except LoadStopped as error:
            raise pytest.skip.Exception(str(error)) from None
        finally:
            session.screen.release()
        compared.append(ab)
        if ab.invalid_because is not None:
            last = ab.A[-1] if ab.A[-1].invalid_because is not None else ab.B[-1]
            request.node.stash.setdefault(LOADS, []).append(last)
            _fail(ab.sentence())
        return ab

    return run


def _comparison_title(item: pytest.Item, before: int) -> str:
    return f"{test_id(item)}, comparison {before + 1}" if before else test_id(item)
