"""Small pictures to upload."""

from __future__ import annotations

import io

from PIL import Image

__all__ = ["png"]


def png(color: int) -> bytes:
    """Return a uniformly grey picture of 8 × 8 pixels."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (color, color, color)).save(out, "PNG")
    return out.getvalue()
