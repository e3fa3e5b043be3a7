"""Foreign text moves no cursor, sets no title, changes no writing direction, and gives a CI service no command."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import HttpError, ServerError
from pytest_comfyload.text import LONGEST, harmless

# How the runners read logs: GitHub's TryParseV2 and V1, Azure's logging commands, TeamCity's service messages.
GITHUB_V2 = re.compile(r"^\s*::", re.MULTILINE)
ANYWHERE = re.compile(r"##(?:vso|teamcity)?\[", re.IGNORECASE)


@given(st.text() | st.text(alphabet="#:[vso \n\x1b]\x07", max_size=30))
def test_no_text_has_controls_or_commands(text: str) -> None:
    shown = harmless(text)
    assert all(each.isprintable() or each in "\n\u200b" for each in shown)
    assert not GITHUB_V2.search(shown)
    assert not ANYWHERE.search(shown)
    assert len(shown.replace("\u200b", "")) <= LONGEST


@given(st.text(alphabet=st.characters(categories=["L", "N", "P"], exclude_characters="#:"), max_size=LONGEST))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07red \x1b[31m", " ]0;title red  [31m"),
        ("one\r\ntwo\ttabs", "one \ntwo tabs"),
        ("  ::set-output name=a::b", "  :\u200b:set-output name=a::b"),
        ("x ##vso[task.setvariable]y", "x #\u200b#vso[task.setvariable]y"),
        ("test_a.py::test_b", "test_a.py::test_b"),
        ("a\u202eb\u2066c\ud800", "a b c "),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_long_text_is_cut_and_says_so() -> None:
    assert harmless("a" * 10, 5) == "aaaa…"


def test_every_error_of_ours_is_harmless() -> None:
    assert str(ServerError("\x1b[2J##[error]gone")) == " [2J#\u200b#[error]gone"
    assert str(HttpError("500 \x07", 500)) == "500  "
    assert len(str(ServerError("x" * 10**6))) == LONGEST
