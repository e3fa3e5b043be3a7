"""The store: one file per run, written once and never changed, so that stores can be merged by copying files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pytest_comfyload.errors import BadFile, StoreError
from pytest_comfyload.history.files import shown
from pytest_comfyload.history.index import Row, rows_of
from pytest_comfyload.history.record import Record
from pytest_comfyload.history.record_file import decode, decode_strict, encode
from pytest_comfyload.history.storage import PART, Storage, place_at

__all__ = ["RUNS", "Store", "file_name", "superfluous"]

RUNS = "runs"
SUFFIX = ".run"

T = TypeVar("T")


class Store:
    """A store of runs. Unreadable files are skipped; `skipped` reports them, and `set_aside` quarantines them."""

    def __init__(self, place: Storage) -> None:
        self.place = place
        # Errors by file name: those of the last listing, and those of loading runs.
        self._unlisted: dict[str, StoreError] = {}
        self._damaged: dict[str, StoreError] = {}
        self._told: set[str] = set()

    @classmethod
    def open(cls, where: str | os.PathLike[str]) -> Store:
        """Open the store in a folder, which need not exist yet, or at a URL. Raises: UsageError, StoreError."""
        return cls(place_at(where))

    def __str__(self) -> str:
        return str(self.place)

    @property
    def skipped(self) -> list[str]:
        """One line for each file that could not be read."""
        return [str(error) for error in (self._damaged | self._unlisted).values()]

    def set_aside(self) -> list[str]:
        """Move damaged files to the store's quarantine, and return a line for each skipped file not reported before."""
        found = {name: error for name, error in (self._damaged | self._unlisted).items() if name not in self._told}
        self._told |= found.keys()
        return [self._set_aside(name, error) for name, error in found.items()]

    def _set_aside(self, name: str, error: StoreError) -> str:
        if isinstance(error, BadFile) and error.movable:
            return f"{error}; {self.place.set_aside(name)}"
        return str(error)

    def add(self, record: Record) -> str:
        """Store a record and return the name of its file; a run that already exists is not changed.

        Raises: BadFile for a record that could not be read back, StoreError.
        """
        name, content = file_name(record), encode(record)
        decode_strict(content, f"run {record.run_id}")
        # Listing the store for every run would make storing many runs take quadratic time.
        if not self.place.holds(f"{RUNS}/{name}"):
            self.place.write(f"{RUNS}/{name}", content)
        return name

    def files(self) -> list[str]:
        """Return the names of all run files, oldest first. Raises: StoreError."""
        return sorted(self._sizes())

    def _sizes(self) -> dict[str, int]:
        return {name: size for name, size in self.place.sizes(RUNS).items() if name.endswith(SUFFIX)}

    def runs(self) -> list[Row]:
        """Return the rows of all runs, newest first. Raises: StoreError if the store itself cannot be read."""
        self._unlisted = {}
        sizes = {name: size for name, size in self._sizes().items() if f"{RUNS}/{name}" not in self._damaged}
        for name in [name for name in sizes if not name.isprintable()]:
            del sizes[name]
            self._unlisted[f"{RUNS}/{name}"] = BadFile(shown(name), "has a name that cannot be printed")
        rows = rows_of(self.place, RUNS, sizes, self._pass_over)
        return sorted(rows, key=lambda row: (row.time, row.run_id), reverse=True)

    def _pass_over(self, name: str, error: StoreError) -> None:
        # Another process may have deleted it since it was listed.
        folder, _, file = name.rpartition("/")
        if isinstance(error, BadFile) or file in self.place.sizes(folder):
            self._unlisted[name] = error

    def load(self, run: Row | str) -> Record:
        """Read a run by its row or the name of its file. Raises: StoreError."""
        name = run if isinstance(run, str) else run.file
        return decode(self.place.read(f"{RUNS}/{name}"), name)

    def records(self, rows: Iterable[Row]) -> Iterator[Record]:
        """Yield the records that can be read. Raises: StoreError if the store itself cannot be read."""
        for row in rows:
            try:
                yield self.load(row)
            except BadFile as error:
                self._damaged[f"{RUNS}/{row.file}"] = error

    def without_damaged(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, which lists runs and loads some of them.

        If it finds a damaged run, it is repeated once without all damaged runs. Raises: what `work` raises; StoreError.
        """
        try:
            return work()
        except BadFile:
            self.find_damaged()
            return work()

    def find_damaged(self) -> None:
        """Read all runs, so that damaged ones are skipped afterwards. Raises: StoreError."""
        for _ in self.records(self.runs()):
            pass

    def remove(self, run: Row) -> None:
        """Remove a run's file. Raises: StoreError."""
        self.place.remove(f"{RUNS}/{run.file}")

    def remove_parts(self) -> int:
        """Remove the partial files that killed writers left behind, and return their number."""
        parts = [name for name in self.place.sizes(RUNS) if name.endswith(PART)]
        for name in parts:
            self.place.remove(f"{RUNS}/{name}")
        return len(parts)


def file_name(record: Record) -> str:
    """Return the name of a record's file, made of run id, commit and environment fingerprint. Raises: BadFile."""
    commit = (record.provenance.commit or "no-commit")[:12]
    name = f"{record.run_id}_{commit}_{record.fingerprint}{SUFFIX}"
    if not re.fullmatch(r"[\w.-]{1,200}", name, re.ASCII) or name.startswith("."):
        raise BadFile(f"run {shown(record.run_id)}", f"cannot name a file: {shown(name)}")
    return name


def superfluous(
    rows: Iterable[Row], *, keep: int | None = None, before: float | None = None, named: bool = False
) -> list[Row]:
    """Return the runs that `prune` may delete.

    These are beyond the newest `keep` of each test in each environment, and started before `before`; None lifts the
    condition. Labelled runs and runs of tagged commits are neither returned nor counted unless `named` is set.
    """
    seen: Counter[tuple[str, str]] = Counter()
    going: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.time, row.run_id), reverse=True):
        if not named and (row.label or row.tag):
            continue
        seen[row.fingerprint, row.test] += 1
        beyond = keep is None or seen[row.fingerprint, row.test] > keep
        if beyond and (before is None or row.time < before):
            going.append(row)
    return going
