"""Text from servers, files and commits, made harmless for a terminal, a log and the CI service that reads the log."""

from __future__ import annotations

import json
import re

from pytest_comfyload.redaction import HIDDEN, redacted

__all__ = ["harmless", "harmless_json", "harmless_line"]

LONGEST = 4000
# A zero-width space: invisible, and no CI service takes what it interrupts for a command.
_BREAK = "\u200b"
# GitHub's `::command::` at the start of a line; `##[…]` and Azure's `##vso[…]` anywhere; TeamCity's `##teamcity[…]`.
_LINE_COMMAND = re.compile(r"^(\s*:)(?=:)", re.MULTILINE)
_COMMAND = re.compile(r"#(?=#(?:vso|teamcity)?\[)", re.IGNORECASE)


def harmless(text: str, longest: int = LONGEST) -> str:
    """Redact secrets, cut to `longest` characters, put spaces for control and format characters, interrupt CI commands.

    Line breaks stay. Escape sequences lose their escape character: what is left of them is visible text.
    """
    cut = redacted(text, longest)
    if len(text) > longest:
        cut = f"{cut[: longest - 1].rstrip(HIDDEN)}…"
    shown = "".join(each if each.isprintable() or each == "\n" else " " for each in cut)
    return _COMMAND.sub(rf"\g<0>{_BREAK}", _LINE_COMMAND.sub(rf"\1{_BREAK}", shown))


def harmless_line(text: str, longest: int = LONGEST) -> str:
    """As `harmless`, in one line."""
    return harmless(text.replace("\n", " "), longest)


def harmless_json(text: str) -> str:
    """Escape in a JSON text what would be a control or format character, or a command; its values stay the same."""
    return _COMMAND.sub(r"\\u0023", _NOT_ASCII.sub(_escaped, text))


# All of these can be in strings only.
_NOT_ASCII = re.compile(r"[^\n -~]")


def _escaped(character: re.Match[str]) -> str:
    return character[0] if character[0].isprintable() else json.dumps(character[0])[1:-1]
