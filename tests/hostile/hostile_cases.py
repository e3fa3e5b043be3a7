"""A table of the hostile server's misbehaviours: each with its conduct and the route on which it occurs.

What breaks HTTP or JSON itself is tried on each route that a load depends on; what is wrong with a field, on the route
of that field.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import itertools
import json
import math
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.hostile.hostile_server import (
    Case,
    Comfy,
    Request,
    answer,
    event,
    events,
    frame,
    handshake,
    output_of,
    picture,
    status,
    text,
)

__all__ = ["CASES"]

Conduct = Callable[[Comfy, Request], Awaitable[None]]
# Attempts to control the terminal, to give the CI service commands, and to break the line.
EVIL = "\x1b[2J\x1b]0;owned\x07\n::set-output name=x::y\n##vso[task.setvariable]z\r\u202e<script>alert(1)</script>"
DEEP = 100_000
# Messages per prompt; 20 µs each on an idle core.
FLOOD = 20_000
MIB = 2**20


# --- what can be wrong with any response ---


def raw(data: bytes, *, then_close: bool = True) -> Conduct:
    async def conduct(comfy: Comfy, request: Request) -> None:
        await request.send(data)
        if then_close:
            raise EOFError
        await asyncio.sleep(3600)

    return conduct


def sent(body: Any = b"", code: int | str = 200, kind: str = "application/json", *headers: str) -> Conduct:
    async def conduct(comfy: Comfy, request: Request) -> None:
        await request.send(answer(body, code, kind, *headers))

    return conduct


def lazily(make: Callable[[], bytes], *headers: str, kind: str = "application/json") -> Conduct:
    """Serve a large body, which is made when it is first needed."""
    made = functools.cache(make)

    async def conduct(comfy: Comfy, request: Request) -> None:
        await request.send(answer(made(), 200, kind, *headers))

    return conduct


def changed(change: Callable[[Any], Any]) -> Conduct:
    """Serve the valid response with a change."""

    async def conduct(comfy: Comfy, request: Request) -> None:
        body = comfy.body_of(request)
        await request.send(answer(change(json.loads(json.dumps(body)) if not isinstance(body, bytes) else body)))

    return conduct


def dripping(head: bytes, drop: bytes, every: float = 1.0) -> Conduct:
    async def conduct(comfy: Comfy, request: Request) -> None:
        await request.send(head)
        while True:
            await request.send(drop)
            await asyncio.sleep(every)

    return conduct


def pouring(head: bytes, chunk: bytes) -> Conduct:
    async def conduct(comfy: Comfy, request: Request) -> None:
        await request.send(head)
        while True:
            await request.send(chunk)

    return conduct


async def silent(comfy: Comfy, request: Request) -> None:
    await asyncio.sleep(3600)


async def closing(comfy: Comfy, request: Request) -> None:
    raise EOFError


async def resetting(comfy: Comfy, request: Request) -> None:
    await request.send(answer({"a": 1})[:-3])
    request.writer.transport.abort()


@functools.cache
def gzip_bomb() -> bytes:
    return gzip.compress(bytes(64 * MIB), 9) * 64


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"

BROKEN: dict[str, Conduct] = {
    "silent": silent,
    "closes at once": closing,
    "resets in the body": resetting,
    "drips the headers": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "drips the body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "),
    "endless headers": pouring(b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n" * 5000),
    "endless body": pouring(OPEN, b" " * MIB),
    "endless chunks": pouring(CHUNKED, b"100000\r\n" + b" " * MIB + b"\r\n"),
    "announces 8 EB": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n{"),
    "announces too much and waits": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", then_close=False),
    "announces too little": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + b"{}" * 500),
    "negative length": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
    "bad chunk size": raw(CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n"),
    "not HTTP": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "HTTP/9.9": raw(b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    "status 999": sent({}, 999),
    "status 099": sent({}, "099"),
    "status of text": sent({}, "OK"),
    "gzip bomb": lazily(gzip_bomb, "Content-Encoding: gzip"),
    "gzip of rubbish": sent(b"\x1f\x8brubbish", 200, "application/json", "Content-Encoding: gzip"),
    "unknown encoding": sent({}, 200, "application/json", "Content-Encoding: \x07br-evil"),
    "204": raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "301 to a file": sent(b"", 301, "text/plain", "Location: file:///etc/passwd"),
    "302 to another host": sent(b"", 302, "text/plain", "Location: http://169.254.169.254/latest"),
    "401 with escapes": sent(EVIL, 401, "text/plain"),
    "403": sent("no", 403, "text/plain"),
    "404": sent("404: Not Found", 404, "text/plain"),
    "429": sent("slow down", 429, "text/plain", "Retry-After: 99999999999"),
    "500 with escapes": sent(EVIL, 500, "text/plain"),
    "503 with HTML": sent("<html><h1>Bad gateway</h1></html>", 503, "text/html"),
    "500 of one line of 1 MB": lazily(lambda: b"x" * MIB, kind="text/plain"),
}
NOT_JSON: dict[str, Conduct] = {
    "empty body": sent(b""),
    "HTML": sent("<html><body>Hello</body></html>", 200, "text/html"),
    "login page": sent("<html><input type=password></html>", 200, "text/html"),
    "invalid UTF-8": sent(b'{"a": "\xff\xfe"}'),
    "UTF-16": sent("{}".encode("utf-16")),
    "unknown charset": sent(b"{}", 200, "application/json; charset=evil\x07"),
    "integer of 5,000 digits": sent(b'{"a": ' + b"9" * 5000 + b"}"),
    "deep": sent(b"[" * DEEP + b"]" * DEEP),
    "deep objects": sent(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "half deep": sent(b'{"a":' * 900 + b"1" + b"}" * 900),
    "torn": sent(b'{"a": [1, 2'),
    "list bomb": lazily(lambda: b"[" + b"[]," * 10_000_000 + b"0]"),
}
WRONG_SHAPES: dict[str, Conduct] = {
    "null": sent(b"null"),
    "NaN": sent(b"NaN"),
    "a list": sent([[], {}, None]),
    "a number": sent(b"1e999"),
    "a string": sent(b'"' + b"x" * 5000 + b'"'),
    "empty object": sent({}),
    "error in a 200": sent({"error": EVIL, "status": "error"}),
    "duplicate keys": sent(b'{"prompt_id": 1, "prompt_id": [], "system": 1, "system": {}, "a": 1, "a": 2}'),
}
NEEDED = ("GET /system_stats", "GET /object_info", "GET /queue", "GET /prompt", "POST /prompt", "GET /history")


def _each(routes: Iterable[str], ways: Mapping[str, Conduct], **more: Any) -> Iterator[Case]:
    """Yield a case for each way on each route; the tests use each way on only one of the routes."""
    routes = list(routes)
    for (at, route), (number, (name, conduct)) in itertools.product(enumerate(routes), enumerate(ways.items())):
        yield Case(f"{route}: {name}", route, conduct, tested=number % len(routes) == at, **more)


# --- fields ---


def put(*path: str | int, value: Any) -> Conduct:
    """Serve the valid response with one value replaced."""

    def change(body: Any) -> Any:
        place = body
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return body

    return changed(change)


def in_history(*path: str | int, value: Any) -> Conduct:
    def change(body: Any) -> Any:
        for prompt_id in body:
            place = body[prompt_id]
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value(prompt_id) if callable(value) else value
        return body

    return changed(change)


def _file(filename: Any, subfolder: Any = "", kind: Any = "output") -> dict[str, Any]:
    return {"2": {"images": [{"filename": filename, "subfolder": subfolder, "type": kind}]}}


ODD: dict[str, Any] = {
    "number": 7,
    "list": [],
    "null": None,
    "empty": "",
    "another": "00000000-0000-4000-8000-000000000000",
    "long": "x" * 5000,
    "control characters": EVIL,
    "traversal": "../../etc/passwd",
}

POST = "POST /prompt"
HISTORY = "GET /history"
STATS = "GET /system_stats"
INFO = "GET /object_info"
QUEUE = "GET /queue"
VIEW = "GET /view"


def _post_cases() -> Iterator[Case]:
    for name, value in ODD.items():
        yield Case(f"prompt_id: {name}", POST, put("prompt_id", value=value))
    numbers: dict[str, Any] = {"text": "1", "null": None, "NaN": math.nan, "list": [], "huge": 10**400}
    for name, number in numbers.items():
        yield Case(f"number: {name}", POST, put("number", value=number))
    shapes: dict[str, Any] = {
        "list": [1, None, {}],
        "text": "x",
        "node null": {"1": None},
        "errors null": {"1": {"errors": None}},
        "errors of texts": {"1": {"errors": ["x", 1, None]}},
        "evil": {EVIL: {"errors": [{"message": EVIL, "details": EVIL}], "class_type": EVIL}},
        "many": {str(n): {"errors": [{"message": "x" * 100}]} for n in range(20_000)},
    }
    for name, shape in shapes.items():
        yield Case(f"node_errors in a 200: {name}", POST, put("node_errors", value=shape))
        refusal = {"error": {"type": "invalid", "message": "bad prompt", "details": EVIL}, "node_errors": shape}
        yield Case(f"node_errors in a 400: {name}", POST, sent(refusal, 400))
    errors: dict[str, Any] = {"text": EVIL, "list": [], "null": None, "message list": {"message": [EVIL]}}
    for name, error in errors.items():
        yield Case(f"error in a 400: {name}", POST, sent({"error": error}, 400))


def _history_cases() -> Iterator[Case]:
    yield Case("history: another id", HISTORY, changed(lambda body: {"another": [*body.values(), None][0]}))
    yield Case("history: entry null", HISTORY, changed(dict.fromkeys))
    yield Case("history: entry list", HISTORY, changed(lambda body: {each: [] for each in body}))
    values: dict[str, Any] = {"null": None, "list": [[]], "text": EVIL, "number": 3, "nested": {"2": {"a": [[]]}}}
    for key, (name, value) in itertools.product(("outputs", "status", "prompt"), values.items()):
        yield Case(f"history {key}: {name}", HISTORY, in_history(key, value=value))
    stamps = {
        "negative": -1e15,
        "NaN": math.nan,
        "inf": math.inf,
        "huge": 10**300,
        "text": EVIL,
        "zero": 0,
        "bool": True,
    }
    for name, stamp in stamps.items():
        yield Case(f"history create_time: {name}", HISTORY, in_history("prompt", 3, "create_time", value=stamp))
        yield Case(f"event timestamp: {name}", "ws events", _restamped(stamp))
    messages: dict[str, Any] = {
        "null": None,
        "of texts": ["execution_success"] * 3,
        "of lists": [[["execution_success"], {}], [None, None], []],
        "contradict": lambda each: [[kind, {"prompt_id": each, "timestamp": 5}] for kind in KINDS],
        "in a flood": lambda each: [["execution_start", {"prompt_id": each, "timestamp": 5}]] * FLOOD,
        "of another": [["execution_error", {"prompt_id": "another"}]],
    }
    for name, value in messages.items():
        yield Case(f"history messages: {name}", HISTORY, in_history("status", "messages", value=value))


KINDS = ("execution_error", "execution_success", "execution_interrupted", "execution_start")


def _restamped(stamp: Any) -> Callable[[Comfy, str], Iterator[bytes | float]]:
    def script(comfy: Comfy, prompt_id: str) -> Iterator[bytes | float]:
        yield event("execution_start", prompt_id, timestamp=stamp)
        yield event("executed", prompt_id, node="2", output=output_of(prompt_id))
        yield event("execution_success", prompt_id, timestamp=stamp)
        yield event("executing", prompt_id, node=None)

    return script


# --- outputs and the responses of /view ---


def _with_outputs(outputs: Any) -> Callable[[Comfy, str], Iterator[bytes | float]]:
    def script(comfy: Comfy, prompt_id: str) -> Iterator[bytes | float]:
        for each in events(comfy, prompt_id):
            if isinstance(each, bytes) and b'"executed"' in each:
                for node, output in outputs.items():
                    yield event("executed", prompt_id, node=node, output=output)
            else:
                yield each

    return script


def _png_of(width: int, height: int) -> bytes:
    """Return a PNG that claims this size but has no image content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(MIB))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _output_cases() -> Iterator[Case]:
    odd: dict[str, Any] = {
        "absolute": _file("/etc/passwd"),
        "traversal": _file("../../../etc/passwd", "../.."),
        "control characters": _file(EVIL + ".png", EVIL, EVIL),
        "NUL": _file("a\0b.png"),
        "long": _file("x" * 100_000 + ".png"),
        "half a character": _file("\ud800.png"),
        "number": _file(7),
        "subfolder list": _file("a.png", [], {}),
        "no lists": {"2": {"images": {"filename": "a"}}},
        "null": {"2": None},
        "html": _file("<script>alert(1)</script>.html"),
        "100,000 files": {"2": {"images": [{"filename": f"{number}.png"} for number in range(100_000)]}},
        "5,000 texts": {"2": {"text": [EVIL * 20] * 5000}},
        "deep": {"2": {"images": json.loads("[" * 500 + "]" * 500)}},
    }
    for name, outputs in odd.items():
        yield Case(f"outputs: {name}", "ws events", _with_outputs(outputs))
    views: dict[str, Conduct] = {
        "empty": sent(b"", 200, "image/png"),
        "truncated PNG": lazily(lambda: picture()[:300], kind="image/png"),
        "60,000 × 60,000": lazily(lambda: _png_of(60_000, 60_000), kind="image/png"),
        "SVG with a script": sent("<svg onload='alert(1)'/>", 200, "image/svg+xml"),
        "JSON": sent({"error": EVIL}),
        "no picture": sent(b"GIF89a" + b"\0" * 100, 200, "image/png"),
    }
    for name, conduct in views.items():
        yield Case(f"/view: {name}", VIEW, conduct)
    yield from _each([VIEW], BROKEN)


