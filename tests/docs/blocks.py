"""The code blocks of the README and of docs/, and the options after their language."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCS", "PAGES", "README", "ROOT", "Block", "all_blocks", "blocks_of"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = (README, *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(r"^```(?P<info>.*)\n(?P<text>(?:.*\n)*?)```$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Args:
        line: Its line number in the page, starting at 1.
        options: The words `name="value"` after the language.
    """

    page: Path
    line: int
    language: str
    options: Mapping[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each command after a `$`, with the output expected below it."""
        for entry in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            lines = entry.splitlines()
            end = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
            yield "\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :])


def blocks_of(page: Path) -> list[Block]:
    """Return the code blocks of a page, without Sphinx directives."""
    content = page.read_text(encoding="utf-8")
    return [
        Block(page, content.count("\n", 0, found.start()) + 1, *_read(found["info"]), found["text"])
        for found in _FENCE.finditer(content)
        if not found["info"].startswith("{")
    ]


def all_blocks() -> Iterator[Block]:
    for page in PAGES:
        yield from blocks_of(page)


def _read(info: str) -> tuple[str, dict[str, str]]:
    language, *words = shlex.split(info) or [""]
    return language, dict(word.split("=", 1) for word in words)
