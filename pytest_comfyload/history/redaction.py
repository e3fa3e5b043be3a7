"""What is secret does not reach the store: passwords in URLs, values of inputs and flags whose names say so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pytest_comfyload.redaction import HIDDEN, any_secrets, holds_secret, is_secret_name, redacted, redacted_values

__all__ = ["public", "public_flags", "public_text", "public_values", "without_secrets"]

T = TypeVar("T")

# `user:password@` or `token@` in a URL; what comes after ?, where keys are signed in.
_IN_URL = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#\s@]*@")
_QUERY_SECRET = re.compile(
    r"(?P<name>[?&][^=&\s]*(?:key|token|secret|password|passwd|signature|credential|auth)[^=&\s]*=)[^&#\s]+", re.I
)


def public_text(text: str) -> str:
    """The text, without the secrets that are known, and with what is secret in its URLs taken out."""
    return _QUERY_SECRET.sub(rf"\g<name>{HIDDEN}", _IN_URL.sub(r"\g<scheme>", redacted(text)))


def without_secrets(value: T) -> T:
    """Return what is kept of a run, without the secrets that are known. One search where there are none."""
    return redacted_values(value) if any_secrets() and holds_secret(msgspec.json.encode(value)) else value


def public(name: str, value: Any) -> Any:
    """The value of the input or setting `name`, hidden where its name says that it is secret."""
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
    """A command line: `--api-key=…`, `--api-key …`."""
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
