"""`comfyload ab`: B against A on real servers, in interleaved pairs of runs.

Exit status: 0 B is as good as A, or better; 1 B is worse; 3 inconclusive: more pairs would tell; 2 an invalid
option, a server that does not answer, or a run that was no measurement; 130 interrupted.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytest_comfyload.cli.loads import RunKeeper
from pytest_comfyload.cli.options import HeaderFiles, StoreOption, addresses
from pytest_comfyload.cli.output import echo, echo_json
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.registry import GATE

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.result.ab_result import ABResult
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.run.ab import Turn
    from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["ab"]

WORSE, BAD, INCONCLUSIVE = 1, 2, 3


def ab(
    workflow: Annotated[str, typer.Argument(help="A shipped workflow, or the path of one in API format.")],
    a: Annotated[list[str] | None, typer.Option("--a", metavar="NODE.INPUT=VALUE", help="An input of A.")] = None,
    b: Annotated[list[str] | None, typer.Option("--b", metavar="NODE.INPUT=VALUE", help="An input of B.")] = None,
    a_url: Annotated[str | None, typer.Option("--a-url", metavar="URL", help="The server of A.")] = None,
    b_url: Annotated[str | None, typer.Option("--b-url", metavar="URL", help="The server of B.")] = None,
    url: Annotated[
        list[str] | None, typer.Option("--comfyui-url", envvar="COMFYUI_URL", metavar="URL", help="Servers of both.")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--comfyui-input", metavar="NODE.INPUT=VALUE", help="An input of both.")
    ] = None,
    header_files: HeaderFiles = None,
    pairs: Annotated[int, typer.Option(help="Pairs of runs; fewer than seven decide nothing.")] = 8,
    users: Annotated[int, typer.Option(help="Users at once, in each run.")] = 1,
    iterations: Annotated[int, typer.Option(help="Prompts of each user, in each run.")] = 5,
    gate: Annotated[str, typer.Option(help="The figure that decides.")] = GATE,
    seed: Annotated[int | None, typer.Option(help="For the same seeds in another comparison.")] = None,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the pictures' addresses.")] = False,
) -> None:
    """Say whether B is slower than A: the same seeds for both, in turns, so that what drifts touches both alike.

    Exit status: 0 B is not slower, 1 it is, 2 an invalid argument or measurement, 3 inconclusive.
    """
    from pytest_comfyload.report.comparisons import ab_lines
    from pytest_comfyload.run.ab import run_ab

    servers = _servers(url or [], {"--a-url": a_url, "--b-url": b_url}, header_files or [])
    title = f"ab {Path(workflow).stem}"
    with _orderly_end(), RunKeeper.begin(store) as keeping:
        result = run_ab(
            workflow,
            A=_side("--a", a, a_url),
            B=_side("--b", b, b_url),
            pairs=pairs,
            title=title,
            half=lambda scenario, turn: _run(scenario, turn, title, servers, keeping),
            say=_say,
            users=users,
            iterations=iterations,
            inputs=_inputs("--comfyui-input", inputs),
            gate=gate,
            seed=seed,
        )
    if as_json:
        echo_json(result.to_dict())
    else:
        echo("\n".join(ab_lines(result)))
    raise typer.Exit(_status(result))


def _status(result: ABResult) -> int:
    if result.invalid_because is not None:
        return BAD
    return {"regressed": WORSE, "inconclusive": INCONCLUSIVE}.get(result.verdict, 0)


def _run(
    scenario: Scenario, turn: Turn, title: str, servers: tuple[ServerAddress, ...], keeping: RunKeeper
) -> LoadResult:
    from pytest_comfyload.run.load_run import LoadRun, run_load
    from pytest_comfyload.run.observer import ProgressPrinter

    name = f"{title}, {turn.side}"
    return run_load(
        LoadRun(
            scenario=scenario,
            servers=servers,
            title=name,
            files=Path.cwd(),
            store=keeping.root,
            told=keeping.header(),
            observer=ProgressPrinter(name, str(scenario), (turn.number, turn.runs), _say),
            emptied=True,
        )
    )


def _say(line: str) -> None:
    # Standard output is for the result alone.
    echo(line, err=True)


def _side(option: str, inputs: list[str] | None, url: str | None) -> dict[str, Any]:
    from pytest_comfyload.client.address import ServerAddress

    given: dict[str, Any] = {"inputs": _inputs(option, inputs)} if inputs else {}
    return {**given, **({"servers": [ServerAddress.parse(url).url]} if url else {})}


def _inputs(option: str, texts: list[str] | None) -> dict[str, str]:
    """Raises: UsageError, naming the option."""
    from pytest_comfyload.workflow.inputs import parse_override

    try:
        return {override.address: override.text for override in map(parse_override, texts or ())}
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None


def _servers(common: list[str], own: dict[str, str | None], header_files: list[str]) -> tuple[ServerAddress, ...]:
    """Return all servers that are named.

    Raises: UsageError where A or B has none, or the common ones would be for neither.
    """
    given = [url for url in own.values() if url]
    if not common and (missing := [option for option, url in own.items() if not url]):
        raise UsageError(f"no server: name one by --comfyui-url or COMFYUI_URL, or give {' and '.join(missing)}")
    return addresses((*(common if len(given) < 2 else ()), *given), header_files)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does, and either ends in one line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        _say("comfyload: interrupted; our prompts are gone from the servers, and what was measured is kept")
        raise typer.Exit(130) from None
