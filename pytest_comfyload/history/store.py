"""The store: one file for each run, written once and never changed, so that two stores merge by copying files."""

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
    """What cannot be read of it is passed over; `skipped` says what that was, and `set_aside` moves it away."""

    def __init__(self, place: Storage) -> None:
        self.place = place
        # By name: what the last list met, and what was found when it was loaded.
        self._unlisted: dict[str, StoreError] = {}
        self._damaged: dict[str, StoreError] = {}
        self._told: set[str] = set()

    @classmethod
    def open(cls, where: str | os.PathLike[str]) -> Store:
        """A folder, which need not be there yet, or a URL. Raises: UsageError, StoreError."""
        return cls(place_at(where))

    def __str__(self) -> str:
        return str(self.place)

    @property
    def skipped(self) -> list[str]:
        """A line for each file that could not be read."""
        return [str(error) for error in (self._damaged | self._unlisted).values()]

    def set_aside(self) -> list[str]:
        """Move damaged files to the store's quarantine; returns a line for each file that was passed over, once."""
        found = {name: error for name, error in (self._damaged | self._unlisted).items() if name not in self._told}
        self._told |= found.keys()
        return [self._set_aside(name, error) for name, error in found.items()]

    def _set_aside(self, name: str, error: StoreError) -> str:
        if isinstance(error, BadFile) and error.movable:
            return f"{error}; {self.place.set_aside(name)}"
        return str(error)

    def add(self, record: Record) -> str:
        """The name of its file; a run that is there already stays as it is.

        Raises: BadFile for a record that could not be read again, StoreError.
        """
        name, content = file_name(record), encode(record)
        decode_strict(content, f"run {record.run_id}")
        # A list of the store for each run would make storing many take the square of the time.
        if not self.place.holds(f"{RUNS}/{name}"):
            self.place.write(f"{RUNS}/{name}", content)
        return name

    def files(self) -> list[str]:
        """The names of all run files, oldest first. Raises: StoreError."""
        return sorted(self._sizes())

    def _sizes(self) -> dict[str, int]:
        return {name: size for name, size in self.place.sizes(RUNS).items() if name.endswith(SUFFIX)}

    def runs(self) -> list[Row]:
        """Newest first. Raises: StoreError where the store itself cannot be read."""
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
        """Yield the records that can be read. Raises: StoreError where the store itself cannot be."""
        for row in rows:
            try:
                yield self.load(row)
            except BadFile as error:
                self._damaged[f"{RUNS}/{row.file}"] = error

    def without_damaged(self, work: Callable[[], T]) -> T:
        """Return what comes of `work`, which lists runs and loads some; done again without those that turn out damaged.

        Raises: what `work` raises; StoreError.
        """
        try:
            return work()
        except BadFile:
            self.find_damaged()
            return work()

    def find_damaged(self) -> None:
        """Read all runs: from now on those that are damaged are passed over. Raises: StoreError."""
        for _ in self.records(self.runs()):
            pass

    def remove(self, run: Row) -> None:
        """Raises: StoreError."""
        self.place.remove(f"{RUNS}/{run.file}")

    def remove_parts(self) -> int:
        """Return what killed writers left behind; how many it was."""
        parts = [name for name in self.place.sizes(RUNS) if name.endswith(PART)]
        for name in parts:
            self.place.remove(f"{RUNS}/{name}")
        return len(parts)


def file_name(record: Record) -> str:
    """Time and a random part (both are the run's id), commit, environment. Raises: BadFile."""
    commit = (record.provenance.commit or "no-commit")[:12]
    name = f"{record.run_id}_{commit}_{record.fingerprint}{SUFFIX}"
    if not re.fullmatch(r"[\w.-]{1,200}", name, re.ASCII) or name.startswith("."):
        raise BadFile(f"run {shown(record.run_id)}", f"cannot name a file: {shown(name)}")
    return name


def superfluous(
    rows: Iterable[Row], *, keep: int | None = None, before: float | None = None, named: bool = False
) -> list[Row]:
    """Beyond the newest `keep` of each test in each environment, and begun before `before`; None: no matter.

    Labelled runs and those of tagged commits are not among them unless `named`, and do not count.
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
