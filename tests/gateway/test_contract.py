"""Load scenarios of ours, and what each kind of failure comes to, are through a gateway what they are at a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import redis

from tests.contract.test_failures import (
    test_a_cached_prompt_is_no_sample,
    test_an_unknown_checkpoint_is_said_before_the_load,
    test_execution_error,
    test_interrupted_by_somebody,
    test_out_of_memory,
    test_partial_when_the_server_drops_an_output,
    test_rejected_by_the_server,
    test_statuses_are_all_accounted_for,
    test_timeout_counts_from_the_start_of_execution_and_removes_the_prompt,
    test_what_the_drain_cuts_off_is_censored_and_removed,
)
from tests.gateway.serving import gateway_before
from tests.real_comfyui.target import Target

__all__ = [
    "test_a_cached_prompt_is_no_sample",
    "test_an_unknown_checkpoint_is_said_before_the_load",
    "test_execution_error",
    "test_interrupted_by_somebody",
    "test_out_of_memory",
    "test_partial_when_the_server_drops_an_output",
    "test_rejected_by_the_server",
    "test_statuses_are_all_accounted_for",
    "test_timeout_counts_from_the_start_of_execution_and_removes_the_prompt",
    "test_what_the_drain_cuts_off_is_censored_and_removed",
]


@pytest.fixture(scope="module")
def target(simulator: str, redis_process: str) -> Iterator[Target]:
    """A gateway before the simulator of the other contract tests, in a thread of its own."""
    with redis.Redis.from_url(redis_process) as client:
        client.flushall()
    started, stop = threading.Event(), asyncio.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with gateway_before(redis_process, [simulator]) as url:
            urls.append(url)
            started.set()
            await stop.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(30)
    yield Target("simulator", urls[0], "tiny_sd15.safetensors")
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()
