"""GitHub's formats: workflow commands that annotate source lines, and Markdown that nothing can break out of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_comfyload.report.slo_table import TestSummary
from pytest_comfyload.text import harmless, harmless_line

__all__ = ["SHOWN", "Annotation", "Section", "code", "commands", "failures", "fenced", "fitted", "in_text"]

# So many errors of one step are shown by GitHub, which says nothing of the others.
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Annotation:
    """`file` is relative to the repository, `line` counts from 1."""

    file: str
    line: int
    title: str
    message: str

    def command(self) -> str:
        properties = f"file={_property(self.file)},line={self.line},title={_property(self.title)}"
        return f"::error {properties}::{_data(self.message)}"


def failures(summary: TestSummary) -> Iterator[tuple[str, str]]:
    """Title and message of what failed a test: its SLOs, or that its run could not be judged."""
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
    """Yield a workflow command for each; the last one shown says how many others there are."""
    yield from (each.command() for each in annotations[: SHOWN - 1])
    rest = annotations[SHOWN - 1 :]
    if rest:
        others = "".join(f"\nand {each.file}:{each.line}: {each.title}" for each in rest[1:])
        yield Annotation(rest[0].file, rest[0].line, rest[0].title, rest[0].message + others).command()


def _data(text: str) -> str:
    """Escape what would begin a workflow command anywhere in a line."""
    return harmless(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# What begins or ends markup, a link, a formula or a mention, wherever in a line it stands. Within a word, `_` does not.
_SPECIAL = re.compile(r"[&<>|\\`*~\[\]#@$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_LONGEST = 300
# Of the note on what was left out, at most.
_NOTE = 400


def in_text(foreign: str) -> str:
    """Escape foreign text as one line of running text.

    GitHub looks for mentions and issues behind the markup: a zero-width space keeps it from finding any.
    """
    return re.sub(r"(&#(?:64|35);)", r"\1&#8203;", _escaped(foreign))


def code(foreign: str) -> str:
    """Return the text as one line of code, also within a table, where backticks cannot hold every text."""
    return f"<code>{_escaped(foreign)}</code>"


def fenced(lines: Iterable[str]) -> str:
    """A block of lines as they are; none of them can end it."""
    text = "\n".join(map(harmless_line, lines))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"


def _escaped(foreign: str) -> str:
    line = harmless_line(foreign, _LONGEST).strip()
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line)


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
    """Fit into `size` bytes: `top`, then of each section as many items as there is room for, in order."""
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
