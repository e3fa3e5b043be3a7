"""`comfyload ab`: compare B with A in interleaved pairs of runs, on given or launched servers.

Exit status: 0 if B is as good as A or better; 1 if it is worse; 2 for an invalid option, a server that does not
answer, or an invalid run; 3 if inconclusive, so that more pairs are needed; 130 if interrupted.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pytest_comfyload.cli.loads import RunKeeper, interruptible
from pytest_comfyload.cli.options import HeaderFiles, StoreOption, addresses
from pytest_comfyload.cli.output import echo, echo_json, echo_lines, screen_width
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.registry import GATE

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.result.ab_result import ABResult
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.run.ab import Turn
    from pytest_comfyload.run.ab_servers import ABServers, Side
    from pytest_comfyload.run.launching import LaunchRequest
    from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["ab"]

WORSE, BAD, INCONCLUSIVE = 1, 2, 3
# Virtual seconds per real second of the embedded simulator.
_TIME_SCALE = 20.0
_Sides: TypeAlias = "dict[Side, dict[str, Any]]"


def ab(
    workflow: Annotated[
        str, typer.Argument(metavar="WORKFLOW", help="A shipped workflow, or the path of one in API format.")
    ],
    a: Annotated[
        list[str] | None, typer.Option("--a", metavar="NODE.INPUT=VALUE", help="Input of A; repeatable.")
    ] = None,
    b: Annotated[
        list[str] | None, typer.Option("--b", metavar="NODE.INPUT=VALUE", help="Input of B; repeatable.")
    ] = None,
    a_url: Annotated[str | None, typer.Option("--a-url", metavar="URL", help="Server of A.")] = None,
    b_url: Annotated[str | None, typer.Option("--b-url", metavar="URL", help="Server of B.")] = None,
    url: Annotated[
        list[str] | None,
        typer.Option("--comfyui-url", envvar="COMFYUI_URL", metavar="URL", help="Server for both sides; repeatable."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--comfyui-input", metavar="NODE.INPUT=VALUE", help="Input of both sides; repeatable."),
    ] = None,
    header_files: HeaderFiles = None,
    launch: Annotated[
        Path | None,
        typer.Option("--comfyui-launch", metavar="DIR", help="Start a server from this installation, on one GPU."),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(
            "--comfyui-python", metavar="FILE", help="Python that runs it (default: that of its virtual environment)."
        ),
    ] = None,
    args: Annotated[
        str, typer.Option("--comfyui-args", metavar="ARGUMENTS", help="Its arguments, as in a shell: '--cpu --fast'.")
    ] = "",
    node: Annotated[
        Path | None, typer.Option("--node", metavar="PATH", help="A custom node, to compare two versions of it.")
    ] = None,
    base: Annotated[str | None, typer.Option(metavar="REF", help="Commit, branch or tag of the node for A.")] = None,
    head: Annotated[
        str | None, typer.Option(metavar="REF", help="The same for B (default: the folder as it is, committed or not).")
    ] = None,
    installations: Annotated[
        tuple[str, str] | None,
        typer.Option("--comfyui", metavar="A_DIR B_DIR", help="Two installations, one for each side."),
    ] = None,
    git_refs: Annotated[
        tuple[str, str] | None,
        typer.Option("--git-ref", metavar="A_REF B_REF", help="Two commits of the installation's ComfyUI itself."),
    ] = None,
    models: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--models", metavar="A_FILE B_FILE", help="Two checkpoint files for the workflow's loader, A's and B's."
        ),
    ] = None,
    must_run: Annotated[
        list[str] | None,
        typer.Option("--must-run", metavar="CLASS", help="Node class that must run for every prompt; repeatable."),
    ] = None,
    simulated: Annotated[
        str | None, typer.Option("--simulated-gpu", metavar="GPU", help="Use an embedded simulator of this GPU.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Pairs of runs; a verdict takes seven.")] = 8,
    users: Annotated[int, typer.Option(help="Concurrent users in each run.")] = 1,
    iterations: Annotated[int, typer.Option(help="Prompts of each user in each run.")] = 5,
    gate: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help=f"Metric that decides (default: {GATE}; with --node, also the node's own time)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all draws; the same seed sends the same prompts.")] = None,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the addresses of the pictures.")] = False,
) -> None:
    """Compare B with A in interleaved runs of the same seeds, so that drift affects both alike.

    Exit status: 0 if B is not slower, 1 if it is, 2 for an error or an invalid measurement, 3 if inconclusive.
    """
    from pytest_comfyload.launch.simulator import SimulatorProcess
    from pytest_comfyload.report.comparisons import ab_lines
    from pytest_comfyload.run.ab import run_ab

    own: _Sides = {"A": _side("--a", a, a_url), "B": _side("--b", b, b_url)}
    chosen: dict[str, Any] = {name: value for name, value in (("gate", gate), ("must_run", must_run)) if value}
    _add_models(own, models, workflow)
    launches = _Launches(launch, python, args, node, base, head, installations, git_refs)
    urls = list(url or ())
    title = f"ab {Path(workflow).stem}"
    with interruptible("what was measured is kept"), ExitStack() as resources:
        keeping = resources.enter_context(RunKeeper.begin(store))
        servers = launches.servers(own, named=[*urls, *filter(None, (a_url, b_url))], keeping=keeping)
        if servers is not None:
            resources.enter_context(servers)
        elif simulated:
            urls.append(resources.enter_context(SimulatorProcess(gpu=simulated, time_scale=_TIME_SCALE)).url)
        addresses = _servers(urls, {"--a-url": a_url, "--b-url": b_url}, header_files or []) if servers is None else ()
        result = run_ab(
            workflow,
            A=own["A"],
            B=own["B"],
            pairs=pairs,
            title=title,
            half=lambda scenario, turn: _run(scenario, turn, title, servers or addresses, keeping),
            launched=servers,
            say=_say,
            users=users,
            iterations=iterations,
            inputs=_inputs("--comfyui-input", inputs),
            seed=seed,
            **chosen,
        )
    if as_json:
        echo_json({"schema": "comfyload.ab/1", **result.to_dict()})
    else:
        echo_lines(ab_lines(result, screen_width()))
    raise typer.Exit(_status(result))


def _status(result: ABResult) -> int:
    if result.invalid_because is not None:
        return BAD
    return {"regressed": WORSE, "inconclusive": INCONCLUSIVE}.get(result.verdict, 0)


@dataclass(frozen=True, slots=True)
class _Launches:
    """The options about servers to launch."""

    directory: Path | None
    python: Path | None
    args: str
    node: Path | None
    base: str | None
    head: str | None
    installations: tuple[str, str] | None
    git_refs: tuple[str, str] | None

    def servers(self, own: _Sides, named: list[str], keeping: RunKeeper) -> ABServers | None:
        """Add each side's versions to `own`, and return the servers; None if none is launched. Raises: UsageError."""
        from pytest_comfyload.history.spool import log_folder
        from pytest_comfyload.run.ab_servers import ABServers, SideServer, side_servers

        self._refuse_contradictions(named)
        if self.node is not None:
            own["A"]["node"], own["B"]["node"] = self.base, self.head
        if self.installations is not None:
            own["A"]["comfyui"], own["B"]["comfyui"] = self.installations
        if self.git_refs is not None:
            for side, ref in zip(own.values(), self.git_refs, strict=True):
                side["comfyui"] = f"{self.directory}@{ref}"
        request = self._request()
        sides = side_servers(request, own, Path.cwd())
        if sides is None and request is not None:
            both = SideServer(request, request.versions())
            sides = {"A": both, "B": both}
        return None if sides is None else ABServers(sides, log_folder(keeping.root), _say)

    def _request(self) -> LaunchRequest | None:
        from pytest_comfyload.run.launching import LaunchRequest, split_arguments
        from pytest_comfyload.user_paths import user_path

        directory = self.directory or (user_path(self.installations[0]) if self.installations else None)
        if directory is None:
            return None
        nodes = () if self.node is None else (str(user_path(str(self.node)).absolute()),)
        return LaunchRequest(user_path(str(directory)).absolute(), self.python, split_arguments(self.args), nodes)

    def _refuse_contradictions(self, named: list[str]) -> None:
        """Raises: UsageError."""
        launched = self.directory is not None or self.installations is not None
        if launched and named:
            raise UsageError(f"--comfyui-launch starts the server, and {named[0]} is named: leave one out")
        if self.directory is not None and self.installations is not None:
            raise UsageError("--comfyui names the installations of both sides: leave out --comfyui-launch")
        if self.node is not None and not launched:
            raise UsageError("--node needs a server to run in: add --comfyui-launch=DIR, a ComfyUI installation")
        if self.git_refs is not None and self.directory is None:
            raise UsageError("--git-ref names commits of ComfyUI: add --comfyui-launch=DIR, a git repository")
        if (self.node is None) != (self.base is None):
            raise UsageError("--node and --base belong together: --node . --base main")
        if self.head is not None and self.node is None:
            raise UsageError("--head is a commit of a custom node: add --node PATH --base REF")


