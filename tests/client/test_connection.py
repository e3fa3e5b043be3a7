"""What a server can do to a connection, shown by one that sends what each test specifies, request by request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.connection import MAX_HEAD, MAX_HELD
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.errors import ComfyloadError, Disconnected, NotComfyUI
from tests.client.servers import listening

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Script:
    """Answers the n-th request, counted over all connections, with the n-th text; hangs up if it is None."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[bytes] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((line[15:] for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), b"0")
                self.requests.append(head + await reader.readexactly(int(length)))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
            else:
                await reader.read()
        writer.close()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Transport]:
    async with listening(script.talk) as place:
        transport = Transport(ServerAddress.parse(f"http://{place}"))
        try:
            yield transport
        finally:
            await transport.aclose()


def run(script: Script, talk: Callable[[Transport], Coroutine[None, None, object]]) -> object:
    async def main() -> object:
        async with asyncio.timeout(20), scripted(script) as transport:
            return await talk(transport)

    return asyncio.run(main())


async def twice(transport: Transport) -> object:
    return await transport.get_json("/a"), await transport.get_json("/b")


def test_a_connection_that_closed_while_idle_is_replaced_for_a_get() -> None:
    script = Script(OK, None, OK)
    assert run(script, twice) == ({}, {})
    assert script.connections == 2


def test_a_post_is_never_sent_twice() -> None:
    async def talk(transport: Transport) -> None:
        await transport.get_json("/a")
        await transport.post("/b", {})

    script = Script(OK, None, OK)
    with pytest.raises(Disconnected):
        run(script, talk)
    assert len(script.requests) == 2


def test_the_requests_of_a_method_differ_in_target_and_content_alone() -> None:
    async def talk(transport: Transport) -> None:
        await transport.post("/a", {"x": 1})
        await transport.post("/b", {"long": "content"})

    script = Script(OK, OK)
    run(script, talk)
    (first, _, one), (second, _, other) = (each.partition(b"\r\n\r\n") for each in script.requests)
    assert (one, other) == (b'{"x":1}', b'{"long":"content"}')
    assert second == first.replace(b"POST /a", b"POST /b").replace(b"Content-Length: 7", b"Content-Length: 18")


@pytest.mark.parametrize("path", ["/a b", "/ä", "/a#b"])
def test_a_target_is_quoted_as_httpx_does(path: str) -> None:
    script = Script(OK)
    run(script, lambda transport: transport.get_json(path))
    assert script.requests[0].startswith({"/a b": b"GET /a%20b ", "/ä": b"GET /%C3%A4 ", "/a#b": b"GET /a "}[path])


@pytest.mark.parametrize("extra", [b"garbage", OK, b"HTTP/1.1 200"])
def test_what_follows_a_response_is_not_taken_for_the_next_one(extra: bytes) -> None:
    script = Script(OK + extra, OK)
    assert run(script, twice) == ({}, {})
    assert script.connections == 2


def test_informational_responses_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Encoding: br\r\n\r\n"
    script = Script(early + OK, OK)
    assert run(script, twice) == ({}, {})
    assert script.connections == 1


def test_a_head_request_has_no_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    assert run(Script(head), lambda transport: transport.has("/view"))


def test_a_large_body_comes_whole_and_its_connection_serves_the_next_request() -> None:
    body = bytes(range(256)) * (MAX_HELD // 32)

    async def talk(transport: Transport) -> bool:
        first = await transport.get_bytes("/view")
        return first == await transport.get_bytes("/view") == body

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    script = Script(answer, answer)
    assert run(script, talk)
    assert script.connections == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 * MAX_HEAD), NotComfyUI, id="endless-header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD, NotComfyUI, id="endless-headers"),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", NotComfyUI, id="101"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", NotComfyUI, id="bad-chunk"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", NotComfyUI, id="two-lengths"
        ),
    ],
)
def test_a_response_that_is_no_http(answer: bytes, kind: type[ComfyloadError]) -> None:
    with pytest.raises(kind):
        run(Script(answer), lambda transport: transport.get_json("/prompt"))
