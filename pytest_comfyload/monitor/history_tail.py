"""Which prompts of a server have ended since the last look, each exactly once; no I/O.

A server lists ended prompts in its history, the newest last, and keeps the newest 10,000. A look reads the end of that
list until it meets a prompt that was seen before. Prompts that end meanwhile move the list under the reader, clients
delete entries, and a restart empties it: any seen prompt ends the look, so that none of that counts one twice.

What cannot be counted: prompts that ended and were removed from the history between two looks, by a client or by a
restart; and a second prompt with the id of an earlier one, which has no entry of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from itertools import islice, takewhile
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["PAGE", "E", "HistoryTail", "News", "PageRequest"]

# Entries that one request reads at most: 64 of 6 kB each take a server 3 ms.
PAGE = 64
# Entries that a server keeps (ComfyUI's MAXIMUM_HISTORY_SIZE, of which the oldest is removed beyond it).
SERVER_KEEPS = 10_000
# Ids that are remembered: more than a server keeps.
REMEMBERED = 12_000


class Entry(Protocol):
    """An ended prompt."""

    @property
    def prompt_id(self) -> str: ...


E = TypeVar("E", bound=Entry)


class PageRequest(NamedTuple):
    """`size` entries from index `offset` on; None: the newest ones."""

    size: int
    offset: int | None = None


class News(NamedTuple, Generic[E]):
    """What ended since the last look, oldest first.

    `all_new`: no prompt that was seen before is in the history. `lost`: for the first time; the server was restarted,
    or its history cleared.
    `gap`: more prompts ended than the history keeps, so that some were not counted. `before`: of the first look, the
    newest of those that had ended before.
    """

    ended: tuple[E, ...] = ()
    all_new: bool = False
    lost: bool = False
    gap: bool = False
    before: tuple[E, ...] = ()


Reading = Generator[PageRequest, Sequence[E], News[E]]


class HistoryTail(Generic[E]):
    """Remembers the ids of ended prompts.

    Args:
        seen: Ids of an earlier process, oldest first; None: the first look only learns where the history ends.
    """

    def __init__(self, seen: Iterable[str] | None = None) -> None:
        # Entries of one request; fewer where a server's entries are large.
        self.page = PAGE
        self._begun = seen is not None
        self._seen = dict.fromkeys(seen or ())
        # Whether the last look has found an empty history: what ends next goes on from there.
        self._emptied = False

    @property
    def seen(self) -> tuple[str, ...] | None:
        """The remembered ids, oldest first; None before the first look."""
        return tuple(self._seen) if self._begun else None

    def look(self) -> Reading[E]:
        """Yield the pages to read, and take in each; return the news. A look that is given up changes nothing."""
        if not self._begun:
            page = yield PageRequest(self.page)
            self._remember(page)
            return News(before=tuple(page))
        for size in sorted({1, min(4, self.page), min(16, self.page), self.page}):
            page = yield PageRequest(size)
            new = self._new(page)
            if len(new) < size:
                return self._news(new, all_new=len(new) == len(page))
        return (yield from self._look_back())

    def _look_back(self) -> Reading[E]:
        """Page backwards from the end: what ends meanwhile is for the next look.

        A history that is full moves its entries to lower indices, so that pages may overlap, but never leave a gap.
        """
        found: Sequence[E] = ()
        length = end = yield from self._length()
        while end > 0:
            begin = max(0, end - self.page)
            page = yield PageRequest(end - begin, begin)
            new = self._new(page)
            found = _joined(new, found)
            if len(new) < len(page):
                return self._news(found)
            end = begin
        return self._news(found, all_new=length < SERVER_KEEPS, gap=length >= SERVER_KEEPS)

    def _length(self) -> Generator[PageRequest, Sequence[E], int]:
        """Find how many entries the history has, which no route tells: by bisection, of one entry each."""
        low, high = self.page, 2 * self.page
        while (yield PageRequest(1, high)):
            low, high = high, 2 * high
        while low < high:
            middle = (low + high) // 2
            if (yield PageRequest(1, middle)):
                low = middle + 1
            else:
                high = middle
        return low

    def _new(self, page: Sequence[E]) -> list[E]:
        """Return the entries after the newest that was seen."""
        new = list(takewhile(lambda entry: entry.prompt_id not in self._seen, reversed(page)))
        return new[::-1]

    def _news(self, ended: Sequence[E], *, all_new: bool = False, gap: bool = False) -> News[E]:
        known, first = bool(self._seen), all_new and not self._emptied
        self._remember(ended)
        self._emptied = all_new and not ended
        return News(tuple(ended), all_new, lost=first and known, gap=gap and known)

    def _remember(self, entries: Sequence[E]) -> None:
        self._begun = True
        self._seen.update((entry.prompt_id, None) for entry in entries)
        for surplus in tuple(islice(self._seen, max(0, len(self._seen) - REMEMBERED))):
            del self._seen[surplus]


def _joined(page: Sequence[E], found: Sequence[E]) -> Sequence[E]:
    """Join two stretches of the history, oldest first, of which `page` was read later and further back.

    Where they overlap, `page` may have newer entries than `found`, and lack older ones that were removed meanwhile.
    """
    ids = {entry.prompt_id for entry in page}
    removed = list(takewhile(lambda entry: entry.prompt_id not in ids, found))
    if len(removed) == len(found):
        return [*page, *found]
    return [*removed, *page, *(entry for entry in found[len(removed) :] if entry.prompt_id not in ids)]
