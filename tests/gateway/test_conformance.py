"""A gateway in front of the simulator says what recorded ComfyUI servers said, with a few differences of its own.

It differs in the numbers of prompts, how often it reports the length of the queue, the server's name in a file's
folder, and the ids of events.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.gateway.serving import gateway_before
from tests.simulator.conformance_differences import MEANT, settled
from tests.simulator.replay import Case, Frame, Replay, load, received, replay
from tests.simulator.serving import serving
from tests.simulator.test_conformance import SETTINGS, recording_servers

VERSION = "0.33.0"
# What a gateway does differently: priorities across users, events without a client id, previews with metadata, and
# two sockets of one client; also the routes that only a single server has.
OWN_WAY = (
    "queue_front_and_number", "queue_two_clients", "no_client_id", "preview_metadata", "reconnect_same_client",
    "same_client_id_twice", "http_reads",
)  # fmt: skip
# The answer to bodies that are not prompts: a gateway says what is wrong with them.
UNREADABLE = 500

Replays = dict[str, tuple[Case, Replay]]


@pytest.fixture(scope="module")
def replays(redis_process: str) -> Replays:
    """Replay all cases in turn, each in front of the worker on which it was recorded."""
    with redis.Redis.from_url(redis_process) as client:
        client.flushall()
    return asyncio.run(_replay_all(redis_process))


async def _replay_all(redis_url: str) -> Replays:
    replays = {}
    for cases in recording_servers(VERSION):
        async with (
            serving(replace(SETTINGS, comfyui_version=VERSION)) as worker,
            gateway_before(redis_url, [worker]) as url,
        ):
            for recorded in cases:
                if recorded.name not in OWN_WAY:
                    http = [each for each in recorded.http if each["status"] != UNREADABLE]
                    case = Case(recorded.name, http, _quiet(recorded.sockets))
                    replays[case.name] = (case, await replay(case, url, _is_status))
    return replays


@pytest.mark.parametrize("name", [case.name for case in load(VERSION) if case.name not in OWN_WAY])
def test_answers_and_events_are_those_recorded(replays: Replays, name: str) -> None:
    case, replayed = replays[name]
    assert len(replayed.answers) == len(case.http)
    for exchange, answer in zip(case.http, replayed.answers, strict=True):
        place = f"{name} {exchange['method']} {exchange['path']}"
        recorded = {key: exchange[key] for key in ("status", "content_type", "response")}
        assert _plain(_ours(answer, replayed), place) == _plain(_meant(recorded, place), place), place
    for client, frames in case.sockets.items():
        recorded_frames = [_plain(_meant(_timeless(frame), name), name) for frame in received(frames)]
        heard = [_plain(_ours(frame, replayed), name) for frame in replayed.sockets[client]]
        assert heard == recorded_frames


def _quiet(sockets: dict[str, list[Frame]]) -> dict[str, list[Frame]]:
    return {client: _without_status(frames) for client, frames in sockets.items()}


def _without_status(frames: list[Frame]) -> list[Frame]:
    """Return the greeting, and all later frames except status messages."""
    first, *others = frames
    return [first, *(each for each in others if not _is_status(each))]


def _is_status(frame: Frame) -> bool:
    return bool(frame.get("text", {}).get("type") == "status")


def _timeless(frame: Frame) -> Frame:
    return {key: value for key, value in frame.items() if key != "t"}


def _meant(said: Any, place: str) -> Any:
    for meant in MEANT:
        if VERSION in meant.versions and "response" in said and place.split()[0] in meant.place:
            said = said | {"response": meant.rewrite(said["response"])}
    return said


def _ours(said: Any, replayed: Replay) -> Any:
    text = json.dumps(said)
    for recorded, ours in replayed.prompt_ids.items():
        text = text.replace(ours, recorded)
    return json.loads(text.replace('"w1/', '"').replace('"subfolder": "w1"', '"subfolder": ""'))


def _plain(said: Any, place: str) -> Any:
    return _without(settled(said, place))


def _without(value: Any) -> Any:
    """Remove the fields in which the gateway differs."""
    if isinstance(value, dict):
        own = ("event_id", "number", "traceback", "tooltip")
        return {key: _without(item) for key, item in value.items() if key not in own}
    if isinstance(value, list):
        is_item = len(value) == 5 and isinstance(value[2], dict) and isinstance(value[3], dict)
        return [_without(item) for item in (value[1:] if is_item else value)]
    return value
