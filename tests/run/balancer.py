"""A reverse proxy as commonly put in front of several ComfyUI servers: round robin, or sticky by its own cookie."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from types import TracebackType

import aiohttp
from aiohttp import web

__all__ = ["Balancer"]

COOKIE = "balanced"
_OF_ONE_HOP = {"connection", "content-encoding", "content-length", "date", "host", "server", "transfer-encoding"}


class Balancer:
    """A balancer that runs in a thread and listens at `url`.

    The first response sets the cookie, unless `sticky` is False. With a `token`, requests without `?token=…` are
    answered with status 401 and counted in `refused`; with an `authorization`, so are requests without that header.
    """

    def __init__(
        self,
        backends: Sequence[str],
        *,
        sticky: bool = True,
        token: str | None = None,
        authorization: str | None = None,
    ) -> None:
        self._backends = backends
        self._sticky = sticky
        self._token = token
        self._authorization = authorization
        self.refused = 0
        self._turn = itertools.cycle(range(len(backends)))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Balancer:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> str:
        # Cookies are between the client and the server that set them.
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("token") != self._token or self._authorization not in (
            None,
            request.headers.get("Authorization"),
        ):
            self.refused += 1
            return web.Response(status=401, text=f"no access by {request.path_qs}")
        cookie = request.cookies.get(COOKIE)
        number = next(self._turn) if cookie is None else int(cookie)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._socket(request, self._backends[number])
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_ONE_HOP}
        url, body = self._backends[number] + request.path_qs, await request.read()
        async with self._session.request(request.method, url, headers=headers, data=body) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_ONE_HOP}
            response = web.Response(status=answer.status, headers=kept, body=await answer.read())
        if self._sticky and cookie is None:
            response.set_cookie(COOKIE, str(number))
        return response

    async def _socket(self, request: web.Request, backend: str) -> web.StreamResponse:
        front = web.WebSocketResponse(max_msg_size=0)
        await front.prepare(request)
        async with self._session.ws_connect(backend + request.path_qs, max_msg_size=0) as back:

            async def downwards() -> None:
                async for message in back:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await front.send_str(message.data)
                    elif message.type is aiohttp.WSMsgType.BINARY:
                        await front.send_bytes(message.data)
                await front.close()

            pump = asyncio.create_task(downwards())
            async for message in front:
                await back.send_str(message.data)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        return front
