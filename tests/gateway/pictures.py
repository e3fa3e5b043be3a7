"""Small pictures to upload."""

from __future__ import annotations

import io

from PIL import Image

__all__ = ["png"]


def png(color: int) -> bytes:
    """An 8 × 8 picture in one grey."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (color, color, color)).save(out, "PNG")
    return out.getvalue()
