"""Data for the scripts of a page: JSON without characters that are special in HTML."""

from __future__ import annotations

import json
import math
import re
from typing import Any
from urllib.parse import urlsplit

from pytest_comfyload.history.redaction import public_text

__all__ = ["figure", "json_text", "web_link"]

# Only `<` can end a script element; the others are for less exact parsers.
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def json_text(data: Any) -> str:
    """Return JSON that is safe in a script element and valid JavaScript. Raises: ValueError for nan and infinity."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return without_controls(text).translate(_ESCAPED)


def without_controls(text: str) -> str:
    """Replace control characters and those that change the writing direction, which could disguise text, by spaces."""
    return _CONTROLS.sub(" ", text)


# Joiners are not included: letters and emojis need them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def figure(value: Any, digits: int = 4) -> float | int | str | None:
    """Round to `digits` significant digits; None if unknown, `∞` for a percentile that lies among failures.

    A stored run may contain anything instead of a number, which counts as unknown.
    """
    if not isinstance(value, int | float) or math.isnan(value):
        return None
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.{digits}g}")


def web_link(url: str | None) -> str | None:
    """Return the URL of a link, without any password; None for anything but http and https."""
    if not url or urlsplit(url).scheme not in ("http", "https"):
        return None
    return public_text(url)