# --- the queue, the server, and its node classes ---


def _queue_cases() -> Iterator[Case]:
    foreign = [1, "another", {}, {}, []]
    odd: dict[str, Any] = {
        "running null": {"queue_running": None, "queue_pending": None},
        "texts": {"queue_running": "x", "queue_pending": EVIL},
        "items of texts": {"queue_running": ["a"], "queue_pending": [["a", "b"], [None, None], [1]]},
        "numbers as ids": {"queue_running": [[1, 2, 3, 4]], "queue_pending": [[2**70, 1]]},
        "NaN numbers": {"queue_running": [], "queue_pending": [[math.nan, "a", {}, {}], [math.inf, "b", {}, {}]]},
        "evil run tags": {"queue_running": [[1, EVIL, {}, {"comfyload": {"run": EVIL}}, []]], "queue_pending": []},
        "tags of lists": {"queue_running": [[1, "a", {}, {"comfyload": [1]}, []]], "queue_pending": []},
        "100,000 runs": {
            "queue_running": [],
            "queue_pending": [[n, f"a{n}", {}, {"comfyload": {"run": f"r{n}"}}, []] for n in range(100_000)],
        },
        "100,000 foreign": {"queue_running": [foreign], "queue_pending": [foreign] * 100_000},
    }
    for name, body in odd.items():
        yield Case(f"queue: {name}", QUEUE, sent(body))
        if "100,000" not in name:
            yield Case(f"queue while waiting: {name}", QUEUE, sent(body), silent=True)


