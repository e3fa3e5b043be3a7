"""Response bodies within a size limit: a server must not decide how much memory or time a response takes.

httpx decodes a body without limit: 4 MB of gzip can become 4 GB. The limit counts decoded bytes and stops the decoding.
"""

from __future__ import annotations

import zlib

import httpx

from pytest_comfyload.errors import NotComfyUI, ResponseTooLarge
from pytest_comfyload.text import harmless

__all__ = ["ACCEPT_ENCODING", "Memory", "MemoryShare", "read_body"]

ACCEPT_ENCODING = "gzip, deflate"
# zlib's code for "gzip or zlib, as the header says".
_ANY_HEADER = 32 + zlib.MAX_WBITS


class Memory:
    """The number of bytes that the outputs of all prompts may occupy at the same time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0

    def share(self) -> MemoryShare:
        return MemoryShare(self)


class MemoryShare:
    """The memory that the outputs of one prompt occupy until it is released."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._held = 0

    def take(self, count: int, url: str) -> None:
        """Claim `count` bytes. Raises: ResponseTooLarge if all prompts together have no memory left."""
        if self._memory.held + count > self._memory.size:
            raise ResponseTooLarge(
                f"{url}: outputs that are downloaded at the same time take more than {_size(self._memory.size)}"
            )
        self._memory.held += count
        self._held += count

    def release(self) -> None:
        self._memory.held -= self._held
        self._held = 0


async def read_body(response: httpx.Response, limit: int, url: str, share: MemoryShare | None = None) -> bytes:
    """Read the body of a streamed response, decoded.

    Raises: ResponseTooLarge beyond `limit` bytes, or beyond what `share` can take; NotComfyUI for an encoding that was
    not requested, or a broken one.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        sent = harmless(encoding, 40)
        raise NotComfyUI(f"{url} answered with Content-Encoding {sent!r}; {ACCEPT_ENCODING} were offered")
    decoder = None if encoding in ("", "identity") else zlib.decompressobj(_ANY_HEADER)
    body = bytearray()
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for chunk in response.stream:
        piece = chunk if decoder is None else _decoded(decoder, chunk, limit + 1 - len(body), url)
        if share is not None:
            share.take(len(piece), url)
        body += piece
        if len(body) > limit:
            raise ResponseTooLarge(f"{url} answered with more than {_size(limit)} (--comfyload-max-response)")
    return bytes(body)


def _decoded(decoder: zlib._Decompress, chunk: bytes, room: int, url: str) -> bytes:
    try:
        return decoder.decompress(chunk, room)
    except zlib.error as error:
        raise NotComfyUI(f"{url} answered with a body that cannot be decompressed ({error})") from None


def _size(limit: int) -> str:
    return f"{limit / 2**20:.0f} MiB" if limit >= 2**20 else f"{limit} bytes"
