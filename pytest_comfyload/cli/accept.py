"""`comfyload accept`: what people say of a change of speed, in a file that is committed with the code."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from pytest_comfyload.cli.output import echo
from pytest_comfyload.errors import UsageError

__all__ = ["accept"]


def accept(
    ref: Annotated[str, typer.Argument(help="The commit that made the difference, as git or the store names it.")],
    reason: Annotated[str, typer.Option(help="Why it is right so; it is shown wherever the change is.")],
    test: Annotated[
        str | None, typer.Option(help="Of this test only (its id, as `comfyload history` shows it).")
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="It is noise: mark it no more.")] = False,
) -> None:
    """Accept a slowdown or a gain: it fails no comparison, and runs before it are no baseline any more."""
    from pytest_comfyload.compare.acceptance import Acceptance, add_acceptance
    from pytest_comfyload.history.git import Git

    git = Git(Path.cwd())
    commit = git.commit(ref)
    if commit is None:
        raise UsageError(f"{ref!r} is no commit that git knows here; give one as `git log` shows it")
    if not reason.strip():
        raise UsageError("--reason is empty; say why the change is right, for those who meet it later")
    decision = "rejected" if reject else "accepted"
    today = time.strftime("%Y-%m-%d", time.gmtime())
    path = add_acceptance(git.root, Acceptance(commit[:12], reason, decision, test, today))
    echo(f"{commit[:12]} is {decision}: {path.name} says so; commit it")
