"""Text from servers, files and commits, made harmless for a terminal, a log and the CI service that reads the log."""

from __future__ import annotations

import re

from pytest_comfyload.redaction import HIDDEN, redacted

__all__ = ["harmless"]

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
