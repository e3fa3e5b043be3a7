from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.gateway.redis_server import redis_server


@pytest.fixture(scope="session")
def redis_process() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest.fixture
def redis_url(redis_process: str) -> str:
    """Return the URL of an empty Redis."""
    with redis.Redis.from_url(redis_process) as client:
        client.flushall()
    return redis_process
