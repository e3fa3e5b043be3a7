from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.protocol.json_values import NotJson, parse_json
from tests.protocol.strategies import ANY_JSON

# The building blocks of JSON, and some that it does not allow.
PIECES = [
    *'[]{}",: \n\t\\0123456789eE.+-',
    "NaN",
    "-Infinity",
    "true",
    "null",
    "\\ud83d",
    "\\u00e4",
    "1e999",
    "9" * 30,
    "\x00",
]
TEXTS = st.lists(st.sampled_from([*PIECES, '"a"', '{"a": 1, "a": 2}', "[1, 2.5]"]), max_size=12).map("".join)


def said_by(parse: object, text: str | bytes) -> str:
    try:
        return repr(parse(text))  # type: ignore[operator]
    except ValueError:
        return "refused"


@given(st.one_of(ANY_JSON.map(json.dumps), TEXTS), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", None]))
def test_the_standard_library_says_what_json_is(text: str, encoding: str | None) -> None:
    encoded = text if encoding is None else text.encode(encoding)
    assert said_by(parse_json, encoded) == said_by(json.loads, encoded)


@given(ANY_JSON.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")), st.data())
def test_bytes_that_were_damaged_are_taken_as_the_standard_library_takes_them(text: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    damaged = text[:place] + data.draw(st.binary(max_size=2)) + text[place + data.draw(st.integers(0, 2)) :]
    assert said_by(parse_json, damaged) == said_by(json.loads, damaged)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (b" \n", "empty"),
        (b'"\xff"', "not UTF-8"),
        ("[" * 100_000, "nested too deep"),
        ("9" * 5000, "too many digits"),
        ('{"a": ', "Expecting value"),
        ("[" + "[]," * 1_500_000 + "0]", "it holds 3,000,001 values"),
    ],
)
def test_why_a_text_is_not_json(text: str | bytes, reason: str) -> None:
    with pytest.raises(NotJson, match=reason):
        parse_json(text)


def test_many_values_of_usual_length_are_json() -> None:
    names = [f"model {number}.safetensors" for number in range(1_200_000)]
    assert parse_json(json.dumps(names)) == names