def _stats_cases() -> Iterator[Case]:
    device = {"name": "a", "type": "cuda", "index": 0, "vram_total": 1e9, "vram_free": 5e8}
    odd: dict[str, Any] = {
        "null": None,
        "empty": [],
        "text": EVIL,
        "of texts": ["cuda", 1, None],
        "of wrong types": [{"name": [], "type": {}, "index": "x", "vram_total": "y", "vram_free": []}],
        "negative": [{**device, "vram_total": -5, "vram_free": -1e300}],
        "NaN": [{**device, "vram_total": math.nan, "vram_free": math.inf, "torch_vram_total": math.nan}],
        "huge": [{**device, "vram_total": 10**4000, "vram_free": 1}],
        "evil names": [{**device, "name": EVIL, "type": EVIL}],
        "name of 1 MB": [{**device, "name": "x" * MIB, "type": "x" * MIB}],
        "10,000": [{**device, "index": n, "torch_vram_total": 1e8} for n in range(10_000)],
        "10,000 of one name": [{**device, "torch_vram_total": 1e8}] * 10_000,
    }
    for name, devices in odd.items():
        yield Case(f"devices: {name}", STATS, put("devices", value=devices))
    words: dict[str, Any] = {"list": [], "evil": EVIL, "long": "9" * MIB, "null": None, "object": {"a": EVIL}}
    for name, value in words.items():
        yield Case(f"version: {name}", STATS, put("system", "comfyui_version", value=value))
        yield Case(f"argv: {name}", STATS, put("system", "argv", value=value))
    scales: dict[str, Any] = {"tiny": 1e-300, "huge": 1e300, "negative": -1, "NaN": math.nan, "list": []}
    for name, scale in scales.items():
        yield Case(f"time scale: {name}", STATS, put("system", "simulator", value={"time_scale": scale}))
    yield Case("RAM: NaN", STATS, put("system", "ram_total", value=math.nan))
    for name, conduct in {
        "silent": silent,
        "closes at once": closing,
        "500": sent("x", 500),
        "null": sent(None),
    }.items():
        yield Case(f"/system_stats after the first: {name}", STATS, _after(1, conduct))


