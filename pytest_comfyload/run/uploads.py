"""Every server has the input files of a run before its load begins, and is sent only those that it has not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.workflow.input_files import FOLDER, InputFile

__all__ = ["upload_missing"]


async def upload_missing(servers: Iterable[ServerAddress], files: Sequence[InputFile]) -> None:
    """Raises: ServerError."""
    await asyncio.gather(*(_upload_to(server, files) for server in servers if files))


async def _upload_to(server: ServerAddress, files: Sequence[InputFile]) -> None:
    client = ComfyClient(server)
    try:
        for file in files:
            if not (file.lasting and await client.has_input(file.name, FOLDER)):
                await client.upload_input(file.name, await asyncio.to_thread(file.content), FOLDER)
    finally:
        await client.aclose()
