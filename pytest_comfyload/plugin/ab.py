"""The fixture `run_ab`: two versions of a load against each other, in interleaved pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_comfyload.errors import ComfyloadError, LoadStopped
from pytest_comfyload.plugin.fixtures import LOADS
from pytest_comfyload.plugin.project import test_id
from pytest_comfyload.plugin.repetition import parameters_of, repetition_of
from pytest_comfyload.plugin.session import SESSION
from pytest_comfyload.text import harmless

if TYPE_CHECKING:
    from pytest_comfyload.result.ab_result import ABResult
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.run.ab import Turn
    from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["COMPARISONS", "run_ab"]

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
        title = str(kwargs.get("id") or _numbered(request.node, len(compared)))
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


def _numbered(item: pytest.Item, before: int) -> str:
    return f"{test_id(item)}, comparison {before + 1}" if before else test_id(item)


def _fail(message: str) -> NoReturn:
    # From None: the message says it all, and pytest would print its cause above it once more.
    raise pytest.fail.Exception(harmless(message), pytrace=False) from None
