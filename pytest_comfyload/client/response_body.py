"""Response bodies within a size limit: a server decides neither how much memory nor how much time a response takes.

httpx decodes a body without limit: 4 MB of gzip can become 4 GB. The limit counts decoded bytes and stops the decoding.
"""

from __future__ import annotations

import zlib

import httpx

from pytest_comfyload.errors import NotComfyUI, ResponseTooLarge
from pytest_comfyload.text import harmless

__all__ = ["ACCEPT_ENCODING", "read_body"]

ACCEPT_ENCODING = "gzip, deflate"
# zlib's code for "gzip or zlib, as the header says".
_ANY_HEADER = 32 + zlib.MAX_WBITS


async def read_body(response: httpx.Response, limit: int, url: str) -> bytes:
    """Read the body of a streamed response, decoded.

    Raises: ResponseTooLarge beyond `limit` bytes; NotComfyUI for an encoding that was not asked for, or a broken one.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        sent = harmless(encoding, 40)
        raise NotComfyUI(f"{url} answered with Content-Encoding {sent!r}; {ACCEPT_ENCODING} were offered")
    decoder = None if encoding in ("", "identity") else zlib.decompressobj(_ANY_HEADER)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk if decoder is None else _decoded(decoder, chunk, limit + 1 - len(body), url)
        if len(body) > limit:
            raise ResponseTooLarge(f"{url} answered with more than {_size(limit)}")
    return bytes(body)


def _decoded(decoder: zlib._Decompress, chunk: bytes, room: int, url: str) -> bytes:
    try:
        return decoder.decompress(chunk, room)
    except zlib.error as error:
        raise NotComfyUI(f"{url} answered with a body that cannot be decompressed ({error})") from None


def _size(limit: int) -> str:
    return f"{limit / 2**20:.0f} MiB" if limit >= 2**20 else f"{limit} bytes"
