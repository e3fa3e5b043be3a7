"""Accepted and deleted prompts, from the lengths of a queue: a model of a server, and real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.monitor import queue_events
from pytest_comfyload.monitor.queue_events import QueueCounts, QueueEvents
from pytest_comfyload.monitor.server_record import ServerRecord
from tests.client.servers import FakeComfy


@dataclass
class Server:
    """Sends the length of its queue after each change; `sent` are the lengths still on their way."""

    counts: QueueCounts
    record: ServerRecord
    waiting: int = 0
    accepted: int = 0
    ended: int = 0
    deleted: int = 0
    sent: list[int] = field(default_factory=list)

    def do(self, step: str) -> None:
        if step == "accept":
            self.waiting, self.accepted = self.waiting + 1, self.accepted + 1
        elif step == "end" and self.waiting:
            self.waiting, self.ended = self.waiting - 1, self.ended + 1
        elif step == "delete" and self.waiting:
            self.waiting, self.deleted = self.waiting - 1, self.deleted + 1
        elif step == "clear":
            self.deleted, self.waiting = self.deleted + self.waiting, 0
        elif step == "arrive" and self.sent:
            self.counts.change(self.sent.pop(0))
            return
        self.sent.append(self.waiting)

    def arrive(self) -> None:
        while self.sent:
            self.do("arrive")

    def connect(self) -> None:
        self.counts.lose()
        self.sent = [self.waiting]

    def look(self, before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
        """Poll once, with steps before and after the history is read; every earlier length has arrived by then."""
        self.arrive()
        left = self.counts.begin_look()
        for step in before:
            self.do(step)
        self.record.generations["success"] = self.ended
        for step in after:
            self.do(step)
        self.counts.end_look(left)


def connected() -> Server:
    record = ServerRecord("a")
    server = Server(QueueCounts(record), record)
    server.connect()
    server.look()
    server.look()
    return server


STEPS = st.lists(st.sampled_from(["accept", "accept", "end", "delete", "clear", "arrive"]), max_size=6)
ROUNDS = st.lists(st.tuples(STEPS, STEPS, STEPS), max_size=12)


@given(ROUNDS)
def test_what_was_accepted_and_deleted_is_counted_once_all_of_it_has_come(rounds: list[tuple[list[str], ...]]) -> None:
    server = connected()
    for between, before, after in rounds:
        for step in between:
            server.do(step)
        server.look(before, after)
        assert server.record.deleted <= server.deleted
    server.look()
    server.look()
    assert (server.record.accepted, server.record.deleted) == (server.accepted, server.deleted)


@given(ROUNDS, ROUNDS)
def test_what_changes_while_there_is_no_socket_is_not_counted(
    rounds: list[tuple[list[str], ...]], later: list[tuple[list[str], ...]]
) -> None:
    server = connected()
    for number, (between, before, after) in enumerate([*rounds, *later]):
        if number == len(rounds):
            server.counts.lose()
            for step in between:
                server.do(step)
            server.connect()
            continue
        for step in between:
            server.do(step)
        server.look(before, after)
        assert server.record.deleted <= server.deleted
        assert server.record.accepted <= server.accepted


def test_prompts_of_a_history_that_was_cleared_are_not_taken_for_deleted() -> None:
    server = connected()
    for step in ("accept", "end", "accept", "delete"):
        server.do(step)
    # The end of the first prompt was not found.
    server.look()
    server.record.generations["success"] = 0
    server.counts.forget()
    server.ended = 0
    server.look()
    server.look()
    assert server.record.deleted == 0


# --- over a socket ---------------------------------------------------------------------------------------------------


def status(remaining: object) -> dict[str, object]:
    return {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": remaining}}}}


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_only_lengths_that_a_queue_can_have_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other messages, and those of servers other than ComfyUI, change nothing; a lost socket is replaced."""
    monkeypatch.setattr(queue_events, "FIRST_PAUSE", 0.01)
    said: list[str] = []

    async def talk(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for text in ('{"type": "status"', "[]", '{"type": "progress", "data": {}}', "x" * 100_000):
            await socket.send_str(text)
        await socket.send_bytes(b"\0" * 100_000)
        for remaining in (0, 1, 2, -5, 10**12, "3", None, 1e400, True, 3, 1):
            await socket.send_json(status(remaining))
        await socket.send_str('{"type": "status", "data": ' + "[" * 3000)
        await socket.close()
        return socket

    async def run() -> tuple[ServerRecord, set[str]]:
        record = ServerRecord("a")
        async with FakeComfy(on_socket=talk) as server:
            watch = asyncio.create_task(
                QueueEvents(ServerAddress(server.url), QueueCounts(record), said.append).watch()
            )
            await reached(lambda: record.accepted >= 6)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            extensions = {request[2].get("sec-websocket-extensions", "") for request in server.requests}
        return record, extensions

    record, extensions = asyncio.run(run())
    assert record.accepted % 3 == 0
    assert record.events is False
    assert extensions == {""}
    assert said == [f"events: {said[0].split()[1]} the server closed the WebSocket"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(404, "answered 404 where ComfyUI opens a WebSocket"), (401, "requires a login: the WebSocket answered 401")],
)
def test_a_server_without_a_websocket_is_said_once(monkeypatch: pytest.MonkeyPatch, answer: int, expected: str) -> None:
    monkeypatch.setattr(queue_events, "FIRST_PAUSE", 0.01)
    said: list[str] = []

    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=answer)

    async def run() -> None:
        async with FakeComfy(on_socket=refuse) as server:
            events = QueueEvents(ServerAddress(server.url), QueueCounts(ServerRecord("a")), said.append)
            watch = asyncio.create_task(events.watch())
            await reached(lambda: len(server.requests) >= 3)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    asyncio.run(run())
    assert len(said) == 1
    assert expected in said[0]


def test_the_socket_is_closed_after_the_process_has_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_events, "MOST_LAG", 0.3)
    monkeypatch.setattr(queue_events, "TICK", 0.05)
    said: list[str] = []

    async def run() -> ServerRecord:
        record = ServerRecord("a")
        async with FakeComfy() as server:
            watch = asyncio.create_task(
                QueueEvents(ServerAddress(server.url), QueueCounts(record), said.append).watch()
            )
            await reached(lambda: record.events is True)
            time.sleep(0.6)  # noqa: ASYNC251 - the loop stands still, as that of a suspended machine
            await reached(lambda: record.events is False)
            await reached(lambda: record.events is True)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        return record

    asyncio.run(run())
    assert len(said) >= 1
    assert "closed, since this process stalled for" in said[0]
