"""Redaction of stored values: passwords in URLs, and values of inputs and flags whose names indicate a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pytest_comfyload.redaction import HIDDEN, any_secrets, holds_secret, is_secret_name, redacted, redacted_values

__all__ = ["public", "public_flags", "public_text", "public_values", "without_secrets"]

T = TypeVar("T")

# `user:password@` or `token@` in a URL, and keys or signatures in its query.
_IN_URL = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#\s@]*@")
_QUERY_SECRET = re.compile(
    r"(?P<name>[?&][^=&\s]*(?:key|token|secret|password|passwd|signature|credential|auth)[^=&\s]*=)[^&#\s]+", re.I
)


def public_text(text: str) -> str:
    """Return the text without known secrets and without the secrets in its URLs."""
    return _QUERY_SECRET.sub(rf"\g<name>{HIDDEN}", _IN_URL.sub(r"\g<scheme>", redacted(text)))


def without_secrets(value: T) -> T:
    """Return a value to be stored without known secrets. If it has none, this takes only one search."""
    return redacted_values(value) if any_secrets() and holds_secret(msgspec.json.encode(value)) else value


def public(name: str, value: Any) -> Any:
    """Return the value of the input or setting `name`, hidden if the name indicates a secret."""
    if isinstance(value, str):
        return HIDDEN if is_secret_name(name) and value else public_text(value)
    if isinstance(value, Mapping):
        return public_values(value)
    if isinstance(value, list | tuple):
        return [public(name, each) for each in value]
    return value


def public_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: public(name, value) for name, value in values.items()}


def public_flags(flags: Sequence[str]) -> tuple[str, ...]:
    """Return a command line with its secrets hidden: `--api-key=…`, `--api-key …`."""
    shown: list[str] = []
    for flag in flags:
        name, equals, value = flag.partition("=")
        if shown and shown[-1].startswith("-") and "=" not in shown[-1] and not flag.startswith("-"):
            shown.append(public(shown[-1], flag))
        elif equals and name.startswith("-"):
            shown.append(f"{name}={public(name, value)}")
        else:
            shown.append(public_text(flag))
    return tuple(shown)
