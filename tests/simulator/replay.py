"""Replays a recording against a server, over real sockets, and records its answers.

Timing does not depend on the clock: an action is performed when every open socket has received as many frames as it had
received in the recording before that action. For a socket that joined a running node, the steps of that node do not
count, because how many of them it sees depends on timing.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

__all__ = ["NOT_EMULATED", "RECORDINGS", "Case", "Frame", "Replay", "is_step", "joined_late", "load", "replay"]

RECORDINGS = Path(__file__).parents[1] / "recordings"
NOT_EMULATED = {"assets_txt2img": "recorded with --enable-assets, which is off by default"}
_PATIENCE = 10.0
_BEFORE = 1e-6

Frame = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One recording: its HTTP exchanges in order, and what each client received."""

    name: str
    http: list[dict[str, Any]]
    sockets: dict[str, list[Frame]]


@dataclass
class Replay:
    """The answers of the server under test: one per exchange, the frames per client, and its own prompt ids."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    sockets: dict[str, list[Frame]] = field(default_factory=dict)
    prompt_ids: dict[str, str] = field(default_factory=dict)


def load(version: str) -> list[Case]:
    """Return the recordings of one version in the order in which they were made."""
    cases = []
    for path in sorted((RECORDINGS / version).glob("*.json")):
        if path.stem in NOT_EMULATED:
            continue
        data = json.loads(path.read_text(encoding="utf-8"))
        cases.append(Case(data["case"], data["http"], data["websocket"]))
    return sorted(cases, key=_position)


def _position(case: Case) -> tuple[float, str]:
    numbers = [exchange["response"].get("number") for exchange in case.http if isinstance(exchange["response"], dict)]
    # A rejected prompt is also assigned a number, which no response contains.
    refused = {"txt2img_own_prompt_id": 5.0}.get(case.name, -1.0)
    return next((number for number in numbers if number is not None), refused), case.name


def received(frames: list[Frame]) -> list[Frame]:
    """Return the frames that a client received, without those it sent and the close of the socket."""
    return [frame for frame in frames if "text" in frame or "binary" in frame]


def joined_late(frames: list[Frame]) -> bool:
    """Return whether the socket was opened while a prompt of its client was running."""
    texts = [frame["text"] for frame in received(frames) if "text" in frame]
    return len(texts) > 1 and texts[1]["type"] == "executing"


def is_step(frame: Frame) -> bool:
    """Return whether a frame reports a step of a running node."""
    if "binary" in frame or frame["text"]["type"] == "progress":
        return True
    states = frame["text"]["data"].get("nodes", {}) if frame["text"]["type"] == "progress_state" else {}
    return any(state["state"] == "running" and state["value"] >= 1 for state in states.values())


async def replay(case: Case, url: str, is_ignored: Callable[[Frame], bool] = lambda frame: False) -> Replay:
    """Replay `case` against the server at `url`.

    A frame that never arrives ends the replay, and is missing from the result. Of ignored frames, only the first one of
    a client counts.
    """
    player = _Player(case, url, is_ignored)
    async with aiohttp.ClientSession() as session:
        with suppress(TimeoutError):
            for _, act in sorted(player.actions(session), key=lambda timed: timed[0]):
                await act()
        await player.close()
    return player.result


class _Player:
    def __init__(self, case: Case, url: str, is_ignored: Callable[[Frame], bool]) -> None:
        self.result = Replay()
        self._is_ignored = is_ignored
        self._case = case
        self._url = url
        self._open: dict[str, _Client] = {}

    def actions(self, session: aiohttp.ClientSession) -> list[tuple[float, Any]]:
        """Return the actions of the recording with their recorded times."""
        acts: list[tuple[float, Any]] = []
        for exchange in self._case.http:
            acts.append((exchange["t"], lambda exchange=exchange: self._exchange(session, exchange)))
        for name, frames in self._case.sockets.items():
            ended = next((frame["t"] for frame in frames if "closed" in frame or "ended" in frame), None)
            acts.append((self._opened(frames), lambda name=name: self._connect(session, name)))
            if ended is not None:
                acts.append((ended, lambda name=name, ended=ended: self._disconnect(name, ended)))
        return acts

    def _opened(self, frames: list[Frame]) -> float:
        """Return the time of the first frame, or a time before the first prompt if the socket found an empty queue."""
        first = received(frames)[0]
        prompts = [exchange["t"] for exchange in self._case.http if exchange["path"] == "/prompt"]
        empty = first["text"]["data"]["status"]["exec_info"]["queue_remaining"] == 0
        return float(min([first["t"], *prompts]) - _BEFORE if empty else first["t"])

    async def close(self) -> None:
        for name in list(self._open):
            await self._open.pop(name).close()

    async def _connect(self, session: aiohttp.ClientSession, name: str) -> None:
        frames = self._case.sockets[name]
        sid = received(frames)[0]["text"]["data"]["sid"]
        socket = await session.ws_connect(f"{self._url}/ws?clientId={sid}", max_msg_size=0)
        for frame in frames:
            if "sent" in frame:
                await socket.send_json(frame["sent"])
        self._open[name] = _Client(socket, self.result.sockets.setdefault(name, []), self._is_ignored)

    async def _disconnect(self, name: str, moment: float) -> None:
        await self._catch_up(moment)
        await self._open.pop(name).close()

    async def _exchange(self, session: aiohttp.ClientSession, exchange: dict[str, Any]) -> None:
        await self._catch_up(exchange["t"])
        url = self._url + self._ours(exchange["path"])
        async with session.request(exchange["method"], url, **self._body(exchange)) as response:
            answer = await _answer(response)
        self.result.answers.append(answer)
        if exchange["path"] == "/prompt" and exchange["method"] == "POST" and response.status == 200:
            self.result.prompt_ids[exchange["response"]["prompt_id"]] = answer["response"]["prompt_id"]

    def _body(self, exchange: dict[str, Any]) -> dict[str, Any]:
        request = exchange["request"]
        if exchange["path"].startswith("/upload/"):
            return {"data": _upload(re.findall(r'filename="([^"]+)"', request["raw"])[0])}
        if isinstance(request, dict) and "raw" in request:
            return {"data": request["raw"]}
        return {} if request is None else {"json": json.loads(self._ours(json.dumps(request)))}

    def _ours(self, text: str) -> str:
        """Return the text with the recorded server's prompt ids replaced by those of the server under test."""
        for recorded, ours in self.result.prompt_ids.items():
            text = text.replace(recorded, ours)
        return text

    async def _catch_up(self, moment: float) -> None:
        for name, client in self._open.items():
            frames = self._case.sockets[name]
            late = joined_late(frames)
            due = [f for f in received(frames) if f["t"] < moment and not (late and is_step(f))]
            await client.has(len(due), without_steps=late)


