"""Unescaping of URLs, JSON, HTML, Python and shell text, also nested, with the original position of each piece."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from html.entities import html5

__all__ = ["Unescaped", "unescape"]

# Escapes that are nested more deeply are left as they are.
_ROUNDS = 8
_HEX = b"[0-9a-fA-F]"
_ESCAPE = re.compile(
    rb"%%(?P<percent>%(h)b{2})"
    rb"|\\+(?:u(?P<pair>[dD][89abAB]%(h)b{2}\\+u[dD][c-fC-F]%(h)b{2})|[uU](?P<long>00(?:0%(h)b|10)%(h)b{4})|u(?P<unit>%(h)b{4})"
    rb"|x(?P<byte>%(h)b{2})|(?P<letter>[abfnrtv]))"
    rb"|&(?P<entity>#[0-9]{1,7}|#[xX]%(h)b{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});"
    rb"""|(?P<quote>'"'"'|'\\+'')|\\+""" % {b"h": _HEX}
)
_LETTERS = dict(zip(b"abfnrtv", (b"\a", b"\b", b"\f", b"\n", b"\r", b"\t", b"\v"), strict=True))


@dataclass(frozen=True, slots=True)
class _Round:
    """Result of undoing one layer of escapes.

    `starts`: where each piece begins in `content`. `sources`: where it began and ended before; the end is None for a
    piece that was not an escape, whose bytes are unchanged.
    """

    content: bytes
    starts: list[int]
    sources: list[tuple[int, int | None]]

    def span(self, begin: int, end: int) -> tuple[int, int]:
        (first, _), at = self._piece(begin)
        (last, last_end), last_at = self._piece(end - 1)
        is_escape = self.sources[bisect.bisect_right(self.starts, begin) - 1][1] is not None
        return first if is_escape else first + at, last + last_at + 1 if last_end is None else last_end

    def _piece(self, place: int) -> tuple[tuple[int, int | None], int]:
        number = bisect.bisect_right(self.starts, place) - 1
        return self.sources[number], place - self.starts[number]


@dataclass(frozen=True, slots=True)
class Unescaped:
    """Text without escapes, in `content`."""

    content: bytes
    rounds: tuple[_Round, ...]

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """Return where a part of `content` was in the original text."""
        for each in reversed(self.rounds):
            begin, end = each.span(begin, end)
        return begin, end


def unescape(content: bytes) -> Unescaped:
    """Undo all escapes in UTF-8 text."""
    rounds: list[_Round] = []
    while len(rounds) < _ROUNDS and (undone := _undo(content)) is not None:
        rounds.append(undone)
        content = undone.content
    return Unescaped(content, tuple(rounds))


def _undo(content: bytes) -> _Round | None:
    """Undo one layer of escapes; None if there is none."""
    pieces: list[bytes] = []
    starts: list[int] = []
    sources: list[tuple[int, int | None]] = []
    length = after = 0

    def add(piece: bytes, begin: int, end: int | None) -> None:
        nonlocal length
        if piece:
            pieces.append(piece)
            starts.append(length)
            sources.append((begin, end))
            length += len(piece)

    for found in _ESCAPE.finditer(content):
        plain = _plain(found)
        if plain is not None:
            add(content[after : found.start()], after, None)
            add(plain, *found.span())
            after = found.end()
    if not after:
        return None
    add(content[after:], after, None)
    return _Round(b"".join(pieces), starts, sources)


def _plain(found: re.Match[bytes]) -> bytes | None:
    """Return the bytes that an escape represents; None if the match is not an escape."""
    kind, text = found.lastgroup, found[found.lastgroup or 0]
    match kind:
        case "percent" | "byte":
            return bytes.fromhex(text.decode())
        case "pair":
            first, _, second = text.partition(b"\\")
            return bytes.fromhex((first + second.lstrip(b"\\u")).decode()).decode("utf-16-be").encode()
        case "unit" | "long":
            return _character(int(text, 16))
        case "letter":
            return _LETTERS[text[0]]
        case "quote":
            return b"'"
        case "entity":
            return _entity(text.decode())
        case _:
            return b""


def _entity(name: str) -> bytes | None:
    if not name.startswith("#"):
        known = html5.get(f"{name};") or html5.get(f"{name.lower()};")
        return known.encode() if known else None
    return _character(int(name[2:], 16) if name[1] in "xX" else int(name[1:]))


def _character(code: int) -> bytes | None:
    return chr(code).encode("utf-8", "surrogatepass") if code < 0x110000 else None
