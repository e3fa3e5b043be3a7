"""Pieces of GitHub-flavoured Markdown: foreign text stays text, and a page keeps to a size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Section", "code", "fenced", "fitted", "in_text"]

# What begins or ends markup, a link, a formula or a mention, wherever in a line it stands. Within a word, `_` does not.
_SPECIAL = re.compile(r"[&<>|\\`*~\[\]#@$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_LONGEST = 300
# Of the note on what was left out, at most.
_NOTE = 400


def in_text(foreign: str) -> str:
    """One line of running text. GitHub looks for mentions and issues behind the markup: there a space that is none
    keeps them from being found.
    """
    return re.sub(r"(&#(?:64|35);)", r"\1&#8203;", _escaped(foreign))


def code(foreign: str) -> str:
    """One line, in a table too, where a span of backticks could not have every text."""
    return f"<code>{_escaped(foreign)}</code>"


def fenced(lines: Iterable[str]) -> str:
    """A block of lines as they are; none of them can end it."""
    text = "\n".join(_one_line(line) for line in lines)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"


def _escaped(foreign: str) -> str:
    line = _one_line(foreign).strip()
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line)


def _one_line(text: str) -> str:
    """Without what controls a terminal, turns the direction of writing, or has no place in UTF-8."""
    return "".join(each if each.isprintable() else " " for each in text)


@dataclass(frozen=True, slots=True)
class Section:
    """`what` its items are, for the note on those left out. Each item ends with its own newline."""

    what: str
    items: Sequence[str]
    head: str = ""
    tail: str = ""

    def written(self, items: Sequence[str]) -> str:
        return f"{self.head}{''.join(items)}{self.tail}"


def fitted(top: str, sections: Iterable[Section], size: int) -> str:
    """At most `size` bytes: `top`, then of each section as many items as there is room for, the first ones first."""
    room = size - _size(top) - _NOTE
    parts, left_out = [top], []
    for section in sections:
        items = _fitting(section, room)
        if items:
            parts.append(section.written(items))
            room -= _size(parts[-1]) + 1
        if len(items) < len(section.items):
            left_out.append(f"{len(section.items) - len(items)} of {len(section.items)} {section.what}")
    if left_out:
        parts.append(f"_Left out, to keep to GitHub's limit: {', '.join(left_out)}._\n")
    return "\n".join(parts)


def _fitting(section: Section, room: int) -> list[str]:
    room -= _size(section.written(()))
    items = []
    for item in section.items:
        room -= _size(item)
        if room < 0:
            break
        items.append(item)
    return items


def _size(text: str) -> int:
    return len(text.encode())
