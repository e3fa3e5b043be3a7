"""A kept picture is a thumbnail of what one prompt made, and why it is kept: slow, typical, blank, or one of the first.

The first prompts of a run have the same seeds in every run of its scenario: they are kept to be compared.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

__all__ = ["KeptPicture", "Why"]

# Bytes, and pixels of a side: thumbnails are made of at most half of that.
MAX_CONTENT = 64 * 1024
_Side: TypeAlias = Annotated[int, Meta(ge=0, le=512)]

Why: TypeAlias = Literal["slowest", "typical", "bad", "first"]


class KeptPicture(msgspec.Struct, frozen=True):
    """Width and height of the thumbnail in pixels. The record's outcome with this `prompt_id` says the rest."""

    prompt_id: str
    why: Why
    # No other type is read: what a browser would run, such as SVG, has no place in a report.
    media_type: Literal["image/webp"]
    content: Annotated[bytes, Meta(max_length=MAX_CONTENT)]
    width: _Side
    height: _Side

    @property
    def data_url(self) -> str:
        """The picture as a URL for `<img src>` in a page that stands alone."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"
