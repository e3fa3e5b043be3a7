"""GitHub's formats: workflow commands that annotate source lines, and Markdown with safely escaped text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_comfyload.report.slo_table import TestSummary
from pytest_comfyload.text import harmless, harmless_line

__all__ = ["SHOWN", "Annotation", "Section", "code", "commands", "failures", "fenced", "fitted", "in_text"]

# GitHub shows this many errors per step, and silently drops the others.
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Annotation:
    """An error at a source line. `file` is relative to the repository, `line` counts from 1."""

    file: str
    line: int
    title: str
    message: str

    def command(self) -> str:
        properties = f"file={_property(self.file)},line={self.line},title={_property(self.title)}"
        return f"::error {properties}::{_data(self.message)}"


def failures(summary: TestSummary) -> Iterator[tuple[str, str]]:
    """Yield the title and message of each reason why a test failed: its SLOs, and runs that could not be judged."""
    for check in summary.checks:
        if not check.passed:
            yield f"SLO violated: {check.claim()}", check.sentence or check.claim()
        elif check.unsettled and summary.confident:
            yield f"SLO {check.verdict}: {check.claim()}", check.sentence
    for run in summary.runs:
        if run["invalid_because"]:
            kind = "Incomplete" if run["state"] == "incomplete" else "Invalid"
            yield f"{kind} run: {run['title']}", run["invalid_because"]


def commands(annotations: Sequence[Annotation]) -> Iterator[str]:
    """Yield a workflow command for each; the last one that GitHub shows lists all others."""
    yield from (each.command() for each in annotations[: SHOWN - 1])
    rest = annotations[SHOWN - 1 :]
    if rest:
        others = "".join(f"\nand {each.file}:{each.line}: {each.title}" for each in rest[1:])
        yield Annotation(rest[0].file, rest[0].line, rest[0].title, rest[0].message + others).command()


def _data(text: str) -> str:
    """Escape a message, so that none of its lines can begin a workflow command."""
    return harmless(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# What begins or ends markup, a link, a formula or a mention anywhere in a line. Within a word, `_` does not.
_SPECIAL = re.compile(r"[&<>|\\`*~\[\]#@$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_LONGEST = 300
# Maximum size of the note on what was left out, in bytes.
_NOTE = 400


def in_text(foreign: str) -> str:
    """Escape foreign text as one line of running text.

    GitHub detects mentions and issues even in escaped text; a zero-width space prevents that.
    """
    return re.sub(r"(&#(?:64|35);)", r"\1&#8203;", _escaped(foreign))


def code(foreign: str) -> str:
    """Return the text as one line of code that also works in a table, where backticks cannot enclose every text."""
    return f"<code>{_escaped(foreign)}</code>"


def fenced(lines: Iterable[str]) -> str:
    """Return the lines as a fenced block that none of them can close."""
    text = "\n".join(map(harmless_line, lines))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"


def _escaped(foreign: str) -> str:
    line = harmless_line(foreign, _LONGEST).strip()
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line)


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a page. `what` names its items in the note on those left out. Each item ends with a newline."""

    what: str
    items: Sequence[str]
    head: str = ""
    tail: str = ""

    def written(self, items: Sequence[str]) -> str:
        return f"{self.head}{''.join(items)}{self.tail}"


def fitted(top: str, sections: Iterable[Section], size: int) -> str:
    """Return text of at most `size` bytes: `top`, then as many items of each section as fit, in order."""
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