def _after(count: int, conduct: Conduct) -> Conduct:
    """Behave correctly `count` times before misbehaving."""

    async def late(comfy: Comfy, request: Request) -> None:
        route = f"{request.method} /{request.path.split('/')[1]}"
        await (comfy.behave(request) if comfy.asked[route] <= count else conduct(comfy, request))

    return late


def _info_cases() -> Iterator[Case]:
    shapes: dict[str, Any] = {
        "class null": None,
        "class list": [],
        "input null": {"input": None},
        "input list": {"input": [1]},
        "required list": {"input": {"required": ["seed"]}},
        "spec null": {"input": {"required": {"seed": None, "steps": 3, "x": "INT", "y": []}}},
        "spec of lists": {"input": {"required": {"seed": [[], []], "steps": [[[[]]], {}], "images": [{}, {}]}}},
        "bounds of texts": {"input": {"required": {"seed": ["INT", {"min": "a", "max": []}]}}},
        "bounds of NaN": {"input": {"required": {"seed": ["INT", {"min": math.nan, "max": math.inf}]}}},
        "bounds reversed": {"input": {"required": {"seed": ["INT", {"min": 10, "max": -10}]}}},
        "bounds huge": {"input": {"required": {"seed": ["INT", {"min": 10**4000, "max": 10**4001}]}}},
        "evil names": {"input": {"required": {EVIL: ["INT", {}], "a" * 5000: [[EVIL], {}]}}, "output_node": True},
        "100,000 options": {"input": {"required": {"seed": ["INT"], "z": [[f"m{n}" for n in range(100_000)], {}]}}},
        "output_node text": {"input": {}, "output_node": EVIL, "output": 3},
        "api node": {"input": {}, "output_node": True, "api_node": EVIL},
        "names itself": {
            "input": {"required": {"seed": ["KSampler", {"options": ["KSampler"]}]}},
            "output": ["KSampler"],
        },
    }
    for name, shape in shapes.items():
        yield Case(f"object_info: {name}", INFO, _described(shape))
    yield Case("object_info: of 50 MB", INFO, lazily(lambda: json.dumps({"KSampler": {"x": "y" * 50 * MIB}}).encode()))
    many = functools.cache(lambda: json.dumps({f"Class{n}{EVIL}": {"input": {}} for n in range(50_000)}).encode())
    yield Case("object_info: 50,000 other classes", INFO, lazily(many))


