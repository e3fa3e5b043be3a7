"""A secret is found in every form that an encoder gives it, and nothing else is mistaken for one."""

from __future__ import annotations

import dataclasses
import time
from enum import StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_comfyload.errors import ServerError
from pytest_comfyload.redaction import (
    HIDDEN,
    SHORTEST,
    hide,
    hide_environment,
    hide_flags,
    hide_header,
    hide_named,
    hide_url,
    holds_secret,
    only_now,
    redacted,
    redacted_values,
)
from pytest_comfyload.text import LONGEST, harmless
from tests.hostile.encoders import ENCODERS

SECRET = "Sk-t0p/s3cr+t=&\"q'<w>\\é ü"


@pytest.mark.parametrize("form", ENCODERS)
def test_every_form_is_found(form: str) -> None:
    hide(SECRET)
    text = ENCODERS[form](SECRET)
    assert text not in (shown := redacted(f"before {text} after"))
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert len(shown) - len("before … after") <= len(text) - len(encoded(form))
    assert holds_secret(text.encode())


def encoded(form: str) -> str:
    """Return the part of the encoded form that belongs to the secret."""
    rest = ENCODERS[form]("")
    return ENCODERS[form](SECRET)[len(rest) :]


@settings(max_examples=200)
@given(
    secret=st.text(st.characters(exclude_categories=["Cs", "Lu", "Lt"]), min_size=SHORTEST, max_size=12),
    form=st.sampled_from([name for name in ENCODERS if name != "upper case"]),
)
def test_every_secret_is_found(secret: str, form: str) -> None:
    with only_now():
        hide(f"<{secret}>")
        assert HIDDEN in redacted(ENCODERS[form](f"<{secret}>"))


@given(st.text(), st.integers(min_value=SHORTEST, max_value=40))
def test_the_text_in_its_place_is_always_the_same(around: str, length: int) -> None:
    with only_now():
        secret = "\u0416" * length
        hide(secret)
        assert redacted(f"{around}{secret}{around}") == f"{around}…{around}"
        assert redacted(redacted(f"{around}{secret}")) == redacted(f"{around}{secret}")


@given(st.text())
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redacted(text) is text
    with only_now():
        hide("\U0001f511" * SHORTEST)
        assert redacted(text) == text or "\U0001f511" in text


def test_a_secret_goes_before_text_is_cut_or_changed() -> None:
    hide("sEcret##[x]\ty::z")
    assert harmless("a" * (LONGEST - 8) + "sEcret##[x]\ty::z") == "a" * (LONGEST - 8) + "…"
    assert harmless("sEcret##[x]\ty::z", 5) == "…"
    assert str(ServerError("token secret##[X]\tY::Z")) == "token …"


def test_the_longest_secret_goes_whole() -> None:
    hide("hunter2", "hunter2-and-more", "me:hunter2")
    assert redacted("hunter2-and-more, hunter2, me:hunter2") == "…, …, …"


HEADERS = [
    ("Authorization", "Bearer sk-12345", ["sk-12345", "SK-12345"], "Bearer x"),
    ("Authorization", "Basic bWU6aHVudGVyMg==", ["bWU6aHVudGVyMg==", "bWU6aHVudGVyMg", "hunter2", "me:hunter2"], "me"),
    ("Authorization", 'Token token="abcdef", id=1', ["abcdef"], "Token"),
    ("Authorization", "Bearer abc", ["Bearer abc"], "Bearer"),
    ("authorization", "sk-12345", ["sk-12345"], "authorization"),
    ("Cookie", 'session=abcdef1; theme=dark; "x"="quoted1"', ["abcdef1", "quoted1"], "session theme dark"),
    ("X-Api-Key", "hunter2", ["hunter2"], "X-Api-Key"),
    ("X-Api-Key", "a%2Fb%3Dcd", ["a%2Fb%3Dcd", "a/b=cd"], "abcd"),
    ("Accept", "application/json", [], "application/json"),
    ("X-Forwarded-Proto", "https-over-x", [], "https-over-x"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "hidden", "shown"), HEADERS)