class _Client:
    """A WebSocket client that records every frame."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, frames: list[Frame], is_ignored: Callable[[Frame], bool]
    ) -> None:
        self._is_ignored = is_ignored
        self._socket = socket
        self._frames = frames
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def has(self, count: int, without_steps: bool) -> None:
        """Return when at least `count` frames have arrived."""
        while len([f for f in self._frames if not (without_steps and is_step(f))]) < count:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), _PATIENCE)

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                frame = {"text": json.loads(message.data)}
            else:
                frame = {"binary": {"bytes": len(message.data), "head_hex": message.data[:64].hex()}}
            if not self._frames or not self._is_ignored(frame):
                self._frames.append(frame)
            self._news.set()


async def _answer(response: aiohttp.ClientResponse) -> dict[str, Any]:
    content_type = response.headers.get("Content-Type")
    content = await response.read()
    said: Any = {"bytes": len(content), "head_hex": content[:16].hex()}
    if content_type and content_type.startswith("application/json"):
        said = json.loads(content)
    elif content_type is None or content_type.startswith(("text/", "application/octet-stream")):
        said = {"text": content.decode()}
    return {"status": response.status, "content_type": content_type, "response": said}


def _upload(filename: str) -> aiohttp.FormData:
    out = io.BytesIO()
    Image.new("RGBA", (64, 64), (200, 80, 40, 128)).save(out, "PNG")
    form = aiohttp.FormData()
    form.add_field("image", out.getvalue(), filename=filename, content_type="image/png")
    return form
