"""Text for a given screen width: tables whose names wrap to make room for figures, lines broken between words."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pytest_comfyload.text import harmless

__all__ = ["Column", "rendered", "table_lines", "wrapped"]

_GAP = 2
# Minimum width of the wrapping column: a table wider than the screen is better than an unreadable one.
_LEAST = 16
# A figure is kept together with its unit.
_FIGURE = r"[\d.,–−+×]+ (?:%|[A-Za-z]+/[a-z]+|[A-Za-z°]{1,3}(?!\w))"
_WORD = re.compile(rf"{_FIGURE}(?: / {_FIGURE})?|\S+")
# Break points within a name longer than a line: after separators, and between the words of CamelCase.
_WITHIN = re.compile(r"(?<=[/_:.,=()\[\]-])(?=[^/_:.,=()\[\]-])|(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `gives_way`: its cells wrap if the table would be too wide; legal for one column at most."""

    title: str = ""
    right: bool = False
    gives_way: bool = False


def table_lines(columns: Sequence[Column], rows: Iterable[Sequence[Text]], width: int) -> list[Text]:
    """Return the rows as lines below the columns' titles; a row of a single cell is a full-width heading."""
    table = [[Text(column.title, style="bold") for column in columns], *rows]
    widths = _widths(columns, [row for row in table if len(row) == len(columns)], width)
    return [line for row in table for line in _row(row, columns, widths, width)]


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> list[int]:
    widths = [
        max(cell_len(line) for row in rows for line in row[place].plain.split("\n")) for place in range(len(columns))
    ]
    room = width - sum(widths) - _GAP * (len(widths) - 1)
    return [
        min(own, max(_LEAST, own + room)) if column.gives_way else own
        for own, column in zip(widths, columns, strict=True)
    ]  # fmt: skip


def _row(row: Sequence[Text], columns: Sequence[Column], widths: Sequence[int], width: int) -> Iterator[Text]:
    if len(row) < len(columns):
        yield from wrapped(row[0], width)
        return
    cells = [
        wrapped(cell, own, hang=0) if column.gives_way else cell.split("\n")
        for cell, column, own in zip(row, columns, widths, strict=True)
    ]
    for number in range(max(map(len, cells))):
        line = Text()
        for place, (column, own, parts) in enumerate(zip(columns, widths, cells, strict=True)):
            part = parts[number] if number < len(parts) else Text()
            space = " " * (own - cell_len(part.plain))
            line.append(" " * _GAP if place else "").append_text(
                Text(space) + part if column.right else part + Text(space)
            )
        line.rstrip()
        yield line


def wrapped(text: Text, width: int, hang: int = 2) -> list[Text]:
    """Break a line between words; continuation lines are indented by `hang` more columns.

    A name longer than a line is broken at a separator, such as after `_` or `::`.
    """
    plain = text.plain
    indent = len(plain) - len(plain.lstrip(" ")) + hang if plain.strip() else 0
    parts = _parts(plain, width, max(1, width - indent))
    return [Text(" " * indent if begin else "") + text[begin:end] for begin, end in parts]


def _parts(plain: str, first: int, later: int) -> list[tuple[int, int]]:
    """Return where each line begins and ends; `first` is the width of the first line, `later` that of the others."""
    parts: list[tuple[int, int]] = []
    begin = end = 0
    for word in _WORD.finditer(plain):
        while cell_len(plain[begin : word.end()]) > (room := later if parts else first):
            # A word that fits on a line of its own is not broken.
            fits = cell_len(word[0]) <= later
            cut = end if fits and end > begin else _cut(plain, begin, max(begin, word.start()), word.end(), room)
            if cut is None:
                cut = end if end > begin else _filled(plain, begin, room)
            parts.append((begin, cut))
            begin = word.start() if cut <= word.start() else cut
        end = word.end()
    return [*parts, (begin, end)]


def _cut(plain: str, begin: int, word: int, end: int, room: int) -> int | None:
    """Return the last break point of an overlong word that still fits in `room`; None if there is none."""
    places = (found.start() for found in _WITHIN.finditer(plain, word + 1, end))
    fitting = [place for place in places if cell_len(plain[begin:place]) <= room]
    return fitting[-1] if fitting else None


def _filled(plain: str, begin: int, room: int) -> int:
    """Return the end of the longest part from `begin` that fits in `room` columns; at least one character."""
    end, cells = begin, 0
    while end < len(plain) and (cells := cells + cell_len(plain[end])) <= room:
        end += 1
    return max(end, begin + 1)


def rendered(lines: Iterable[Text | str], *, color: bool, width: int) -> list[str]:
    """Return lines of at most `width` columns that are safe to print, with ANSI colours if `color`."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=color, no_color=not color, highlight=False, emoji=False)
    for line in lines:
        text = line if isinstance(line, Text) else Text(harmless(line))
        for part in text.split("\n", allow_blank=True):
            for shown in wrapped(part, width):
                console.print(shown, soft_wrap=True)
    return [line.rstrip() for line in file.getvalue().splitlines()]
