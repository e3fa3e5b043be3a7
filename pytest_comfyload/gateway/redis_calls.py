"""Calls to Redis. Atomic operations are Lua scripts in `lua/`.

A call is retried for up to `patience` seconds while Redis is down or loading its data. Each script may therefore run
twice, and must be safe to repeat.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from importlib import resources
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pytest_comfyload.errors import ComfyloadError, UsageError

__all__ = ["LONG", "PREFIX", "SHORT", "RedisCalls", "StoreFull", "StoreUnavailable", "as_text", "script"]

# Seconds to wait for Redis: in a user's request, and in the driver of a worker.
SHORT, LONG = 5.0, 3600.0
PREFIX = "comfyload:"
_CONNECTIONS = 32


class StoreUnavailable(ComfyloadError):
    """Redis does not answer, or refuses a command."""


class StoreFull(StoreUnavailable):
    """Redis has no memory left (`maxmemory`)."""


@cache
def script(name: str) -> str:
    """Return the source of a Lua script, preceded by the shared prelude."""
    folder = resources.files(__package__).joinpath("lua")
    return "\n".join(folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", name))


@cache
def _digest(name: str) -> str:
    return hashlib.sha1(script(name).encode()).hexdigest()


class RedisCalls:
    """Commands and scripts on one Redis server; all keys have the gateway's prefix."""

    def __init__(self, url: str) -> None:
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=SHORT,
                # `_patiently` sets the timeouts: with its own socket timeout, redis-py loses cancellations on
                # Python 3.11.
                socket_timeout=None,
                socket_connect_timeout=SHORT,
                # `_patiently` retries; the pub/sub listener must notice each lost connection.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            raise UsageError("--redis is not the URL of a Redis; give redis://host:6379/0 or unix:///path") from None
        # Any, because redis-py annotates its methods for both its synchronous and its asynchronous client.
        self.redis: Any = Redis(connection_pool=pool)

    async def aclose(self) -> None:
        await self.redis.aclose()
        await self.redis.connection_pool.disconnect()

    async def fields(self, ids: Iterable[str], *names: str) -> list[list[Any]]:
        """Return the fields `names` of each prompt. Raises: StoreUnavailable."""
        wanted = list(ids)

        async def ask() -> list[list[Any]]:
            pipe = self.redis.pipeline(transaction=False)
            for id in wanted:
                pipe.execute_command("HMGET", f"{PREFIX}prompt:{id}", *names)
            return list(await pipe.execute())

        return await self._patiently(ask, SHORT) if wanted else []

    async def do(self, patience: float, command: str, key: str, *args: Any) -> Any:
        """Run a command on a key. Raises: StoreUnavailable."""
        return await self._patiently(lambda: self.redis.execute_command(command, PREFIX + key, *args), patience)

    async def run(self, name: str, patience: float, *args: Any) -> Any:
        """Run a Lua script, using the clock of Redis. Raises: StoreUnavailable."""

        async def ask() -> Any:
            try:
                return await self.redis.execute_command("EVALSHA", _digest(name), 1, PREFIX, "", *args)
            except NoScriptError:
                return await self.redis.execute_command("EVAL", script(name), 1, PREFIX, "", *args)

        return await self._patiently(ask, patience)

    async def _patiently(self, ask: Callable[[], Awaitable[Any]], patience: float) -> Any:
        """Retry `ask` until it is answered or `patience` seconds have passed. Raises: StoreUnavailable."""
        until, pause = time.monotonic() + patience, 0.05
        while True:
            try:
                async with asyncio.timeout(SHORT):
                    return await ask()
            except OutOfMemoryError as error:
                raise StoreFull(f"Redis has no memory left: {error}") from None
            except ResponseError as error:
                raise StoreUnavailable(f"Redis refused a command: {error}") from None
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                if time.monotonic() + pause > until:
                    raise StoreUnavailable(f"Redis does not answer: {error}") from None
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)


def as_text(value: Any) -> str:
    """Return an answer of Redis as text; None becomes an empty string."""
    return "" if value is None else value.decode() if isinstance(value, bytes) else str(value)
