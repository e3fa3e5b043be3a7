"""Where a run comes from: commit, branch, CI job, machine. What cannot be known is None, and a note says why."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import msgspec

from pytest_comfyload.history.ci import Ci, ci_of
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.limits import FIRST_DATE, LAST_DATE, CommitDate, Revision
from pytest_comfyload.history.redaction import public_text

__all__ = ["Machine", "Provenance", "provenance_of"]


class Machine(msgspec.Struct, frozen=True, omit_defaults=True):
    """The one that the load came from. `host` is a hash: enough to tell machines apart. `memory` in bytes."""

    host: str
    processor: str
    cores: int | None
    memory: float | None
    system: str
    python: str


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """`date` is the author's, `committed` the committer's, seconds since 1970. `dirty`: tracked files differ from the
    commit. `session`: of the pytest session, which all its runs have in common.

    `base` is the branch that this one leaves, `merge_base` the commit where it does. `notes` say what is unknown, why.
    """

    machine: Machine | None = None
    commit: Revision | None = None
    parents: tuple[str, ...] = ()
    branch: str | None = None
    dirty: bool | None = None
    title: str | None = None
    author: str | None = None
    date: CommitDate | None = None
    tag: str | None = None
    label: str | None = None
    base: str | None = None
    merge_base: str | None = None
    repository: str | None = None
    ci: Ci | None = None
    comfyload: str | None = None
    notes: tuple[str, ...] = ()
    committed: CommitDate | None = None
    session: str | None = None


def provenance_of(
    folder: Path, label: str = "", environ: Mapping[str, str] = os.environ, session: str | None = None
) -> Provenance:
    """Determine the provenance of a run that begins now with the files in `folder`. Never raises."""
    git, ci = Git(folder), ci_of(environ)
    known = Provenance(machine=_machine(), label=label or None, ci=ci, comfyload=_version(), session=session)
    # A title may hold anything but these two.
    told = git.ask("log", "-1", "--format=%H%x1f%P%x1f%an%x1f%at%x1f%ct%x1f%s")
    if told is None:
        return msgspec.structs.replace(
            known,
            branch=ci.branch if ci else None,
            commit=ci.head if ci else None,
            notes=_notes(git),
        )
    commit, parents, author, date, committed, title = told.split("\x1f", 5)
    base, merge_base = _leaves(git, ci)
    return msgspec.structs.replace(
        known,
        commit=commit,
        parents=tuple(parents.split()),
        branch=git.ask("symbolic-ref", "--short", "--quiet", "HEAD") or (ci.branch if ci else None),
        dirty=_dirty(git),
        title=public_text(title),
        author=author,
        date=_date(date),
        committed=_date(committed),
        tag=_tag(git) or (ci.tag if ci else None),
        base=base,
        merge_base=merge_base,
        repository=_repository(git),
        notes=_notes(git),
    )


def _notes(git: Git) -> tuple[str, ...]:
    trouble = git.trouble()
    return () if trouble is None else (trouble,)


def _date(text: str) -> float | None:
    """Commits may have dates that no calendar has."""
    date = float(text)
    return date if FIRST_DATE <= date <= LAST_DATE else None


def _dirty(git: Git) -> bool | None:
    changed = git.ask("status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def _tag(git: Git) -> str | None:
    """The newest of the commit's tags."""
    tags = git.ask("tag", "--points-at", "HEAD", "--sort=-creatordate")
    return tags.splitlines()[0] if tags else None


def _leaves(git: Git, ci: Ci | None) -> tuple[str | None, str | None]:
    """The name of the base branch, and where this one leaves it."""
    named = ci.base if ci else None
    default = (git.ask("symbolic-ref", "--short", "--quiet", "refs/remotes/origin/HEAD") or "").removeprefix("origin/")
    for name in [named] if named else [default, "main", "master"]:
        for revision in (f"refs/remotes/origin/{name}", f"refs/heads/{name}") if name else ():
            if git.commit(revision) is not None:
                return name, git.merge_base("HEAD", revision)
    return named, None


def _repository(git: Git) -> str | None:
    """Return where people look at it: `git@host:owner/name.git` is at https."""
    url = git.ask("config", "--get", "remote.origin.url")
    if not url:
        return None
    url = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/](?!/)", r"https://\1/", url)
    return public_text(url).removesuffix(".git")


def _machine() -> Machine:
    return Machine(
        host=hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        processor=_processor(),
        cores=os.cpu_count(),
        memory=_memory(),
        system=platform.platform(terse=True),
        python=platform.python_version(),
    )


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    model = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not on this system
        return None


def _version() -> str | None:
    try:
        return metadata.version("pytest-comfyload")
    except metadata.PackageNotFoundError:
        return None
