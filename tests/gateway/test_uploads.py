"""The newest version of an upload is read by the prompts that name it, on whichever worker executes them."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from PIL import Image

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.gateway import worker_link
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.simulator.settings import SimulatorSettings
from tests.gateway.pictures import png
from tests.gateway.serving import User, gateway_before
from tests.run.balancer import Balancer
from tests.simulator.graphs import sleep
from tests.simulator.serving import serving
from tests.simulator.talking import Talk, until

STRICT = SimulatorSettings(time_scale=50.0, strict=True, probe_nodes=True)


def reading(name: str, prefix: str = "read") -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


async def upload(user: User, name: str, color: int, **fields: str) -> dict[str, str]:
    form = aiohttp.FormData(fields)
    form.add_field("image", png(color), filename=name, content_type="image/png")
    async with user.session.post(user.url + "/upload/image", data=form) as response:
        assert response.status == 200, await response.text()
        stored: dict[str, str] = await response.json()
        return stored


async def color_at(session: aiohttp.ClientSession, worker: str, name: str) -> int | None:
    """Return the grey of the picture that the worker itself has, or None if it has none."""
    async with session.get(f"{worker}/view", params={"filename": name, "type": "input"}) as response:
        if response.status == 404:
            return None
        pixel = Image.open(io.BytesIO(await response.read())).getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return int(pixel[0])


async def read_at_w2(user: User, w1: str, name: str) -> None:
    """Read an upload in a prompt for which only the worker w2 is free."""
    await Talk(user.session, w1).submit(sleep(3600.0))
    where, number = "", 0
    while where != "w2":
        number += 1
        entry = await user.ended(await user.submit(reading(name, f"read{number}")))
        assert entry["status"]["status_str"] == "success", entry["status"]
        where = entry["outputs"]["2"]["images"][0]["subfolder"].partition("/")[0]


def test_a_worker_that_was_away_gets_an_upload_with_the_prompt(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One upload that it lacks, and one of which it has an older version."""
    monkeypatch.setattr(worker_link, "EXCHANGE", 1.5)

    async def talk() -> list[int | None]:
        with (
            SimulatorProcess(time_scale=50, strict=True, probe_nodes=True) as one,
            SimulatorProcess(time_scale=50, strict=True) as two,
        ):
            async with gateway_before(redis_url, [one.url, two.url]) as url, aiohttp.ClientSession() as session:
                user, seen = User(session, url), []
                await upload(user, "old.png", 10)
                os.kill(two.pid, signal.SIGSTOP)
                try:
                    await upload(user, "old.png", 20, overwrite="true")
                    await upload(user, "new.png", 30)
                finally:
                    os.kill(two.pid, signal.SIGCONT)
                seen += [await color_at(session, two.url, name) for name in ("old.png", "new.png")]
                while len((await user.get("/healthz"))["workers"]) < 2:
                    await asyncio.sleep(0.1)
                for name in ("old.png", "new.png"):
                    await read_at_w2(user, one.url, name)
                return seen + [await color_at(session, two.url, name) for name in ("old.png", "new.png")]

    before_old, before_new, *after = asyncio.run(talk())
    assert after == [20, 30]
    # It may have read only what came before it was stopped, or everything left in its connection when it continued.
    assert (before_old, before_new) in [(10, None), (20, None), (20, 30), (10, 30)]


def test_a_worker_that_joins_later_gets_earlier_uploads(redis_url: str) -> None:
    async def talk() -> tuple[int | None, int | None, bytes]:
        async with serving(STRICT) as one, serving(STRICT) as two, aiohttp.ClientSession() as session:
            async with gateway_before(redis_url, [one]) as url:
                await upload(User(session, url), "a.png", 40, subfolder="mine")
            async with gateway_before(redis_url, [one, two]) as url:
                lacks = await color_at_sub(session, two)
                await read_at_w2(User(session, url), one, "mine/a.png")
                picture = await User(session, url).picture({"filename": "a.png", "subfolder": "mine", "type": "input"})
                return lacks, await color_at_sub(session, two), picture

    async def color_at_sub(session: aiohttp.ClientSession, worker: str) -> int | None:
        async with session.get(f"{worker}/view?filename=a.png&subfolder=mine&type=input") as response:
            return None if response.status == 404 else len(await response.read())

    lacks, has, picture = asyncio.run(talk())
    assert (lacks, has, picture) == (None, len(png(40)), png(40))


def test_an_upload_that_no_worker_has_any_more_is_named(redis_url: str) -> None:
    """The only worker that had it no longer exists: the prompt ends with an error, not with another picture."""

    async def talk() -> Mapping[str, Any]:
        async with serving(STRICT) as two, aiohttp.ClientSession() as session:
            async with serving(STRICT) as one, gateway_before(redis_url, [one]) as url:
                await upload(User(session, url), "a.png", 50)
            async with gateway_before(redis_url, [two]) as url, User(session, url).listening() as socket:
                await User(session, url).submit(reading("a.png"))
                error: Mapping[str, Any] = (await until(socket, "execution_error"))[-1]["data"]
                return error

    error = asyncio.run(talk())
    assert error["exception_message"] == (
        "the upload a.png is on w1, and cannot be fetched from there (worker w2); it was tried 2 times"
    )


# --- workers behind a login ------------------------------------------------------------------------------------------


def test_workers_behind_a_login_get_their_own_headers_and_no_user_needs_them(redis_url: str) -> None:
    """Users' headers are not forwarded to workers."""

    async def talk(worker: str) -> tuple[str, int, bytes]:
        address = ServerAddress.parse(worker, {"Authorization": "Bearer of the worker"})
        async with (
            gateway_before(redis_url, [address]) as url,
            aiohttp.ClientSession(headers={"Authorization": "Bearer of ann"}) as session,
        ):
            ann = User(session, url)
            await upload(ann, "a.png", 60)
            async with ann.listening() as socket:
                await ann.submit(sleep(5.0))
                kinds = {each["type"] for each in await until(socket, "execution_success")}
                assert {"execution_start", "progress", "executed"} <= kinds
            entry = await ann.ended(await ann.submit(reading("a.png")))
            image = entry["outputs"]["2"]["images"][0]
            return (
                entry["status"]["status_str"],
                len(await ann.picture(image)),
                await ann.picture({"filename": "a.png", "type": "input"}),
            )

    with (
        SimulatorProcess(time_scale=50, strict=True, probe_nodes=True) as worker,
        Balancer([worker.url], sticky=False, authorization="Bearer of the worker") as door,
    ):
        state, size, picture = asyncio.run(talk(door.url))
        assert door.refused == 0
    assert (state, picture) == ("success", png(60))
    assert size > 0


def test_the_operator_is_told_why_a_worker_gets_no_prompts(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def talk(worker: str) -> tuple[int, str | None, Any]:
        async with (
            gateway_before(redis_url, [worker]) as url,
            aiohttp.ClientSession() as session,
            session.post(f"{url}/prompt", json={"prompt": sleep(1.0)}) as response,
        ):
            return response.status, response.headers.get("Retry-After"), await response.json()

    with SimulatorProcess() as worker, Balancer([worker.url], authorization="Bearer of the worker") as door:
        status, later, body = asyncio.run(talk(door.url))
        (line,) = {each.getMessage() for each in caplog.records if "worker w1" in each.getMessage()}
        assert line.startswith(f"worker w1 ({door.url}): ")
        assert line.endswith("401; it gets no prompts until it answers; give its login with --comfyui-header-file")
    assert (status, later) == (503, "5")
    assert body["error"]["type"] == "unavailable"
