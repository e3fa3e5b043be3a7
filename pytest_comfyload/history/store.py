"""The store: one file for each run, written once and never changed, so that two stores merge by copying files."""

from __future__ import annotations

import os
import re

from pytest_comfyload.errors import StoreError
from pytest_comfyload.history.index import Row, rows_of
from pytest_comfyload.history.places import PART, Place, place_at
from pytest_comfyload.history.record import Record, decode, encode

__all__ = ["RUNS", "Store", "file_name"]

RUNS = "runs"
SUFFIX = ".run"


class Store:
    """`skipped` says after `runs` which files could not be read, and why."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.skipped: list[str] = []

    @classmethod
    def open(cls, where: str | os.PathLike[str]) -> Store:
        """A folder, which need not be there yet, or a URL. Raises: UsageError."""
        return cls(place_at(where))

    def __str__(self) -> str:
        return str(self.place)

    def add(self, record: Record) -> str:
        """The name of its file; a run that is there already stays as it is. Raises: StoreError."""
        name = file_name(record)
        if name not in self.files():
            self.place.write(f"{RUNS}/{name}", encode(record))
        return name

    def files(self) -> list[str]:
        """The names of all run files, oldest first. Raises: StoreError."""
        return sorted(name for name in self.place.names(RUNS) if name.endswith(SUFFIX))

    def runs(self) -> list[Row]:
        """Newest first. Raises: StoreError where the store itself cannot be read."""
        self.skipped = []
        rows = rows_of(self.place, RUNS, self.files(), self.skipped.append)
        return sorted(rows, key=lambda row: (row.time, row.run_id), reverse=True)

    def load(self, run: Row | str) -> Record:
        """By its row or the name of its file. Raises: StoreError."""
        name = run if isinstance(run, str) else run.file
        return decode(self.place.read(f"{RUNS}/{name}"), f"{self.place}/{RUNS}/{name}")

    def remove(self, run: Row) -> None:
        """Raises: StoreError."""
        self.place.remove(f"{RUNS}/{run.file}")

    def remove_parts(self) -> int:
        """What killed writers left behind; how many it was."""
        parts = [name for name in self.place.names(RUNS) if name.endswith(PART)]
        for name in parts:
            self.place.remove(f"{RUNS}/{name}")
        return len(parts)


def file_name(record: Record) -> str:
    """Time and a random part (both are the run's id), commit, environment. Raises: StoreError."""
    if not re.fullmatch(r"[\w.-]{1,100}", record.run_id):
        raise StoreError(f"run id {record.run_id!r} cannot name a file")
    commit = (record.provenance.commit or "no-commit")[:12]
    return f"{record.run_id}_{commit}_{record.fingerprint}{SUFFIX}"