def _described(shape: Any) -> Conduct:
    return changed(lambda body: dict.fromkeys(body, shape))


# --- the WebSocket ---


def _handshake_cases() -> Iterator[Case]:
    ws = "GET /ws"

    def shaking(**changes: Any) -> Conduct:
        async def conduct(comfy: Comfy, request: Request) -> None:
            await request.send(handshake(request, changes.get("accept"), 101, *changes.get("headers", ())))
            await asyncio.sleep(3600)

        return conduct

    ways: dict[str, Conduct] = {
        "silent": silent,
        "closes at once": closing,
        "drips the headers": dripping(b"HTTP/1.1 101 Switching Protocols\r\nX: ", b"y"),
        "endless headers": pouring(b"HTTP/1.1 101 S\r\n", b"X-Header: y\r\n" * 5000),
        "endless header line": pouring(b"HTTP/1.1 101 S\r\nX: ", b"y" * MIB),
        "wrong accept key": shaking(accept="bm90IHRoZSByaWdodCBrZXk="),
        "evil accept key": shaking(accept="\x1b[2J::set-output name=x::y"),
        "unasked extension": shaking(headers=("Sec-WebSocket-Extensions: permessage-deflate",)),
        "unasked subprotocol": shaking(headers=("Sec-WebSocket-Protocol: evil",)),
        "200": sent({}),
        "301 to a file": BROKEN["301 to a file"],
        "302 to another host": BROKEN["302 to another host"],
        "401": sent(EVIL, 401),
        "404": sent("x", 404),
        "500 with escapes": sent(EVIL, 500),
        "status 999": sent(EVIL, 999),
        "not HTTP": BROKEN["not HTTP"],
        "HTTP/9.9": BROKEN["HTTP/9.9"],
        "endless body of a 500": pouring(b"HTTP/1.1 500 No\r\n\r\n", b" " * MIB),
    }
    for name, conduct in ways.items():
        yield Case(f"handshake: {name}", ws, conduct)
    cookies = [f"Set-Cookie: c{number}={'x' * 4000}" for number in range(100)]
    yield Case("handshake: 400 kB of cookies", "GET /prompt", sent({}, 200, "application/json", *cookies))


def _greeting_cases() -> Iterator[Case]:
    def giving(*steps: bytes | float) -> Any:
        return lambda comfy, client_id: steps

    ways: dict[str, Any] = {
        "none": giving(),
        "another message": giving(text({"type": "hello", "data": {}})),
        "pings only": lambda comfy, client_id: itertools.chain.from_iterable(
            zip(itertools.repeat(frame(b"p", 9)), itertools.repeat(0.02))
        ),
        "close frame": giving(frame(b"\x03\xe8" + EVIL.encode()[:100], 8)),
        "reserved opcode": giving(frame(b"x", 11)),
        "a status of text": giving(status("many")),
    }
    for name, conduct in ways.items():
        yield Case(f"greeting: {name}", "ws greeting", conduct)


