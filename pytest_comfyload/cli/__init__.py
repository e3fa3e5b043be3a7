"""`comfyload …`: the command line. Errors are one message and exit status 2."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

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
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _comfyload() -> None:
    # With a callback, a single command keeps its name.
    hide_environment(os.environ)


# The simulator's own parser reads its options, here as in the process that the plugin starts.
_WITH_HELP = {**PASSED_ON, "help_option_names": list[str]()}


app.command("simulate", context_settings=_WITH_HELP)(simulate)
app.command("record")(record)
app.command("record-nodes")(record_nodes)
app.command("ab")(ab)
app.command("accept")(accept)
app.command("baseline", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(baseline)
app.command("compare")(compare)
app.command("deploy")(deploy)
app.command("doctor")(doctor)
app.command("gateway")(gateway)
app.command("history")(list_runs)
app.command("init")(init)
app.command("monitor")(monitor)
app.command("plan")(plan)
app.command("prune")(prune)
app.command("export")(export)
app.command("import")(import_runs)
app.command("recheck", context_settings=PASSED_ON)(recheck)
app.command("report")(report)
app.command("top")(top)
app.command("wait")(wait)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        # In a terminal without Unicode, question marks are better than a traceback. A closed one is None.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        _expect_folder()
        app()
    except (ComfyloadError, OSError) as error:
        print(f"comfyload: {harmless(str(error))}", file=sys.stderr)
        sys.exit(2)


def _expect_folder() -> None:
    """Raises: UsageError."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder has been deleted; change to one that exists") from None
