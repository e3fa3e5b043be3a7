"""WebSocket messages in any fragmentation and chunking are delivered as the library would have delivered them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from pytest_comfyload.client.socket import MAX_FRAME, EventSocket, _Connection

Message = tuple[bytes, bool]


class Taken:
    """A substitute for `EventSocket` that records what it receives."""

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.statuses: list[int] = []
        self.lost = False

    def receive(self, message: str | bytes) -> None:
        self.messages.append(message)

    def receive_status(self, queue_remaining: int) -> None:
        self.statuses.append(queue_remaining)

    def lose(self) -> None:
        self.lost = True


class Sink(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def write_eof(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def can_write_eof(self) -> bool:
        return True


def frames_of(message: Message, cuts: Sequence[int]) -> list[Frame]:
    """Return the frames of a message, fragmented at `cuts`."""
    data, is_text = message
    places = sorted({min(cut, len(data)) for cut in cuts})
    parts = [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]
    kinds = [Opcode.TEXT if is_text else Opcode.BINARY, *[Opcode.CONT] * (len(parts) - 1)]
    return [
        Frame(kind, part, fin=number == len(parts) - 1)
        for number, (kind, part) in enumerate(zip(kinds, parts, strict=True))
    ]


def received(frames: bytes, pieces: Sequence[int]) -> tuple[Taken, Sink, State]:
    """Return what is delivered from `frames` after a handshake, if the data arrives in chunks of sizes `pieces`."""

    async def receive() -> tuple[Taken, Sink, State]:
        taken, wire = Taken(), Sink()
        client = ClientProtocol(parse_uri("ws://127.0.0.1/ws"), max_size=MAX_FRAME)
        connection = _Connection(cast(EventSocket, taken), client, ping_interval=None)
        connection.connection_made(wire)
        shaking = asyncio.ensure_future(connection.handshake())
        await asyncio.sleep(0)
        server = ServerProtocol()
        server.receive_data(wire.written)
        [request] = server.events_received()
        server.send_response(server.accept(request))  # type: ignore[arg-type]
        data = b"".join(server.data_to_send()) + frames
        at = 0
        for size in (*pieces, len(data)):
            connection.data_received(data[at : at + size])
            at += size
        await shaking
        state = client.state
        connection.connection_lost(None)
        return taken, wire, state

    return asyncio.run(receive())


def serialized(frames: Sequence[Frame]) -> bytes:
    return b"".join(frame.serialize(mask=False) for frame in frames)


TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["x" * 125, "x" * 126, "é" * 40_000]))
MESSAGES = st.one_of(
    TEXTS.map(lambda text: (text.encode("utf-8", "replace"), True)), st.binary(max_size=200).map(lambda b: (b, False))
)
PINGS = st.sampled_from([None, Frame(Opcode.PING, b"now"), Frame(Opcode.PONG, b"")])


@given(st.lists(st.tuples(MESSAGES, st.lists(st.integers(0, 50), max_size=2), PINGS), max_size=8), st.data())
def test_messages_come_whole_and_in_order(told: list[tuple[Message, list[int], Frame | None]], data: Any) -> None:
    frames: list[Frame] = []
    for message, cuts, ping in told:
        # A control frame may come between the fragments of a message.
        first, *others = frames_of(message, cuts)
        frames += [first, *([] if ping is None else [ping]), *others]
    pieces = data.draw(st.lists(st.integers(0, 300), max_size=12))
    taken, wire, state = received(serialized(frames), pieces)
    assert taken.messages == [data.decode() if is_text else data for (data, is_text), _, _ in told]
    assert state is State.OPEN
    assert taken.lost
    assert wire.written.count(b"GET /ws") == 1


def status(remaining: int) -> bytes:
    return json.dumps({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": remaining}}}}).encode()


@given(st.lists(st.one_of(st.integers(0, 2_000_000), st.none()), max_size=20), st.lists(st.integers(0, 200)))
def test_of_statuses_that_come_together_the_last_one_counts(told: list[int | None], pieces: list[int]) -> None:
    """Other messages (None), which are all delivered, come in between."""
    frames = [Frame(Opcode.TEXT, b"{}" if each is None else status(each)) for each in told]
    taken, _, _ = received(serialized(frames), pieces)
    assert taken.messages.count("{}") == told.count(None)
    last = [each for each in told if each is not None][-1:]
    unusual = [message for message in taken.messages if message != "{}"]
    assert taken.statuses[-1:] == last or [json.loads(message) for message in unusual][-1:] == [
        json.loads(status(each)) for each in last
    ]
    # A number with more digits than any queue length has is left to the JSON parser.
    assert set(taken.statuses) <= {each for each in told if each is not None and each < 1_000_000}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"\x81\x82\0\0\0\0{}", id="masked"),
        pytest.param(b"\x83\x00", id="reserved opcode"),
        pytest.param(b"\xc1\x00", id="reserved bit"),
        pytest.param(b"\x81\x7f" + (MAX_FRAME + 1).to_bytes(8), id="too large"),
        pytest.param(b"\x81\x02\xff\xfe", id="not UTF-8"),
        pytest.param(b"\x80\x00", id="nothing to continue"),
        pytest.param(b"\x01\x00\x81\x00", id="a message within a message"),
    ],
)
def test_what_the_protocol_forbids_ends_the_connection(bad: bytes) -> None:
    taken, _, state = received(serialized([Frame(Opcode.TEXT, b"{}")]) + bad + b"\x81\x02{}", [])
    assert taken.messages == ["{}"]
    assert state is not State.OPEN


def test_a_message_that_is_cut_off_never_comes() -> None:
    taken, _, _ = received(b"\x81\x05abc", [])
    assert taken.messages == []
    assert taken.lost
