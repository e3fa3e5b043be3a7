"""The `comfyload` command line. An error prints one message and exits with status 2."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pytest_comfyload.cli.ab import ab
from pytest_comfyload.cli.baseline import baseline
from pytest_comfyload.cli.compare import accept, compare
from pytest_comfyload.cli.deploy import deploy, doctor
from pytest_comfyload.cli.export import export, import_runs, report
from pytest_comfyload.cli.gateway import gateway
from pytest_comfyload.cli.history import list_runs, prune
from pytest_comfyload.cli.init import init
from pytest_comfyload.cli.monitor import monitor, top
from pytest_comfyload.cli.plan import plan
from pytest_comfyload.cli.recheck import PASSED_ON, recheck
from pytest_comfyload.cli.record import record
from pytest_comfyload.cli.servers import record_nodes, simulate, wait
from pytest_comfyload.errors import ComfyloadError, UsageError
from pytest_comfyload.redaction import hide_environment
from pytest_comfyload.text import harmless

__all__ = ["app", "main"]

app = typer.Typer(
    help="Tools around load tests of ComfyUI servers; the tests themselves run with pytest.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pytest-comfyload {version('pytest-comfyload')}")
        raise typer.Exit


@app.callback()
def _comfyload(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    hide_environment(os.environ)


# The simulator's own parser reads its options, as it does in the process that the plugin starts.
_WITH_HELP = {**PASSED_ON, "help_option_names": list[str]()}
_CONTEXTS: Mapping[str, dict[str, Any]] = {"simulate": _WITH_HELP, "baseline": PASSED_ON, "recheck": PASSED_ON}
# In the order of `comfyload --help`.
_PANELS: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "Load tests": {"init": init, "wait": wait, "ab": ab, "baseline": baseline, "recheck": recheck},
    "Stored runs": {
        "history": list_runs,
        "compare": compare,
        "accept": accept,
        "report": report,
        "export": export,
        "import": import_runs,
        "prune": prune,
    },
    "Capacity": {"plan": plan, "record": record},
    "Servers in production": {
        "monitor": monitor,
        "top": top,
        "deploy": deploy,
        "doctor": doctor,
        "gateway": gateway,
    },
    "Simulator": {"simulate": simulate, "record-nodes": record_nodes},
}
for _panel, _commands in _PANELS.items():
    for _name, _command in _commands.items():
        app.command(_name, context_settings=_CONTEXTS.get(_name), rich_help_panel=_panel)(_command)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        # In a terminal without Unicode, question marks are better than a traceback. A closed stream is None.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        _expect_folder()
        app()
    except (ComfyloadError, OSError) as error:
        print(f"comfyload: {harmless(str(error))}", file=sys.stderr)
        sys.exit(2)


def _expect_folder() -> None:
    """Check that the current folder exists. Raises: UsageError."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder has been deleted; change to one that exists") from None
