"""A server controls neither how much memory nor how much time a response takes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.response_body import ACCEPT_ENCODING
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.errors import ComfyloadError, NotComfyUI, ResponseTooLarge, ServerTimeout

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LIMIT = 100_000


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[ServerAddress]:
    app = web.Application()
    app.router.add_get("/view", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield ServerAddress.parse(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def fetched(handler: Handler, deadline: float = 10.0, max_response: int | None = None) -> bytes:
    async def fetch() -> bytes:
        async with serving(handler) as address:
            transport = Transport(ServerAddress(address.url, max_response=max_response))
            try:
                return await transport.get_bytes("/view", deadline=deadline, limit=LIMIT)
            finally:
                await transport.aclose()

    return asyncio.run(fetch())


def sending(body: bytes, encoding: str | None = None) -> Handler:
    async def send(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Encoding": encoding} if encoding else {})

    return send


def encoded(content: bytes, encoding: str | None) -> bytes:
    match encoding:
        case "gzip":
            return gzip.compress(content)
        case "deflate":
            return zlib.compress(content)
        case _:
            return content


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(bytes(65536))
    return response


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            await response.write(b"x")
            await asyncio.sleep(0.05)
    return response


@given(st.binary(max_size=3000), st.sampled_from([None, "gzip", "deflate"]))
def test_a_body_arrives_as_it_was_before_encoding(content: bytes, encoding: str | None) -> None:
    assert fetched(sending(encoded(content, encoding), encoding)) == content


def test_a_body_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not() -> None:
    assert len(fetched(sending(bytes(LIMIT)))) == LIMIT
    with pytest.raises(ResponseTooLarge, match="more than 100000 bytes"):
        fetched(sending(bytes(LIMIT + 1)))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_the_limit_counts_decoded_bytes(encoding: str) -> None:
    assert len(fetched(sending(encoded(bytes(LIMIT), encoding), encoding))) == LIMIT
    with pytest.raises(ResponseTooLarge):
        fetched(sending(encoded(bytes(10_000_000), encoding), encoding))


def test_the_limit_can_be_raised() -> None:
    assert len(fetched(sending(bytes(2 * LIMIT)), max_response=2 * LIMIT)) == 2 * LIMIT


def test_an_endless_body_ends_at_the_limit() -> None:
    with pytest.raises(ResponseTooLarge):
        fetched(_endless)


def test_a_body_that_drips_ends_at_the_deadline() -> None:
    began = time.monotonic()
    with pytest.raises(ServerTimeout, match=r"GET /view was not answered completely within 0\.3 s"):
        fetched(_drip, deadline=0.3)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 500])
def test_an_encoding_that_was_not_offered_is_refused(encoding: str) -> None:
    with pytest.raises(NotComfyUI, match=ACCEPT_ENCODING) as caught:
        fetched(sending(b"abc", encoding))
    assert len(str(caught.value)) < 200


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_as_an_encoded_body_give_bytes_or_one_of_our_errors(content: bytes, encoding: str) -> None:
    with contextlib.suppress(ComfyloadError):
        assert len(fetched(sending(content, encoding))) <= LIMIT
