"""Load scenarios, and each kind of failure, give the same results through a gateway as directly at a server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.contract.loads import SMALL, run
from tests.contract.test_failures import (
    test_a_cached_prompt_is_no_sample,
    test_an_unknown_checkpoint_is_said_before_the_load,
    test_execution_error,
    test_interrupted_by_somebody,
    test_out_of_memory,
    test_partial_when_the_server_drops_an_output,
    test_rejected_by_the_server,
    test_statuses_are_all_accounted_for,
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
    "test_what_the_drain_cuts_off_is_censored_and_removed",
]


def test_a_load_before_a_real_server(real_comfyui: str, redis_url: str, tmp_path: Path) -> None:
    with serving_in_a_thread(redis_url, real_comfyui) as url:
        target = Target("real", url, "tiny_sd15.safetensors")
        load = run(target, tmp_path, "txt2img", overrides=SMALL, users=2, iterations=3, warmup=0)
        assert load.success_rate == 100
        assert load.cached == 0
        assert all(each.outputs[0].subfolder.startswith("w1") for each in load.outcomes)
        assert all(each.generation_time is not None for each in load.outcomes)


@pytest.fixture(scope="module")
def target(simulator: str, redis_process: str) -> Iterator[Target]:
    """Run a gateway in front of the simulator that the other contract tests use."""
    with redis.Redis.from_url(redis_process) as client:
        client.flushall()
    with serving_in_a_thread(redis_process, simulator) as url:
        yield Target("simulator", url, "tiny_sd15.safetensors")


@contextlib.contextmanager
def serving_in_a_thread(redis_url: str, worker: str) -> Iterator[str]:
    """Run a gateway in front of this server, and yield its URL."""
    started, stop = threading.Event(), asyncio.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with gateway_before(redis_url, [worker]) as url:
            urls.append(url)
            started.set()
            await stop.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(30)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
