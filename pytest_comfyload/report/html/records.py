"""Stored records for the pages, the last few cached in memory, and the changes from one to the next."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pytest_comfyload.errors import StoreError
from pytest_comfyload.history.environment import differences
from pytest_comfyload.history.files import read_untrusted
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.limits import MOST_RUN_FILE
from pytest_comfyload.history.record import Record
from pytest_comfyload.history.record_file import decode_as
from pytest_comfyload.history.store import RUNS, Store
from pytest_comfyload.report.html.series import Line

__all__ = ["Records", "Subjects"]

# A record of ten thousand prompts takes about 20 MB.
_MOST_RECORDS = 24


class Records:
    """A cached loader of the records of one store. Raises: StoreError if a file is damaged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, Record] = OrderedDict()

    def __call__(self, row: Row) -> Record:
        if row.file not in self._kept:
            self._kept[row.file] = self._store.load(row)
        self._kept.move_to_end(row.file)
        while len(self._kept) > _MOST_RECORDS:
            self._kept.popitem(last=False)
        return self._kept[row.file]


FILE = "subjects.msgpack"
# Maximum number of records read per call; the next calls read the rest, newest first.
_MOST_SUBJECTS = 2000


class _Told(msgspec.Struct):
    subject: dict[str, Any]


class _Kept(msgspec.Struct):
    """The content of the cache file. `numbers` maps the file of a record to the index of its subject."""

    subjects: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}


class Subjects:
    """The subjects of stored records, cached in a file in `folder`; in memory only if that is None."""

    def __init__(self, store: Store, folder: Path | None) -> None:
        self._store = store
        self._path = folder / FILE if folder else None
        self._kept = self._read()

    def learn(self, rows: Iterable[Row], most: int = _MOST_SUBJECTS) -> None:
        """Read the subjects of sorted rows that are not known yet, at most `most` of them."""
        known = {msgspec.msgpack.encode(each): number for number, each in enumerate(self._kept.subjects)}
        fresh = [row.file for row in rows if row.file not in self._kept.numbers][:most]
        for file in fresh:
            with contextlib.suppress(StoreError):  # a damaged file was reported when the runs were listed
                told: _Told = decode_as(_Told, self._store.place.read(f"{RUNS}/{file}"), file)
                number = known.setdefault(msgspec.msgpack.encode(told.subject), len(known))
                if number == len(self._kept.subjects):
                    self._kept.subjects.append(told.subject)
                self._kept.numbers[file] = number
        if fresh and self._path:
            self._path.write_bytes(msgspec.msgpack.encode(self._kept))

    def changes(self, line: Line) -> dict[int, tuple[str, ...]]:
        """Return how each row differs from the previous one on its branch or base branch, by the row's index."""
        newest: dict[str | None, int] = {}
        changes = {}
        for index, row in enumerate(line.rows):
            before, after = newest.get(row.branch, newest.get(row.base)), self._kept.numbers.get(row.file)
            if after is not None:
                newest[row.branch] = after
                if before is not None and before != after:
                    changes[index] = differences(self._of(before), self._of(after))
        return changes

    def _of(self, number: int) -> Mapping[str, Any]:
        return self._kept.subjects[number]

    def _read(self) -> _Kept:
        if self._path is not None:
            with contextlib.suppress(OSError, StoreError, msgspec.MsgspecError, ValueError, RecursionError):
                kept = msgspec.msgpack.decode(read_untrusted(self._path, MOST_RUN_FILE), type=_Kept)
                if all(0 <= number < len(kept.subjects) for number in kept.numbers.values()):
                    return kept
        return _Kept([], {})
