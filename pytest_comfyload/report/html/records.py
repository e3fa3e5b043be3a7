"""The records that pages are made of: read when one is needed, and the last few kept, since neighbours ask again."""

from __future__ import annotations

from collections import OrderedDict

from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.history.store import Store

__all__ = ["Records"]

# A record of ten thousand prompts takes some 20 MB.
_MOST_RECORDS = 24


class Records:
    """Of one store. Raises: StoreError where a file is torn."""

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