def test_headers(name: str, value: str, hidden: list[str], shown: str) -> None:
    hide_header(name, value)
    assert [redacted(each) for each in hidden] == [HIDDEN] * len(hidden)
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    ("url", "hidden", "shown"),
    [
        ("http://me:p%40ssw0rd@gpu1:8188/x", ["p@ssw0rd", "p%40ssw0rd", "me:p@ssw0rd", "bWU6cEBzc3cwcmQ="], "me gpu1"),
        ("https://t0ken-1@gpu1", ["t0ken-1", "dDBrZW4tMTo="], "gpu1"),
        ("http://gpu1?token=qu%26ery&team=a", ["qu&ery", "qu%26ery"], "team a gpu1"),
        ("http://gpu1/a@b?bare-token#top", ["bare-token"], "gpu1/a@b top"),
        ("s3://key-id:s3cr3t@bucket/a?sig=0123456", ["s3cr3t", "0123456"], "bucket"),
        ("http://me:1234@gpu1", ["me:1234", "bWU6MTIzNA=="], "1234"),
    ],
)
def test_urls(url: str, hidden: list[str], shown: str) -> None:
    hide_url(url)
    assert [redacted(each) for each in hidden] == [HIDDEN] * len(hidden)
    assert redacted(shown) == shown


def test_names_that_say_so() -> None:
    hide_named({"Api.api_key": "of-input", "steps": "twenty steps", "x": {"password": "nested-1"}, "token": 1234567})
    hide_named({"X.secret": ["drawn-one", "drawn-two", 3]})
    hide_flags(["--port", "8188", "--api-key", "flag-one", "--token=flag-two", "--secret", "--fast"])
    hidden = ["of-input", "nested-1", "drawn-one", "drawn-two", "flag-one", "flag-two"]
    assert [redacted(each) for each in hidden] == [HIDDEN] * len(hidden)
    for shown in ("twenty steps", "1234567", "--fast", "8188"):
        assert redacted(shown) == shown


def test_the_environment() -> None:
    urls = "http://a:env-two@h, http://b"
    headers = "X-Key: env-one\n\nnot a header"
    keys = {"COMFYUI_API_KEY_COMFY_ORG": "env-three", "A_KEY": "env-four"}
    hide_environment({"COMFYUI_HEADERS": headers, "COMFYUI_URL": urls, **keys})
    assert [redacted(each) for each in ("env-one", "env-two", "env-three")] == [HIDDEN] * 3
    assert redacted("env-four") == "env-four"


class _Kind(StrEnum):
    HUNTER = "hunter2"


@dataclasses.dataclass(frozen=True)
class _Inner:
    texts: tuple[str, ...]
    kind: _Kind = _Kind.HUNTER


class _Struct(msgspec.Struct, frozen=True):
    inner: _Inner
    values: dict[str, Any]


def test_values_keep_their_types() -> None:
    value = _Struct(_Inner(("a hunter2", "b")), {"hunter2": [1, float("nan"), None, "x"], "b": {"c": "HUNTER2"}})
    assert redacted_values(value) is value
    hide("hunter2")
    new = redacted_values(value)
    assert new.inner == _Inner(("a …", "b"), _Kind.HUNTER)
    assert repr(new.values) == "{'…': [1, nan, None, 'x'], 'b': {'c': '…'}}"
    assert redacted_values(new) is new


def test_secrets_are_forgotten_with_their_session() -> None:
    with only_now():
        hide("hunter2")
        assert redacted("hunter2") == HIDDEN
    assert redacted("hunter2") == "hunter2"


def test_what_stands_beside_an_escaped_secret_stays() -> None:
    hide("top&secret")
    for form in ("top%26secret", "top\\u0026secret", "top&amp;secret", "dG9wJnNlY3JldA==", "top%5Cu0026secret"):
        assert redacted(f"a%20b&lt;{form}&gt;c%20d") == "a%20b&lt;…&gt;c%20d"


def test_text_of_any_length_is_searched_in_short_time() -> None:
    hide("top&secret")
    begun = time.monotonic()
    assert harmless("top%26secret " * 1_000_000).startswith("… … …")
    assert time.monotonic() - begun < 1
