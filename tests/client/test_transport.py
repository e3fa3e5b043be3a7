from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.client.wire import Wire, tls_context
from pytest_comfyload.errors import (
    ComfyloadError,
    ConnectionRefused,
    Disconnected,
    HostNotFound,
    HttpError,
    LoginRequired,
    NotComfyUI,
    ServerTimeout,
    TlsFailure,
    UsageError,
)
from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.client.servers import FakeComfy, bytes_server, closed_port, silent_server

SECRETS = ("anna", "s3cret", "t0ken-value", "YW5uYTpzM2NyZXQ=", "qu3ry/token", "qu3ry%2Ftoken")


def http(status: str, body: str = "", kind: str = "application/json", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", body]).encode()


def server_address(place: str, scheme: str = "http") -> ServerAddress:
    return ServerAddress.parse(f"{scheme}://anna:s3cret@{place}?token=qu3ry%2Ftoken", {"X-Api-Key": "t0ken-value"})


@asynccontextmanager
async def transport_to(place: str, scheme: str = "http", deadline: float = 20.0) -> AsyncIterator[Transport]:
    transport = Transport(server_address(place, scheme), deadline=deadline)
    try:
        yield transport
    finally:
        await transport.aclose()


async def refusal(place: str, scheme: str = "http", method: str = "GET", deadline: float = 20.0) -> ComfyloadError:
    """Return the error of a request, which names the URL and reveals no secret."""
    async with transport_to(place, scheme, deadline) as transport:
        with pytest.raises(ComfyloadError) as caught:
            await (transport.get_json("/prompt") if method == "GET" else transport.post_json("/prompt", {}))
    message = str(caught.value)
    assert f"{scheme}://{place}" in message
    assert not any(secret in message for secret in SECRETS)
    return caught.value


def refusal_of(answer: bytes, method: str = "GET") -> ComfyloadError:
    async def ask() -> ComfyloadError:
        async with bytes_server(answer) as place:
            return await refusal(place, method=method)

    return asyncio.run(ask())


LOGIN_PAGE = '<html><form><input type="password" name="pw"></form></html>'


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(b"", Disconnected, id="hangs-up"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", Disconnected, id="hangs-up-in-the-body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", Disconnected, id="hangs-up-in-the-headers"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", NotComfyUI, id="ssh"),
        pytest.param(b"\x15\x03\x03\x00\x02\x02\x16", NotComfyUI, id="tls-alert"),
        pytest.param(http("200 OK", "plain words here", **{"Content-Encoding": "gzip"}), NotComfyUI, id="no-gzip"),
        pytest.param(http("200 OK", LOGIN_PAGE, "text/html"), LoginRequired, id="login-page"),
        pytest.param(http("302 Found", Location="https://sso/login?to=x"), LoginRequired, id="redirect"),
        pytest.param(http("307 Temporary Redirect", Location="/login"), LoginRequired, id="redirect-307"),
        pytest.param(http("401 Unauthorized"), LoginRequired, id="401"),
        pytest.param(http("403 Forbidden"), LoginRequired, id="403"),
        pytest.param(http("404 Not Found"), HttpError, id="404"),
        pytest.param(http("500 Oops", "it broke", "text/plain"), HttpError, id="500"),
        pytest.param(http("502 Bad Gateway", "<html>nginx</html>", "text/html"), HttpError, id="502"),
        pytest.param(http("200 OK", "<html>hello</html>", "text/html"), NotComfyUI, id="html"),
        pytest.param(http("200 OK", "pong", "text/plain"), NotComfyUI, id="text"),
        pytest.param(http("200 OK", "[" * 100_000), NotComfyUI, id="nested-beyond-measure"),
        pytest.param(http("200 OK", "\u20ac"), NotComfyUI, id="cut-in-a-character"),
    ],
)
def test_what_a_server_may_answer(method: str, answer: bytes, kind: type[ComfyloadError]) -> None:
    assert type(refusal_of(answer, method=method)) is kind


def test_an_unexpected_status_is_told_with_the_first_words() -> None:
    error = refusal_of(http("503 Busy", "queue full\nsecond line", "text/plain"))
    assert isinstance(error, HttpError)
    assert error.status == 503
    assert str(error).endswith("GET /prompt answered 503 queue full")


def test_a_redirect_is_told_without_its_query() -> None:
    message = str(refusal_of(http("302 Found", Location="https://sso.example/login?ticket=t1cket")))
    assert "points to https://sso.example/login;" in message
    assert "--comfyui-header-file" in message


@pytest.mark.parametrize("echo", ["t0ken-value", "anna:s3cret", "Basic YW5uYTpzM2NyZXQ=", "YW5uYTpzM2NyZXQ="])
def test_a_server_that_repeats_a_credential_does_not_print_it(echo: str) -> None:
    error = refusal_of(http("500 Oops", f"no such key: {echo}" if "anna" not in echo else "no such key"))
    assert "no such key" in str(error)


def test_nothing_listens() -> None:
    async def ask() -> ComfyloadError:
        return await refusal(await closed_port())

    assert type(asyncio.run(ask())) is ConnectionRefused


def test_nothing_listens_on_any_address_of_a_name() -> None:
    async def ask() -> ComfyloadError:
        port = (await closed_port()).rpartition(":")[2]
        return await refusal(f"localhost:{port}")

    assert type(asyncio.run(ask())) is ConnectionRefused


