"""Text from servers, files and commits, made harmless for a terminal, a log and the CI service that reads the log."""

from __future__ import annotations

import json
import re

from pytest_comfyload.redaction import HIDDEN, redacted

__all__ = ["harmless", "harmless_json", "harmless_line"]

LONGEST = 4000
# A zero-width space: invisible, and no CI service recognizes a command that contains it.
_BREAK = "\u200b"
# GitHub's `::command::` at the start of a line; `##[…]` and Azure's `##vso[…]` anywhere; TeamCity's `##teamcity[…]`.
_LINE_COMMAND = re.compile(r"^(\s*:)(?=:)", re.MULTILINE)
_COMMAND = re.compile(r"#(?=#(?:vso|teamcity)?\[)", re.IGNORECASE)


def harmless(text: str, longest: int = LONGEST) -> str:
    """Redact secrets, truncate to `longest` characters, replace control and format characters, and break CI commands.

    Line breaks stay. Escape sequences lose their escape character, so that the rest of them is visible text.
    """
    cut = redacted(text, longest)
    if len(text) > longest:
        cut = f"{cut[: longest - 1].rstrip(HIDDEN)}…"
    shown = "".join(each if each.isprintable() or each == "\n" else " " for each in cut)
    return _COMMAND.sub(rf"\g<0>{_BREAK}", _LINE_COMMAND.sub(rf"\1{_BREAK}", shown))


def harmless_line(text: str, longest: int = LONGEST) -> str:
    """Return the text as `harmless` does, on one line."""
    return harmless(text.replace("\n", " "), longest)


def harmless_json(text: str) -> str:
    """Escape control and format characters and CI commands in a JSON text; its values stay the same."""
    return _COMMAND.sub(r"\\u0023", _NOT_ASCII.sub(_escaped, text))


# In JSON, all of these occur only within strings.
_NOT_ASCII = re.compile(r"[^\n -~]")


def _escaped(character: re.Match[str]) -> str:
    return character[0] if character[0].isprintable() else json.dumps(character[0])[1:-1]
