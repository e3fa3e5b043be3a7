"""What the scripts of a page read: JSON without a character that HTML could take for its own."""

from __future__ import annotations

import json
import math
import re
from typing import Any
from urllib.parse import urlsplit

from pytest_comfyload.history.redaction import public_text

__all__ = ["figure", "json_text", "web_link"]

# In a script element only `<` can end it; the others are for readers that are less exact.
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def json_text(data: Any) -> str:
    """May stand in a script element, and is an expression of JavaScript. Raises: ValueError for nan and infinity."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return without_controls(text).translate(_ESCAPED)


def without_controls(text: str) -> str:
    """Put spaces for control characters and those that turn the direction of writing, which would disguise a text."""
    return _CONTROLS.sub(" ", text)


# Not those that join letters and emojis.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def figure(value: Any, digits: int = 4) -> float | int | str | None:
    """Round to so many significant digits; None for an unknown, `∞` for a percentile that lies among failures.

    A stored run may hold anything instead of a number: that counts as unknown.
    """
    if not isinstance(value, int | float) or math.isnan(value):
        return None
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.{digits}g}")


def web_link(url: str | None) -> str | None:
    """Return the URL without its password, as a link; None for anything but http and https."""
    if not url or urlsplit(url).scheme not in ("http", "https"):
        return None
    return public_text(url)