def test_a_name_that_does_not_resolve() -> None:
    assert type(asyncio.run(refusal("no-such-host.invalid:8188"))) is HostNotFound


def test_no_answer_in_time() -> None:
    async def ask() -> ComfyloadError:
        async with silent_server() as place:
            return await refusal(place, deadline=0.1)

    assert type(asyncio.run(ask())) is ServerTimeout


def test_a_plain_server_behind_https() -> None:
    async def ask() -> ComfyloadError:
        async with FakeComfy() as server:
            return await refusal(server.url.removeprefix("http://"), "https")

    assert type(asyncio.run(ask())) is TlsFailure


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def fresh_tls_context() -> Iterator[None]:
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


def test_a_certificate_that_nobody_vouches_for(server_tls: ssl.SSLContext) -> None:
    async def ask() -> ComfyloadError:
        async with bytes_server(http("200 OK", "{}"), tls=server_tls) as place:
            return await refusal(place, "https")

    error = asyncio.run(ask())
    assert type(error) is TlsFailure
    assert "certificate" in str(error)


@pytest.mark.usefixtures("fresh_tls_context")
def test_an_authority_of_the_users_own(
    authority: trustme.CA, server_tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def ask() -> object:
        answer = http("200 OK", '{"a": 1}')
        async with bytes_server(answer, tls=server_tls) as place, transport_to(place, "https") as transport:
            return await transport.get_json("/prompt")

    assert asyncio.run(ask()) == {"a": 1}


@pytest.mark.parametrize("host", ["a\0b", "xn--a"])
def test_a_host_that_no_url_can_have(host: str) -> None:
    async def ask() -> None:
        async with transport_to(f"{host}:8188") as transport:
            await transport.get_json("/prompt")

    with pytest.raises(UsageError, match="not a server URL"):
        asyncio.run(ask())


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_proxies_of_the_environment_are_not_obeyed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def ask() -> object:
        async with bytes_server(http("200 OK", "{}")) as place, transport_to(place) as transport:
            return await transport.get_json("/prompt")

    assert asyncio.run(ask()) == {}


def test_what_is_sent() -> None:
    async def ask() -> FakeComfy:
        async with FakeComfy() as server, transport_to(server.url.removeprefix("http://")) as transport:
            await transport.get_bytes("/view", {"filename": "a b.png", "type": "output"})
            await transport.post("/queue", {"delete": ["p"]})
        return server

    server = asyncio.run(ask())
    headers = server.headers("GET", "/view?token=qu3ry%2Ftoken&filename=a+b.png&type=output")
    assert headers["authorization"] == "Basic YW5uYTpzM2NyZXQ="
    assert headers["x-api-key"] == "t0ken-value"
    assert server.headers("POST", "/queue?token=qu3ry%2Ftoken")["content-type"] == "application/json"
    assert json.loads(server.body("POST", "/queue?token=qu3ry%2Ftoken")) == {"delete": ["p"]}


def test_a_400_with_json_is_an_answer() -> None:
    async def ask() -> tuple[int, object]:
        async with bytes_server(http("400 Bad Request", '{"error": "x"}')) as place, transport_to(place) as transport:
            return await transport.post_json("/prompt", {})

    assert asyncio.run(ask()) == (400, {"error": "x"})


@pytest.mark.parametrize(
    "head",
    ["HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "HTTP/1.0 200\r\nX: y\r\n\r\n"],
)
def test_a_body_without_a_length_ends_with_its_connection(head: str) -> None:
    async def ask() -> object:
        async with bytes_server(f'{head}{{"a": 1}}'.encode()) as place, transport_to(place) as transport:
            return await transport.get_json("/prompt")

    assert asyncio.run(ask()) == {"a": 1}


def test_what_is_under_way_ends_when_the_transport_is_closed() -> None:
    async def close_early() -> None:
        async with silent_server() as place:
            transport = Transport(server_address(place))
            waiting = asyncio.create_task(transport.get_json("/prompt"))
            await asyncio.sleep(0.05)
            await transport.aclose()
            async with asyncio.timeout(10):
                await waiting

    with pytest.raises(ServerTimeout):
        asyncio.run(close_early())


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_one_connection_serves_all_requests_that_follow_each_other() -> None:
    async def ask() -> set[int]:
        async with FakeComfy() as server, transport_to(server.url.removeprefix("http://")) as transport:
            descriptors = set()
            for _ in range(50):
                await transport.get_bytes("/view")
                descriptors.add(open_files())
            return descriptors

    assert len(asyncio.run(ask())) == 1


def test_requests_that_are_cut_off_at_any_moment_give_their_connections_back() -> None:
    """Each connection that stays in use is one fewer of a hundred; once none is left, users would wait forever."""
    rng = random.Random(1)

    async def cut_off(transport: Transport) -> int:
        for _ in range(1000):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0, 0.006)):
                    await transport.get_json("/system_stats")
        await transport.get_json("/queue")
        wire = transport._http._transport
        assert isinstance(wire, Wire)
        occupied = wire.in_use
        await transport.aclose()
        return occupied

    with SimulatorProcess(time_scale=100) as process:
        assert asyncio.run(cut_off(Transport(ServerAddress.parse(process.url)))) == 0
