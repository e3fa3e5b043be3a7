"""Kept pictures: thumbnails of what prompts produced, each with the reason: slow, typical, blank, or among the first.

The first prompts of a run have the same seeds in every run of its scenario, so their pictures can be compared.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

__all__ = ["KeptPicture", "Why"]

# Bytes, and pixels per side. Thumbnails are created with at most half of these.
MAX_CONTENT = 64 * 1024
_Side: TypeAlias = Annotated[int, Meta(ge=0, le=512)]

Why: TypeAlias = Literal["slowest", "typical", "bad", "first"]


class KeptPicture(msgspec.Struct, frozen=True):
    """A thumbnail, with its width and height in pixels, of the record's outcome that has this `prompt_id`."""

    prompt_id: str
    why: Why
    # No other type is accepted: content that a browser might execute, such as SVG, must not get into a report.
    media_type: Literal["image/webp"]
    content: Annotated[bytes, Meta(max_length=MAX_CONTENT)]
    width: _Side
    height: _Side

    @property
    def data_url(self) -> str:
        """The picture as a URL for `<img src>` in a self-contained page."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"
