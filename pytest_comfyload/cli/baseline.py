"""`comfyload baseline`: create a suite's first baseline by running pytest several times.

Exit status: 0 on success; 1 if a test failed, though its runs count anyway; 2 for uncommitted changes, whose runs
would not count; otherwise that of the pytest session that was interrupted or could not run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.units import counted

__all__ = ["baseline"]

# pytest's exit status for: all tests passed, some failed. After any other, the next session would not fare better.
_RAN = (0, 1)
# Options that judge runs against earlier ones are off, since there are none yet.
_NOT_JUDGED = ("-o", "comfyload_fail_on_regression=false", "-o", "comfyload_require_baseline=false")


def baseline(
    context: typer.Context,
    runs: Annotated[int, typer.Option(min=1, help="Sessions to run.")] = 3,
) -> None:
    """Run pytest several times on this commit, as a baseline for the next one.

    Further arguments are pytest's: `comfyload baseline --runs 3 -- load_tests --comfyui-url http://gpu1:8188`.
    Each session is a process of its own, since runs of one session do not show how sessions differ.
    """
    _refuse_uncommitted()
    failed = 0
    for number in range(1, runs + 1):
        typer.echo(f"comfyload: session {number} of {runs}", err=True)
        status = _session(context.args)
        if status not in _RAN:
            typer.echo(f"comfyload: session {number} of {runs} ended with status {status}; stopped", err=True)
            raise typer.Exit(status)
        failed += status
    outcome = f"; tests failed in {failed} of them, but their runs are kept" if failed else ""
    typer.echo(f"comfyload: {counted(runs, 'session')} ran{outcome}; `comfyload history` lists their runs", err=True)
    raise typer.Exit(min(failed, 1))


def _session(arguments: list[str]) -> int:
    process = subprocess.Popen([sys.executable, "-m", "pytest", *_NOT_JUDGED, *arguments])
    while True:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # pytest gets it too, and deletes its prompts from the servers
            continue
        return 128 - status if status < 0 else status


def _refuse_uncommitted() -> None:
    """Raise UsageError if there are uncommitted changes."""
    from pytest_comfyload.history.git import Git

    changed = Git(Path.cwd()).ask("status", "--porcelain", "--untracked-files=no")
    if changed:
        raise UsageError(
            "there are uncommitted changes, and their runs are no baseline; commit or stash them first:\n" + changed
        )
