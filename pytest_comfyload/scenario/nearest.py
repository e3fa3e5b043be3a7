"""Legal choices in an error message: the nearest to what was written come first, and never more than fit a line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["close_to", "nearest"]


def close_to(word: str, legal: Iterable[object], limit: int = 3) -> list[str]:
    """Those of `legal` that `word` may be a slip of, the nearest first; often none."""
    return difflib.get_close_matches(word, dict.fromkeys(str(name) for name in legal), n=limit)


def nearest(word: str, legal: Iterable[object], limit: int = 10) -> str:
    """`legal` as one line, the nearest to `word` first, at most `limit` of them and then how many there are."""
    names = list(dict.fromkeys(str(name) for name in legal))
    close = close_to(word, names)
    ordered = close + [name for name in names if name not in close]
    if len(ordered) <= limit:
        return ", ".join(ordered)
    return f"{', '.join(ordered[:limit])}, … ({len(ordered)} in all)"
