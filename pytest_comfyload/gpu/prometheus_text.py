"""The Prometheus text format, read: lines in, series out. What is no series (a comment, a torn line) is passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Series", "parse_metrics"]


@dataclass(frozen=True, slots=True)
class Series:
    """One value under a name and labels; NaN and the infinities are values. A timestamp is not kept."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


_LABEL = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*"((?:[^"\\\n]|\\.)*)"\s*(?:,|(?=\}))', re.ASCII)
_NAME = re.compile(r"[ \t]*([A-Za-z_:][\w:]*)[ \t]*", re.ASCII)
# OpenMetrics has timestamps with fractions, and an exemplar may follow.
_VALUE = re.compile(r"[ \t]*([^\s_#]+)(?:[ \t]+-?\d+(?:\.\d+)?)?[ \t]*(?:#.*)?$", re.ASCII)
_ESCAPED = re.compile(r"\\(.)")


def parse_metrics(text: str) -> Iterator[Series]:
    # Not splitlines(): a label may hold what Unicode takes for the end of a line.
    for line in text.split("\n"):
        series = _series(line.removesuffix("\r"))
        if series is not None:
            yield series


def _series(line: str) -> Series | None:
    name = _NAME.match(line)
    if name is None:
        return None
    labels, at = _labels(line, name.end())
    value = _VALUE.match(line, at)
    if value is None:
        return None
    try:
        return Series(name[1], float(value[1]), labels)
    except ValueError:
        return None


def _labels(line: str, at: int) -> tuple[dict[str, str], int]:
    """The labels, and where the line goes on; a torn brace is left standing, and is then no value."""
    labels: dict[str, str] = {}
    if not line.startswith("{", at):
        return labels, at
    end = at + 1
    while label := _LABEL.match(line, end):
        labels[label[1]] = _unescaped(label[2])
        end = label.end()
    closing = re.compile(r"\s*\}").match(line, end)
    return (labels, closing.end()) if closing else (labels, at)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda escape: {"n": "\n"}.get(escape[1], escape[1]), text)
