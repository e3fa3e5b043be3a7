"""Secrets are removed, and everything else passes unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.history.redaction import public, public_flags, public_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@github.com/o/r.git", "https://github.com/o/r.git"),
        ("https://hunter2@github.com/o/r", "https://github.com/o/r"),
        ("get https://host/a?token=hunter2&b=1 now", "get https://host/a?token=…&b=1 now"),
        ("s3://bucket/a?X-Amz-Signature=hunter2", "s3://bucket/a?X-Amz-Signature=…"),
        ("git@github.com:o/r.git", "git@github.com:o/r.git"),
        ("https://host/a@b", "https://host/a@b"),
        ("a cat, 4k", "a cat, 4k"),
    ],
)
def test_urls(text: str, shown: str) -> None:
    assert public_text(text) == shown


@pytest.mark.parametrize("name", ["Api.api_key", "apiKey", "x.password", "x.access_token", "token", "client_secret"])
def test_a_name_that_says_so_hides_its_value(name: str) -> None:
    assert public(name, "hunter2") == "…"
    assert public(name, ["hunter2", "hunter3"]) == ["…", "…"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("KSampler.steps", 20), ("max_tokens", 7), ("tokenizer", "clip"), ("keyframes", "1,2"), ("monkey", "yes"),
     ("sampler_name", "euler"), ("x.token", 5), ("x.api_key", ""), ("monkeys", None)],
)  # fmt: skip
def test_what_is_no_secret_stays(name: str, value: Any) -> None:
    assert public(name, value) == value


def test_flags() -> None:
    flags = ("--fast", "--comfy-api-key", "hunter2", "--token=hunter2", "--port", "8188", "--base=https://a:b@host")
    assert public_flags(flags) == (
        "--fast",
        "--comfy-api-key",
        "…",
        "--token=…",
        "--port",
        "8188",
        "--base=https://host",
    )


@given(text=st.text())
def test_what_is_public_stays_public(text: str) -> None:
    assert public_text(public_text(text)) == public_text(text)
