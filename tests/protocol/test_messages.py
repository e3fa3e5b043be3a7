from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.protocol.events import (
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    FeatureFlags,
    NodeProgress,
    Preview,
    Progress,
    ProgressState,
    ProgressText,
    Status,
    UnknownMessage,
)
from pytest_comfyload.protocol.messages import parse_event, parse_frame
from tests.protocol.recordings import VERSIONS, all_recordings, cases, frames, load
from tests.protocol.strategies import ANY_JSON, MESSAGES


@pytest.mark.parametrize(("version", "case"), all_recordings())
def test_every_frame_of_a_real_server_is_understood(version: str, case: str) -> None:
    # Events of the scan of model files are not about prompts.
    unknown = [
        (event, frame)
        for _, frame in frames(load(version, case))
        if isinstance(event := parse_frame(frame), UnknownMessage) and "assets.seed." not in event.reason
    ]
    assert not unknown


@pytest.mark.parametrize("version", VERSIONS)
def test_the_recordings_hold_every_kind_of_event(version: str) -> None:
    seen = {type(parse_frame(frame)) for case in cases(version) for _, frame in frames(load(version, case))}
    assert set(get_args(Event)) - seen - {UnknownMessage} == {ProgressText}


@given(st.binary())
def test_any_bytes_are_an_event(frame: bytes) -> None:
    assert isinstance(parse_frame(frame), get_args(Event))


@given(st.integers(0, 5), st.integers(0, 12) | st.integers(0, 2**32 - 1), st.binary() | ANY_JSON.map(json.dumps))
def test_any_binary_event_is_an_event(number: int, second: int, rest: bytes | str) -> None:
    body = rest if isinstance(rest, bytes) else rest.encode()
    frame = number.to_bytes(4, "big") + second.to_bytes(4, "big") + body
    assert isinstance(parse_frame(frame), get_args(Event))


@given(ANY_JSON)
def test_any_metadata_of_a_preview_is_an_event(metadata: Any) -> None:
    head = json.dumps(metadata).encode()
    event = parse_frame(b"\0\0\0\4" + len(head).to_bytes(4, "big") + head + b"PICTURE")
    assert isinstance(event, Preview)
    assert event.size == 7


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_an_event(frame: str) -> None:
    assert isinstance(parse_frame(frame), get_args(Event))


@given(st.one_of(ANY_JSON, MESSAGES.map(lambda pair: {"type": pair[0], "data": pair[1]})))
def test_any_json_is_an_event_that_can_be_stored(message: Any) -> None:
    event = parse_frame(json.dumps(message))
    assert isinstance(event, get_args(Event))
    for text in texts_of(event):
        text.encode()


@given(MESSAGES)
def test_any_message_of_a_history_is_an_event(message: tuple[Any, Any]) -> None:
    assert isinstance(parse_event(*message), get_args(Event))


def texts_of(value: object) -> Iterator[str]:
    """Yield every text of an event except those in mappings, which are kept as the server sent them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from texts_of(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from texts_of(getattr(value, field.name))


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"type":[', '{"type": "status", "data": ['])
def test_nesting_beyond_all_measure_is_unknown(opening: str) -> None:
    assert isinstance(parse_frame(opening * 100_000), UnknownMessage)


def test_a_deeply_nested_type_is_unknown() -> None:
    assert isinstance(parse_frame('{"type": ' + "[" * 500 + "]" * 500 + "}"), UnknownMessage)


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 3}}, "sid": "me"}}, Status(3, "me")),
        ({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}}, Status(0, None)),
        ({"type": "feature_flags", "data": {"a": True}}, FeatureFlags({"a": True})),
        ({"type": "execution_start", "data": {"prompt_id": "p", "timestamp": 1500}}, ExecutionStart("p", 1.5)),
        (
            {"type": "execution_cached", "data": {"prompt_id": "p", "timestamp": 1500, "nodes": ["1", "2"]}},
            ExecutionCached("p", 1.5, ("1", "2")),
        ),
        ({"type": "execution_success", "data": {"prompt_id": "p", "timestamp": 1500}}, ExecutionSuccess("p", 1.5)),
        (
            {
                "type": "execution_interrupted",
                "data": {"prompt_id": "p", "timestamp": 1500, "node_id": "1", "node_type": "KSampler"},
            },
            ExecutionInterrupted("p", 1.5, "1", "KSampler"),
        ),
        ({"type": "executing", "data": {"prompt_id": "p", "node": None}}, Executing("p", None)),
        ({"type": "executing", "data": {"node": None}}, Executing(None, None)),
        ({"type": "executed", "data": {"prompt_id": "p", "node": "9", "output": None}}, Executed("p", "9", {})),
        (
            {"type": "progress", "data": {"prompt_id": "p", "node": "3", "value": 2, "max": 4}},
            Progress("p", "3", 2.0, 4.0),
        ),
        (
            {
                "type": "progress_state",
                "data": {"prompt_id": "p", "nodes": {"3": {"value": 2, "max": 4, "state": "running"}}},
            },
            ProgressState("p", (NodeProgress("3", 2.0, 4.0, "running"),)),
        ),
    ],
)
def test_text_frames(message: dict[str, Any], event: Event) -> None:
    assert parse_frame(json.dumps(message)) == event


def test_an_error_keeps_its_reason_and_drops_the_inputs() -> None:
    data = {
        "prompt_id": "p",
        "timestamp": 2000,
        "node_id": "5",
        "node_type": "ProbeFail",
        "exception_type": "ValueError",
        "exception_message": "bad",
        "current_inputs": {"api_key": ["hunter2"]},
    }
    event = parse_event("execution_error", data)
    assert event == ExecutionError("p", 2.0, "5", "ProbeFail", "ValueError", "bad")
    assert "hunter2" not in repr(event)


def test_half_a_character_becomes_a_question_mark() -> None:
    frame = r'{"type": "executing", "data": {"prompt_id": "p", "node": "\ud83d!"}}'
    assert parse_frame(frame) == Executing("p", "?!")


PNG = b"\x89PNG\r\n\x1a\n!"


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        (b"\0\0\0\1\0\0\0\1JPEG", Preview(4)),
        (b"\0\0\0\1\0\0\0\2" + PNG, Preview(9, png=PNG)),
        (b'\0\0\0\4\0\0\0\x10{"node_id": "3"}' + PNG, Preview(9, None, "3", PNG)),
        (b"\0\0\0\3\0\0\0\x017half", ProgressText("7", "half")),
        (b'\0\0\0\4\0\0\0\x10{"node_id": "3"}PNG', Preview(3, None, "3")),
        (b"\0\0\0\4\0\0\0\x04rubbPNG", Preview(3)),
    ],
)
def test_binary_frames(frame: bytes, event: Event) -> None:
    assert parse_frame(frame) == event


@pytest.mark.parametrize(
    "frame", [b"", b"\0\0\0\1", b"\0\0\0\x63\0\0\0\0", "", "{", "[]", '{"type": "crystools.monitor"}']
)
def test_what_fits_nothing_is_unknown(frame: str | bytes) -> None:
    assert isinstance(parse_frame(frame), UnknownMessage)
