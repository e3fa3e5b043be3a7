"""Provenance of a run: commit, branch, CI job, machine. What cannot be determined is None, and a note says why."""

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
    """The machine that generated the load.

    `host` is a hash, which is enough to tell machines apart. `memory` is in bytes.
    """

    host: str
    processor: str
    cores: int | None
    memory: float | None
    system: str
    python: str


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a run comes from.

    `date` is the author date and `committed` the committer date, in seconds since 1970. `dirty` means that tracked
    files differ from the commit. `session` is the id of the pytest session, which all its runs share. `base` is the
    branch that this branch started from, and `merge_base` the commit where it did. `notes` say what is unknown and why.
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
    """Return the provenance of a run that starts now with the files in `folder`. Never raises."""
    git, ci = Git(folder), ci_of(environ)
    known = Provenance(machine=_machine(), label=label or None, ci=ci, comfyload=_version(), session=session)
    # The title is last, since it may contain the separator.
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
    """Return a commit's date; None if it is outside the calendar, which git allows."""
    date = float(text)
    return date if FIRST_DATE <= date <= LAST_DATE else None


def _dirty(git: Git) -> bool | None:
    changed = git.ask("status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def _tag(git: Git) -> str | None:
    """Return the newest of the commit's tags."""
    tags = git.ask("tag", "--points-at", "HEAD", "--sort=-creatordate")
    return tags.splitlines()[0] if tags else None


def _leaves(git: Git, ci: Ci | None) -> tuple[str | None, str | None]:
    """Return the name of the base branch, and the merge base with it."""
    named = ci.base if ci else None
    default = (git.ask("symbolic-ref", "--short", "--quiet", "refs/remotes/origin/HEAD") or "").removeprefix("origin/")
    for name in [named] if named else [default, "main", "master"]:
        for revision in (f"refs/remotes/origin/{name}", f"refs/heads/{name}") if name else ():
            if git.commit(revision) is not None:
                return name, git.merge_base("HEAD", revision)
    return named, None


def _repository(git: Git) -> str | None:
    """Return the repository's web address: that of `git@host:owner/name.git` is `https://host/owner/name`."""
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
    except (AttributeError, ValueError, OSError):  # not available on this system
        return None


def _version() -> str | None:
    try:
        return metadata.version("pytest-comfyload")
    except metadata.PackageNotFoundError:
        return None