Script = Callable[[Comfy, str], Iterable[bytes | float]]


def after_start(*steps: bytes | float) -> Script:
    """Insert `steps` in the middle of a prompt, which otherwise continues normally."""

    def script(comfy: Comfy, prompt_id: str) -> Iterator[bytes | float]:
        begun, rest = itertools.tee(events(comfy, prompt_id))
        yield from itertools.islice(begun, 4)
        yield from steps
        yield from itertools.islice(rest, 4, None)

    return script


def told(make: Callable[[str], Iterable[bytes]]) -> Script:
    """Insert, like `after_start`, the steps that `make` returns for the prompt."""
    return lambda comfy, prompt_id: after_start(*make(prompt_id))(comfy, prompt_id)


def only(make: Callable[[str], Iterable[bytes | float]]) -> Script:
    return lambda comfy, prompt_id: make(prompt_id)


_flood = functools.cache(
    lambda: b"".join(
        event(kind, f"foreign-{number}", node="1", value=1, max=2, timestamp=1)
        for number in range(FLOOD // 5)
        for kind in ("execution_start", "executing", "progress", "execution_success", "made_up")
    )
)


def _frame_cases() -> Iterator[Case]:
    """Yield cases of invalid frames and messages."""
    ways: dict[str, Script] = {
        "closes": only(lambda _: [frame(b"\x03\xe8", 8)]),
        "closes with an evil reason": only(lambda _: [frame(b"\x03\xe8" + EVIL.encode()[:100], 8)]),
        "masked": after_start(frame(b"{}", mask=True)),
        "reserved bits": after_start(frame(b"{}", reserved=7)),
        "reserved opcode": after_start(frame(b"{}", 5)),
        "announces 1 GiB": after_start(frame(b"{", length=2**30)),
        "announces 63 MiB and waits": after_start(frame(b"{", length=63 * MIB), 30.0),
        "fragments for ever": only(lambda _: itertools.chain([frame(b"[", fin=False)], itertools.repeat(_fragment()))),
        "empty fragments for ever": only(
            lambda _: itertools.chain([frame(b"[", fin=False)], itertools.cycle([frame(b"", 0, fin=False) * 500, 0.05]))
        ),
        "a continuation of nothing": after_start(frame(b"{}", 0)),
        "ping flood": after_start(frame(b"ping", 9) * FLOOD),
        "long ping": after_start(frame(b"x" * 126, 9)),
        "invalid UTF-8": after_start(frame(b"\xff\xfe\xfd")),
        "BOM": after_start(text(b'\xef\xbb\xbf{"type": "status"}')),
        "NaN": after_start(text(b'{"type": "status", "data": NaN}')),
        "deep": after_start(text(b"[" * DEEP + b"]" * DEEP)),
        "deep data": after_start(text(b'{"type": "status", "data": ' + b"[" * 900 + b"]" * 900 + b"}")),
        "integer of 5,000 digits": after_start(text(b'{"type": ' + b"9" * 5000 + b"}")),
        "list bomb": after_start(text(b"[" + b"[]," * 4_000_000 + b"0]")),
        "null": after_start(text(None)),
        "list": after_start(text([])),
        "foreign prompts": lambda comfy, prompt_id: after_start(_flood())(comfy, prompt_id),
        "unknown binary": after_start(frame(b"\0\0\0\x63" + b"x" * 1000, 2)),
        "short binary": after_start(frame(b"\0", 2)),
        "preview of rubbish": after_start(frame(b"\0\0\0\x01\xff\xff\xff\xff" + b"x" * 1000, 2)),
        "preview with bad metadata": after_start(frame(b"\0\0\0\x04\xff\xff\xff\xff{", 2)),
        "preview with deep metadata": after_start(
            frame(b"\0\0\0\x04" + struct.pack(">I", 2 * DEEP) + b"[" * DEEP + b"]" * DEEP, 2)
        ),
        "preview of 60 MiB": after_start(frame(b"\0\0\0\x01\0\0\0\x01" + bytes(60 * MIB), 2)),
        "pictures for ever": only(
            lambda each: itertools.chain(
                [event("execution_start", each, timestamp=1), event("executing", each, node="2")],
                itertools.cycle([frame(b"\0\0\0\x01\0\0\0\x02\x89PNG\r\n\x1a\n" + bytes(8 * MIB), 2), 0.1]),
            )
        ),
        "text event of rubbish": after_start(frame(b"\0\0\0\x03\xff\xff\xff\xff\xff", 2)),
    }
    for name, conduct in ways.items():
        # The number of images before the timeout depends on the speed of the machine.
        yield Case(f"frame: {name}", "ws events", conduct, tested=name != "pictures for ever")


@functools.cache
def _fragment() -> bytes:
    return frame(b"[" * MIB, 0, fin=False)


_WRONG: tuple[Any, ...] = (1, [], {}, True)


def _event_cases() -> Iterator[Case]:
    """Yield cases of valid messages with strange content or in strange orders."""
    error = {"node_id": "1", "node_type": "KSampler", "exception_type": "ValueError", "exception_message": EVIL}
    ways: dict[str, Script] = {
        "progress beyond its maximum": told(lambda each: [event("progress", each, node="1", value=9e9, max=4)]),
        "progress of NaN": told(lambda each: [event("progress", each, node="1", value=math.nan, max=math.inf)]),
        "progress of texts": told(lambda each: [event("progress", each, node=[], value="1", max=None)]),
        "progress falling": told(lambda each: [event("progress", each, node="1", value=-n, max=0) for n in range(99)]),
        "steps in a flood": told(
            lambda each: [b"".join(event("progress", each, node="1", value=n, max=4) for n in range(FLOOD))]
        ),
        "nodes in a flood": told(lambda each: [b"".join(event("executing", each, node=f"n{n}") for n in range(FLOOD))]),
        "unknown nodes": told(lambda each: [event("executing", each, node=node) for node in ("99", EVIL, "x" * 5000)]),
        "nodes of wrong types": told(lambda each: [event("executing", each, node=node) for node in _WRONG]),
        "cached nodes of wrong types": told(lambda each: [event("execution_cached", each, nodes=[1, None])]),
        "all nodes cached": told(lambda each: [event("execution_cached", each, nodes=["1", "2"])]),
        "progress_state of rubbish": told(lambda each: [event("progress_state", each, nodes={"1": 3, "2": {}})]),
        "data null": after_start(text({"type": "execution_success", "data": None})),
        "type list": after_start(text({"type": [], "data": {}})),
        "prompt_id list": after_start(text({"type": "execution_success", "data": {"prompt_id": []}})),
        "queue of −5": after_start(status(-5)),
        "queue of 10**300": after_start(
            text(b'{"type":"status","data":{"status":{"exec_info":{"queue_remaining":1e300}}}}')
        ),
        "queue of a million": after_start(status(10**6)),
        "every event twice": lambda comfy, each: itertools.chain(events(comfy, each), events(comfy, each)),
        "in reverse": lambda comfy, each: reversed([step for step in events(comfy, each) if isinstance(step, bytes)]),
        "success and error": told(
            lambda each: [event("execution_success", each, timestamp=1), event("execution_error", each, **error)]
        ),
        "error and success": told(
            lambda each: [event("execution_error", each, **error), event("execution_success", each, timestamp=1)]
        ),
        "error of wrong types": told(lambda each: [event("execution_error", each, node_id=1, exception_message=[])]),
        "error of 10 MB": only(
            lambda each: [event("execution_error", each, **{**error, "exception_message": EVIL * 100_000})]
        ),
        "no success, but a history": only(lambda each: [event("execution_start", each, timestamp=1)]),
        "no event at all, but a history": only(lambda each: []),
        "interrupted": told(lambda each: [event("execution_interrupted", each, node_id="1", node_type=EVIL)]),
        "executed without an end": only(
            lambda each: itertools.chain.from_iterable(
                [event("executed", each, node="2", output=output_of(each)), 0.01] for _ in itertools.count()
            )
        ),
        "progress for ever": only(
            lambda each: itertools.chain.from_iterable(
                [event("progress", each, node="1", value=1, max=4) * 20, 0.01] for _ in itertools.count()
            )
        ),
    }
    for name, conduct in ways.items():
        yield Case(f"event: {name}", "ws events", conduct)


# --- other requests ---


def _other_cases() -> Iterator[Case]:
    some = {
        name: {**BROKEN, **NOT_JSON, **WRONG_SHAPES}[name]
        for name in (
            "silent",
            "closes at once",
            "drips the body",
            "endless body",
            "gzip bomb",
            "500 with escapes",
            "deep",
            "null",
            "NaN",
            "list bomb",
        )
    }
    yield from _each(["POST /upload", "HEAD /view"], some, load="upload")
    yield from _each(["POST /queue", "POST /interrupt"], some, silent=True)
    for number, case in enumerate(_each(["POST /free"], some, load="ab")):
        yield replace(case, tested=number == 0)
    yield from _each(["GET /internal", "GET /customnode", "GET /experiment", "GET /metrics"], some)
    for name, conduct in _metrics().items():
        yield Case(f"/metrics: {name}", "GET /metrics", conduct)
        yield Case(f"exporter: {name}", "GET /metrics", conduct, load="exporter")
    yield Case("exporter: silent", "GET /metrics", silent, load="exporter")
    yield Case("exporter: silent after the first", "GET /metrics", _after(2, silent), load="exporter")
    for number, (route, name) in enumerate(itertools.product(BEHIND, ("silent", "closes at once", "deep", "null"))):
        conduct = {**BROKEN, **NOT_JSON, **WRONG_SHAPES}[name]
        # Each of these takes a process of its own.
        yield Case(f"worker {route}: {name}", route, conduct, load="worker", tested=number % 7 == 0)
    packs: dict[str, Any] = {
        "list": [],
        "evil": {EVIL: {"ver": EVIL}, "../../x": {"ver": 3}, "a" * 5000: {"ver": "1" * 5000}},
        "100,000": {f"p{n}": {"ver": "1"} for n in range(100_000)},
    }
    for name, body in packs.items():
        yield Case(f"custom nodes: {name}", "GET /customnode", sent(body))


def _metrics() -> dict[str, Conduct]:
    good = b'DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",modelName="A"} 5\n'
    bodies = {
        "evil labels": good.replace(b'"A"', json.dumps(EVIL).encode()).replace(b"GPU-a", b"GPU\x1b[2J"),
        "NaN": good.replace(b" 5", b" NaN"),
        "1e300": good.replace(b" 5", b" 1e300"),
        "negative": good.replace(b" 5", b" -7"),
        "10,000 cards": b"".join(good.replace(b"GPU-a", f"GPU-{n}".encode()) for n in range(10_000)),
        "one line of 10 MB": b'DCGM_FI_DEV_GPU_UTIL{a="' + b"x" * 10 * MIB,
        "a million braces": b"DCGM_FI_DEV_GPU_UTIL" + b"{" * 10**6,
        "invalid UTF-8": good.replace(b"GPU-a", b"\xff\xfe"),
        "throttle reasons of 1e300": good + b'DCGM_FI_DEV_CLOCK_THROTTLE_REASONS{gpu="0",UUID="GPU-a"} 1e300\n',
        "energy falling": good + b'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a"} -1e18\n',
    }
    return {name: sent(body, 200, "text/plain") for name, body in bodies.items()}


BEHIND = ("GET /system_stats", "GET /queue", "GET /history", "GET /object_info")


async def _frozen(comfy: Comfy, request: Request) -> None:
    """Behave until a prompt was accepted, and then stop answering, as a stopped process does."""
    if comfy.graphs:
        await asyncio.sleep(3600)
    await comfy.behave(request)


def _whole_server_cases() -> Iterator[Case]:
    yield Case("never accepts", "listen", None)
    yield Case("accepts and is silent", "connect", silent)
    yield Case("closes each connection", "connect", closing)
    yield Case("sends before it is asked", "connect", raw(b"220 smtp.example ESMTP\r\n"))
    yield Case("sends for ever before it is asked", "connect", pouring(b"", b"x" * MIB))
    yield Case("freezes after the first prompt", "*", _frozen, silent=True)
    yield Case("drips everything", "*", dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "))
    yield Case("500 for everything", "*", sent(EVIL, 500))
    yield Case("an empty object for everything", "*", sent({}))
    yield Case("never executes", "none", None, silent=True)
    yield Case("as it should be", "none", None)


def _every_other(cases: Iterable[Case]) -> Iterator[Case]:
    """Mark only every other case for the tests."""
    for number, case in enumerate(cases):
        yield replace(case, tested=case.tested and number % 2 == 0)


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        *_whole_server_cases(),
        *_each(NEEDED, BROKEN),
        *_each(NEEDED, NOT_JSON),
        *_each(NEEDED, WRONG_SHAPES),
        *_every_other(_post_cases()),
        *_every_other(_history_cases()),
        *_every_other(_output_cases()),
        *_every_other(_queue_cases()),
        *_every_other(_stats_cases()),
        *_every_other(_info_cases()),
        *_every_other(_handshake_cases()),
        *_greeting_cases(),
        *_every_other(_frame_cases()),
        *_every_other(_event_cases()),
        *_every_other(_other_cases()),
    )
}
