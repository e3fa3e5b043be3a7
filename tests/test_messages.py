"""Everything that the package prints is in plain words, and explained on the page of messages."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.messages import Message, messages

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "messages.md"
LISTING = messages()

# Words that do not belong in technical texts, and relative pronouns without an antecedent.
QUAINT = re.compile(
    r"\b(nobody|somebody|whoever|for want of|vouch\w*|cannot be meant|lest|in vain|anew|thereof|ere|wants?)\b"
    r"|\b(is|are) no (?!longer|such|samples|baseline)\w+",
    re.IGNORECASE,
)
# ComfyUI's own words, and modules whose texts are those of a server.
_ITS_OWN = ("simulator/", "gateway/validation.py", "gateway/front.py")
# Sub-packages whose errors appear in the log of a service.
_SERVICES = ("gateway/", "monitor/", "deploy/")
_OF_A_VALUE = ("", "UsageError", "WorkflowError", "LoadStopped")


def _terms() -> list[str]:
    """Return each message that the page explains."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [line.strip("`") for line, after in itertools.pairwise(lines) if after.startswith(": ")]


def _shared(term: Sequence[str], text: Sequence[str]) -> int:
    """Return the number of words shared by a term and a text if they match, else -1.

    A word with `…` matches any words, in either.
    """

    @functools.cache
    def shared(i: int, j: int) -> int:
        if i == len(term) and j == len(text):
            return 0
        found = [-1]
        if (i < len(term) and "…" in term[i]) or (j < len(text) and "…" in text[j]):
            found += [shared(i + 1, j)] if i < len(term) and "…" in term[i] else []
            found += [shared(i, j + 1)] if j < len(text) and "…" in text[j] else []
            found += [shared(i, j + 1)] if j < len(text) and i < len(term) and "…" in term[i] else []
            found += [shared(i + 1, j)] if i < len(term) and j < len(text) and "…" in text[j] else []
        if i < len(term) and j < len(text) and term[i] == text[j]:
            rest = shared(i + 1, j + 1)
            found.append(rest + 1 if rest >= 0 else -1)
        return max(found)

    return shared(0, 0)


def _quotes(term: str, message: Message) -> bool:
    return _shared(tuple(term.split()), tuple(message.plain.split())) >= min(2, len(re.findall(r"\w\w+", term)))


@pytest.mark.parametrize("term", _terms())
def test_the_page_quotes_the_package(term: str) -> None:
    assert any(_quotes(term, message) for message in LISTING)


def test_every_error_of_a_run_is_explained() -> None:
    terms = _terms()
    errors = [each for each in LISTING if each.raised not in _OF_A_VALUE and not each.file.startswith(_SERVICES)]
    assert len(errors) > 50
    assert [each for each in errors if not any(_quotes(term, each) for term in terms)] == []


def test_words_are_plain() -> None:
    assert [each for each in LISTING if not each.file.startswith(_ITS_OWN) and QUAINT.search(each.plain)] == []
