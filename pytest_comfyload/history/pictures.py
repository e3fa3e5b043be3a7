"""A kept picture is a thumbnail of what one prompt made, and why it is shown: slow, typical, or blank."""

from __future__ import annotations

import base64
from typing import Literal, TypeAlias

import msgspec

from pytest_comfyload.history.limits import Count

__all__ = ["KeptPicture", "Why"]

Why: TypeAlias = Literal["slowest", "typical", "bad"]


class KeptPicture(msgspec.Struct, frozen=True):
    """Width and height of the thumbnail in pixels. The record's outcome with this `prompt_id` says the rest."""

    prompt_id: str
    why: Why
    # No other type is read: what a browser would run, such as SVG, has no place in a report.
    media_type: Literal["image/webp"]
    content: bytes
    width: Count
    height: Count

    @property
    def data_url(self) -> str:
        """For an `<img src>` in a page that stands alone."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"
