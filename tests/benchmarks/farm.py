"""A fast stand-in for a farm of ComfyUI servers: every prompt takes the given seconds, any number of them at once.

    python -m tests.benchmarks.farm SECONDS     prints its URL; loopback only; stops when its stdin is closed

It implements HTTP and WebSockets on plain sockets, so that it costs less than the client that is measured. Like a real
server, it sends the length of the queue to each WebSocket three times per prompt.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

from tests.run.fast_server import INFO, STATS, picture

__all__ = ["farm"]

# Length of the history, as in ComfyUI.
MOST_KEPT = 10_000
_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@contextlib.contextmanager
def farm(seconds: float) -> Iterator[str]:
    """Run a farm in a process of its own and yield its URL."""
    command = [sys.executable, "-m", "tests.benchmarks.farm", str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class _Farm:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.sockets: dict[str, asyncio.Transport] = {}
        self.history: dict[str, Any] = {}
        self.queued = 0

    def submit(self, body: dict[str, Any]) -> None:
        created = _now()
        self.queued += 1
        self.tell_queue()
        asyncio.get_running_loop().call_soon(self.begin, body, created)

    def begin(self, body: dict[str, Any], created: int) -> None:
        self.tell_queue()
        start = {"prompt_id": body["prompt_id"], "timestamp": _now()}
        self.send(body, "execution_start", start)
        self.send(body, "execution_cached", {"nodes": [], **start})
        for node in body["prompt"]:
            states = {node: {"value": 0, "max": 1, "state": "running"}}
            self.send(body, "progress_state", {"nodes": states, "prompt_id": body["prompt_id"]})
            self.send(body, "executing", {"node": node, "prompt_id": body["prompt_id"]})
        asyncio.get_running_loop().call_later(self.seconds, self.end, body, created, start)

    def end(self, body: dict[str, Any], created: int, start: dict[str, Any]) -> None:
        prompt_id, graph = body["prompt_id"], body["prompt"]
        last = list(graph)[-1]
        output = {"images": [{"filename": f"{prompt_id}.png", "subfolder": "", "type": "output"}]}
        self.send(body, "executed", {"node": last, "output": output, "prompt_id": prompt_id})
        end = {"prompt_id": prompt_id, "timestamp": _now()}
        self.send(body, "execution_success", end)
        self.history[prompt_id] = {
            "prompt": [0, prompt_id, graph, {**body.get("extra_data", {}), "create_time": created}, [last]],
            "outputs": {last: output},
            "status": {"messages": [["execution_start", start], ["execution_success", end]]},
        }
        if len(self.history) > MOST_KEPT:
            del self.history[next(iter(self.history))]
        self.queued -= 1
        self.send(body, "executing", {"node": None, "prompt_id": prompt_id})
        self.tell_queue()

    def send(self, body: dict[str, Any], kind: str, data: dict[str, Any]) -> None:
        if (socket := self.sockets.get(body["client_id"])) is not None:
            socket.write(_frame(kind, data))

    def tell_queue(self) -> None:
        frame = _frame("status", {"status": {"exec_info": {"queue_remaining": self.queued}}})
        for socket in self.sockets.values():
            socket.write(frame)


class _Connection(asyncio.Protocol):
    def __init__(self, farm: _Farm) -> None:
        self._farm = farm
        self._received = b""
        self._client_id: str | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._client_id is not None:
            self._farm.sockets.pop(self._client_id, None)

    def data_received(self, data: bytes) -> None:
        if self._client_id is not None:
            # Only close frames are of interest.
            if data[:1] == b"\x88":
                self._transport.write(b"\x88\x00")
                self._transport.close()
            return
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].decode("latin-1")
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
            size = int(fields.get("content-length", 0))
            if len(self._received) < end + 4 + size:
                return
            body, self._received = self._received[end + 4 : end + 4 + size], self._received[end + 4 + size :]
            method, target, _ = head.split("\r\n", 1)[0].split(" ")
            self._answer(method, target, head, body)

    def _answer(self, method: str, target: str, head: str, body: bytes) -> None:
        path, _, query = target.partition("?")
        place, _, name = path[1:].partition("/")
        if path == "/ws":
            self._open_socket(parse_qs(query)["clientId"][0], head)
        elif path == "/prompt" and method == "POST":
            prompt = json.loads(body)
            self._send({"prompt_id": prompt["prompt_id"], "number": 1, "node_errors": {}})
            self._farm.submit(prompt)
        elif path == "/view":
            self._send_bytes(_PICTURE, "image/png")
        else:
            bodies: dict[str, Any] = {
                "prompt": {"exec_info": {"queue_remaining": self._farm.queued}},
                "history": {name: self._farm.history[name]} if name in self._farm.history else {},
                "queue": {"queue_running": [], "queue_pending": []},
                "system_stats": STATS,
                "object_info": {name: INFO[name]} if name in INFO else INFO,
            }
            self._send(bodies[place]) if place in bodies else self._send_bytes(b"", "text/plain", "404 Not Found")

    def _open_socket(self, client_id: str, head: str) -> None:
        lines = (line.split(": ", 1) for line in head.split("\r\n")[1:])
        [key] = [value for name, value in lines if name.lower() == "sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1(key.encode() + _KEY).digest()).decode()
        self._transport.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        self._client_id = client_id
        self._farm.sockets[client_id] = self._transport
        greeting = {"status": {"exec_info": {"queue_remaining": self._farm.queued}}, "sid": client_id}
        self._transport.write(_frame("status", greeting))

    def _send(self, body: object) -> None:
        self._send_bytes(json.dumps(body).encode(), "application/json")

    def _send_bytes(self, body: bytes, kind: str, status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


_PICTURE = picture()


def _frame(kind: str, data: dict[str, Any]) -> bytes:
    body = json.dumps({"type": kind, "data": data}).encode()
    length = bytes([len(body)]) if len(body) < 126 else b"\x7e" + len(body).to_bytes(2)
    return b"\x81" + length + body


def _now() -> int:
    """Return the time as ComfyUI stamps it: whole milliseconds since the epoch."""
    return int(time.time() * 1000)


async def _serve(seconds: float) -> None:
    running = _Farm(seconds)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(running), "127.0.0.1", 0, backlog=2000)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    # Writes to clients that have disconnected are not worth a warning.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    asyncio.run(_serve(float(sys.argv[1])))
