"""What real servers sent: frames and bodies from tests/recordings, and the replay of a prompt into its state table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_comfyload.protocol.bodies import HistoryEntry, parse_history_entry
from pytest_comfyload.protocol.events import Event
from pytest_comfyload.protocol.messages import parse_frame
from pytest_comfyload.protocol.prompt_state import PromptState
from pytest_comfyload.protocol.server_clock import ServerClock

__all__ = ["VERSIONS", "RecordedPrompt", "all_recordings", "cases", "frames", "load", "prompts"]

FOLDER = Path(__file__).parents[1] / "recordings"
VERSIONS = ("0.3.64", "0.3.75", "0.33.0")


def cases(version: str) -> list[str]:
    return sorted(path.stem for path in (FOLDER / version).glob("*.json"))


def load(version: str, case: str) -> dict[str, Any]:
    recording: dict[str, Any] = json.loads((FOLDER / version / f"{case}.json").read_text(encoding="utf-8"))
    return recording


def all_recordings() -> list[tuple[str, str]]:
    return [(version, case) for version in VERSIONS for case in cases(version)]


def frames(recording: Mapping[str, Any], client: str | None = None) -> list[tuple[float, str | bytes]]:
    """Return (arrival, frame) pairs of one client or of all; binary frames are padded with zero bytes."""
    clients = recording["websocket"]
    sockets = clients.values() if client is None else [clients[client]]
    return [(item["t"], _frame(item)) for socket in sockets for item in socket if "text" in item or "binary" in item]


def _frame(item: Mapping[str, Any]) -> str | bytes:
    if "text" in item:
        return json.dumps(item["text"])
    return bytes.fromhex(item["binary"]["head_hex"]).ljust(item["binary"]["bytes"], b"\0")


@dataclass(frozen=True)
class RecordedPrompt:
    """One prompt of a recording: `events` are (arrival, event) pairs, `sent` is the time of its POST."""

    prompt_id: str
    graph: Mapping[str, Any] = field(repr=False)
    sent: float
    events: tuple[tuple[float, Event], ...] = field(repr=False)
    history: HistoryEntry | None = field(repr=False)
    history_at: float

    def stamp(self, *kinds: type[Event]) -> float:
        """Return the server's own stamp of the first event of these kinds."""
        stamp: float = next(event.stamp for _, event in self.events if isinstance(event, kinds))  # type: ignore
        return stamp

    def ends_in(self, *kinds: type[Event]) -> bool:
        return any(isinstance(event, kinds) for _, event in self.events)

    def state(self, answered: float | None = None, order: list[tuple[float, Event]] | None = None) -> PromptState:
        """Return the state after all recorded events; the POST is answered after 5 ms unless `answered` is given."""
        state = self.fresh()
        state.send(self.sent)
        state.answer(self.sent + 0.005 if answered is None else answered)
        for at, event in self.events if order is None else order:
            state.apply(event, at)
        if self.history is not None:
            state.apply_history(self.history, self.history_at)
        return state

    def fresh(self) -> PromptState:
        return PromptState(self.prompt_id, {node: spec["class_type"] for node, spec in self.graph.items()})

    def offset(self) -> float:
        """Return the offset according to a `ServerClock` that observed only this prompt."""
        clock, bounds = ServerClock(), self.state().offset_bounds()
        assert bounds is not None
        clock.observe(*bounds)
        assert clock.offset is not None
        return clock.offset


def prompts(version: str, case: str) -> list[RecordedPrompt]:
    """Return the accepted prompts of a recording, each with its events from all sockets."""
    recording = load(version, case)
    events = sorted(((at, parse_frame(frame)) for at, frame in frames(recording)), key=lambda pair: pair[0])
    histories = {
        exchange["path"].removeprefix("/history/"): exchange
        for exchange in recording["http"]
        if exchange["method"] == "GET" and exchange["path"].startswith("/history/")
    }
    return [
        _prompt(exchange, events, histories)
        for exchange in recording["http"]
        if (exchange["method"], exchange["path"], exchange["status"]) == ("POST", "/prompt", 200)
    ]


def _prompt(
    exchange: Mapping[str, Any], events: list[tuple[float, Event]], histories: Mapping[str, Any]
) -> RecordedPrompt:
    prompt_id = exchange["response"]["prompt_id"]
    history = histories.get(prompt_id)
    return RecordedPrompt(
        prompt_id,
        exchange["request"]["prompt"],
        exchange["t"],
        tuple((at, event) for at, event in events if getattr(event, "prompt_id", None) == prompt_id),
        parse_history_entry(history["response"], prompt_id) if history else None,
        history["t"] if history else 0.0,
    )