def _add_models(own: _Sides, models: tuple[str, str] | None, workflow: str) -> None:
    """Set each side's model file as the one input that names a checkpoint. Raises: UsageError."""
    if models is None:
        return
    from pytest_comfyload.workflow.workflow import Workflow

    graph = Workflow.load(workflow, root=Path.cwd()).graph
    named = [
        f"{node_id}.{name}"
        for node_id, node in graph.items()
        for name, value in node["inputs"].items()
        if name in ("ckpt_name", "unet_name") and isinstance(value, str)
    ]
    if len(named) != 1:
        raise UsageError(
            f"--models needs a workflow with one loader of a checkpoint, and {workflow} has {len(named)}; "
            "give --a NODE.INPUT=FILE --b NODE.INPUT=FILE"
        )
    for side, model in zip(own.values(), models, strict=True):
        side["inputs"] = {**side.get("inputs", {}), named[0]: model}


def _run(
    scenario: Scenario, turn: Turn, title: str, servers: ABServers | tuple[ServerAddress, ...], keeping: RunKeeper
) -> LoadResult:
    from pytest_comfyload.run.load_run import LoadRun, run_load
    from pytest_comfyload.run.observer import ProgressPrinter

    name = f"{title}, {turn.side}"
    return run_load(
        LoadRun(
            **({"servers": servers} if isinstance(servers, tuple) else servers.for_run(turn.side)),
            scenario=scenario,
            title=name,
            files=Path.cwd(),
            store=keeping.root,
            told=keeping.header(),
            observer=ProgressPrinter(name, str(scenario), (turn.number, turn.runs), _say),
            half=turn.half,
        )
    )


