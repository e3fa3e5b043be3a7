"""The servers of a session by hand: look at them, send them one prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.run.background import run_in_background
from pytest_comfyload.run.target import inspect_target
from pytest_comfyload.scenario.scenario import Scenario, WorkflowSource

__all__ = ["ComfyServers"]

T = TypeVar("T")


class ComfyServers:
    """`url` is the first server's."""

    def __init__(
        self, addresses: Sequence[ServerAddress], run: Callable[[Scenario, str, Path], LoadResult], files: Path
    ) -> None:
        self._addresses = tuple(addresses)
        self._run = run
        self._files = files

    @property
    def url(self) -> str:
        return self._addresses[0].url

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(address.url for address in self._addresses)

    def system_stats(self) -> Mapping[str, Any]:
        """The first server's /system_stats, as it is. Raises: ServerError."""
        __tracebackhide__ = True
        return _in_one_message(lambda: run_in_background(lambda: inspect_target(self._addresses[:1])).stats[0].raw)

    def submit(self, workflow: WorkflowSource, inputs: Mapping[str, Any] | None = None, **kwargs: Any) -> Outcome:
        """One prompt, run to its end; further arguments as in `load_scenario`. Raises: ComfyloadError."""
        __tracebackhide__ = True

        def run() -> Outcome:
            scenario = Scenario.build(workflow, inputs=inputs, warmup=0, **kwargs)
            return self._run(scenario, scenario.workflow_name, self._files).outcomes[0]

        return _in_one_message(run)


def _in_one_message(call: Callable[[], T]) -> T:
    """Raises what `call` raises: a test may catch it, and pytest shows it without its way through this package."""
    __tracebackhide__ = True
    try:
        return call()
    except ComfyloadError as error:
        raise error.with_traceback(None) from None
