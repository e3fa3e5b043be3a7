"""Detection of the prompts that ended on a server since the last poll, each exactly once; no I/O.

A server lists ended prompts in its history, the newest last, and keeps the newest 10,000. A poll reads the end of that
list until it finds a prompt that was seen before. Meanwhile the list can shift as more prompts end, clients can delete
entries, and a restart empties it; since any seen prompt stops the poll, none of this counts a prompt twice.

Some prompts cannot be counted: those that ended and were removed from the history between two polls, by a client or by
a restart, and a second prompt with the id of an earlier one, which has no entry of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from itertools import islice, takewhile
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["PAGE", "E", "HistoryTail", "News", "PageRequest"]

# Maximum number of entries per request: 64 entries of 6 kB each take a server 3 ms.
PAGE = 64
# Entries that a server keeps (ComfyUI's MAXIMUM_HISTORY_SIZE); beyond that, it removes the oldest.
SERVER_KEEPS = 10_000
# Ids to remember: more than a server keeps.
REMEMBERED = 12_000


class Entry(Protocol):
    """An ended prompt."""

    @property
    def prompt_id(self) -> str: ...


E = TypeVar("E", bound=Entry)


class PageRequest(NamedTuple):
    """A request for `size` entries starting at index `offset`; None requests the newest ones."""

    size: int
    offset: int | None = None


class News(NamedTuple, Generic[E]):
    """The prompts that ended since the last poll, oldest first.

    `all_new`: the history contains no prompt that was seen before. `lost`: the same, but set only by the first such
    poll; the server was restarted, or its history cleared.
    `gap`: more prompts ended than the history keeps, so some were not counted. `before`: on the first poll only, the
    newest prompts that had ended before it.
    """

    ended: tuple[E, ...] = ()
    all_new: bool = False
    lost: bool = False
    gap: bool = False
    before: tuple[E, ...] = ()


Reading = Generator[PageRequest, Sequence[E], News[E]]


class HistoryTail(Generic[E]):
    """Reader of the end of a server's history, which remembers the ids of ended prompts.

    Args:
        seen: Ids seen by an earlier process, oldest first. With None, the first poll only finds where the history ends.
    """

    def __init__(self, seen: Iterable[str] | None = None) -> None:
        # Entries per request; reduced where a server's entries are large.
        self.page = PAGE
        self._begun = seen is not None
        self._seen = dict.fromkeys(seen or ())
        # Whether the last poll found the history empty: the next prompts are all new, yet none was lost.
        self._emptied = False

    @property
    def seen(self) -> tuple[str, ...] | None:
        """The remembered ids, oldest first; None before the first poll."""
        return tuple(self._seen) if self._begun else None

    def look(self) -> Reading[E]:
        """Yield the pages to read, receive each one, and return the news. An abandoned poll changes nothing."""
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
        """Page backwards from the end; prompts that end meanwhile are left to the next poll.

        Entries of a full history move to lower indices, so pages may overlap but never leave a gap.
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
        """Find the length of the history, which no route reports, by bisection with requests for one entry."""
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
        """Return the entries after the newest one that was seen before."""
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
    """Join two slices of the history, oldest first; `page` was read later and lies further back.

    Where they overlap, `page` may have newer entries than `found`, and lack older ones that were removed meanwhile.
    """
    ids = {entry.prompt_id for entry in page}
    removed = list(takewhile(lambda entry: entry.prompt_id not in ids, found))
    if len(removed) == len(found):
        return [*page, *found]
    return [*removed, *page, *(entry for entry in found[len(removed) :] if entry.prompt_id not in ids)]
