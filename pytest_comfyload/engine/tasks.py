"""Tasks that run alongside something else, and end with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

__all__ = ["alongside"]


@contextlib.asynccontextmanager
async def alongside(*watching: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines that know no end of their own, as long as the context lasts."""
    tasks = [asyncio.create_task(each) for each in watching]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
