"""Errors at lines of the source, as a line of output that GitHub's runner takes for a command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_comfyload.report.summary import TestSummary

__all__ = ["SHOWN", "Annotation", "commands", "failures"]

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
            yield f"Invalid run: {run['title']}", run["invalid_because"]


def commands(annotations: Sequence[Annotation]) -> Iterator[str]:
    """One line each; the last of those that are shown names the others."""
    yield from (each.command() for each in annotations[: SHOWN - 1])
    rest = annotations[SHOWN - 1 :]
    if rest:
        others = "".join(f"\nand {each.file}:{each.line}: {each.title}" for each in rest[1:])
        yield Annotation(rest[0].file, rest[0].line, rest[0].title, rest[0].message + others).command()


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
