"""Text from a server or a commit gives no commands to a terminal or a CI service."""

from __future__ import annotations

import pytest

from pytest_comfyload.cli.output import echo


def test_each_line_is_harmless_and_none_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["::error::x", "\x1b]8;;http://x\x07link", *(f"line {number} " + "x" * 90 for number in range(100))]
    echo("\n".join(lines))
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [":\u200b:error::x", " ]8;;http://x link"]
    assert printed[2:] == lines[2:]
