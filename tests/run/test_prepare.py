"""Files are uploaded to every server that lacks them, and to no other."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import HttpError, LoginRequired
from pytest_comfyload.run.prepare import upload_missing
from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.workflow.input_files import InputFile
from tests.simulator.serving import serving


class Folder:
    """An input file that counts how often its content is read."""

    def __init__(self) -> None:
        self.reads = 0
        self.file = InputFile("mine 1.bin", self._content)

    def _content(self) -> bytes:
        self.reads += 1
        return b"content"


@asynccontextmanager
async def answering(*, head: int, upload: int) -> AsyncIterator[ServerAddress]:
    """Serve every HEAD with the status `head` and every other request with `upload`."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({}, status=head if request.method == "HEAD" else upload)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield ServerAddress(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def stored(url: str) -> bytes:
    query = "filename=mine%201.bin&subfolder=comfyload&type=input"
    with urllib.request.urlopen(f"{url}/view?{query}", timeout=30) as answer:
        content: bytes = answer.read()
        return content


def test_each_server_that_lacks_a_file_gets_it_once() -> None:
    folder = Folder()

    async def main() -> None:
        async with serving(SimulatorSettings()) as first, serving(SimulatorSettings()) as second:
            await upload_missing([ServerAddress(first)], [folder.file])
            assert folder.reads == 1
            for _ in range(2):
                await upload_missing([ServerAddress(first), ServerAddress(second)], [folder.file])
                assert folder.reads == 2
            for url in (first, second):
                assert await asyncio.to_thread(stored, url) == b"content"

    asyncio.run(main())


def test_what_does_not_last_is_uploaded_again() -> None:
    folder = Folder()
    folder.file = InputFile("mine 1.bin", folder._content, lasting=False)

    async def main() -> None:
        async with answering(head=200, upload=200) as server:
            for _ in range(2):
                await upload_missing([server], [folder.file])

    asyncio.run(main())
    assert folder.reads == 2


@pytest.mark.parametrize(("upload", "error"), [(413, HttpError), (401, LoginRequired)])
def test_a_refused_upload_is_the_servers_error(upload: int, error: type[Exception]) -> None:
    async def main() -> None:
        async with answering(head=404, upload=upload) as server:
            await upload_missing([server], [Folder().file])

    with pytest.raises(error, match="POST /upload/image answered"):
        asyncio.run(main())


@pytest.mark.parametrize(("head", "reads"), [(200, 0), (404, 1), (405, 1)])
def test_where_nobody_says_that_it_is_there_it_is_uploaded(head: int, reads: int) -> None:
    folder = Folder()

    async def main() -> None:
        async with answering(head=head, upload=200) as server:
            await upload_missing([server], [folder.file])

    asyncio.run(main())
    assert folder.reads == reads
