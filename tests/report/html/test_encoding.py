"""Data for scripts: it comes out as it went in, and nothing in it can end the element that contains it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.report.html.encoding import figure, json_text, web_link

# Without control and format characters.
_TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"]))
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_data_comes_out_as_it_went_in_and_without_markup(value: object) -> None:
    text = json_text(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_what_disguises_a_text_becomes_a_space() -> None:
    assert json_text("a\u202eb\x7fc\x9b\u2066d") == '"a b c  d"'
    assert (
        json_text("\U0001f469\u200d\U0001f680 \u0645\u06cc\u200c\u062e")
        == '"\U0001f469\u200d\U0001f680 \u0645\u06cc\u200c\u062e"'
    )


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        json_text([math.inf])


def test_figures_are_short_and_their_absence_is_not_a_number() -> None:
    assert [figure(value) for value in (1.23456, 12345.678, 0.1 + 0.2, 5.0, None, math.nan, math.inf)] == [
        1.235, 12350.0, 0.3, 5, None, None, "∞",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/a", "https://example.org/a"),
        ("https://me:secret@example.org/a?token=abc", "https://example.org/a?token=…"),
        ("javascript:alert(1)", None),
        ("data:text/html,x", None),
        ("//example.org", None),
        ("", None),
        (None, None),
    ],
)
def test_only_addresses_of_the_web_are_links(url: str | None, shown: str | None) -> None:
    assert web_link(url) == shown