def _say(line: str) -> None:
    # Standard output is reserved for the result.
    echo(line, err=True)


def _side(option: str, inputs: list[str] | None, url: str | None) -> dict[str, Any]:
    from pytest_comfyload.client.address import ServerAddress

    given: dict[str, Any] = {"inputs": _inputs(option, inputs)} if inputs else {}
    return {**given, **({"servers": [ServerAddress.parse(url).url]} if url else {})}


def _inputs(option: str, texts: list[str] | None) -> dict[str, str]:
    """Return the values by input. Raises: UsageError that names the option."""
    from pytest_comfyload.workflow.inputs import parse_override

    try:
        return {override.address: override.text for override in map(parse_override, texts or ())}
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None


def _servers(common: list[str], own: dict[str, str | None], header_files: list[str]) -> tuple[ServerAddress, ...]:
    """Return all servers to use: those of each side, and the common ones unless both sides have their own.

    Raises: UsageError if A or B has no server.
    """
    given = [url for url in own.values() if url]
    if not common and (missing := [option for option, url in own.items() if not url]):
        raise UsageError(
            f"no server: name one with --comfyui-url or COMFYUI_URL, give {' and '.join(missing)}, or start one with "
            "--comfyui-launch or --simulated-gpu"
        )
    return addresses((*(common if len(given) < 2 else ()), *given), header_files)
