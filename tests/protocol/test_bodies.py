from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import NotComfyUI
from pytest_comfyload.protocol.bodies import (
    HistoryEntry,
    PromptAnswer,
    QueueSnapshot,
    Rejection,
    parse_history_entry,
    parse_prompt_answer,
    parse_queue,
    parse_rejection,
)
from pytest_comfyload.protocol.events import ExecutionStart, ExecutionSuccess, UnknownMessage
from pytest_comfyload.protocol.outputs import OutputFile, output_files, output_texts
from pytest_comfyload.protocol.system_stats import SystemStats, parse_system_stats
from tests.protocol.recordings import VERSIONS, cases, load, prompts
from tests.protocol.strategies import ANY_JSON, MESSAGES, QUEUES, STATS


def value_or_not_comfyui(parse: Callable[[object], object], body: object) -> object:
    try:
        return parse(body)
    except NotComfyUI as error:
        return error


@given(
    st.one_of(ANY_JSON, st.fixed_dictionaries({"prompt_id": st.text(), "number": ANY_JSON, "node_errors": ANY_JSON}))
)
def test_any_answer_to_a_prompt(body: Any) -> None:
    assert isinstance(value_or_not_comfyui(parse_prompt_answer, body), PromptAnswer | NotComfyUI)


@given(st.one_of(ANY_JSON, st.fixed_dictionaries({"error": ANY_JSON, "node_errors": ANY_JSON})))
def test_any_rejection(body: Any) -> None:
    rejection = parse_rejection(body)
    assert rejection is None or isinstance(rejection.sentence().encode(), bytes)


@given(st.one_of(ANY_JSON, QUEUES))
def test_any_queue(body: Any) -> None:
    assert isinstance(value_or_not_comfyui(parse_queue, body), QueueSnapshot | NotComfyUI)


@given(st.one_of(ANY_JSON, STATS))
def test_any_stats(body: Any) -> None:
    stats = value_or_not_comfyui(parse_system_stats, body)
    assert isinstance(stats, SystemStats | NotComfyUI)
    if isinstance(stats, SystemStats) and stats.time_scale is not None:
        assert 0 < stats.time_scale < float("inf")


_STAMPED_ITEM = st.tuples(ANY_JSON, ANY_JSON, ANY_JSON, st.fixed_dictionaries({"create_time": ANY_JSON})).map(list)
_ENTRY = st.fixed_dictionaries(
    {
        "prompt": st.one_of(ANY_JSON, _STAMPED_ITEM),
        "outputs": st.one_of(ANY_JSON, st.dictionaries(st.text(), ANY_JSON)),
        "status": st.one_of(ANY_JSON, st.fixed_dictionaries({"messages": st.lists(MESSAGES.map(list), max_size=3)})),
    }
)


@given(st.one_of(ANY_JSON, st.fixed_dictionaries({"p": st.one_of(ANY_JSON, _ENTRY)})))
def test_any_history(body: Any) -> None:
    entry = value_or_not_comfyui(lambda body: parse_history_entry(body, "p"), body)
    assert entry is None or isinstance(entry, HistoryEntry | NotComfyUI)
    if isinstance(entry, HistoryEntry):
        for file in output_files(entry.outputs):
            f"{file.filename}{file.subfolder}{file.type}{file.kind}{file.node_id}".encode()
        "".join(output_texts(entry.outputs)).encode()


@pytest.mark.parametrize("body", [None, [], "text", 3, True])
@pytest.mark.parametrize(
    "parse", [parse_prompt_answer, parse_queue, parse_system_stats, lambda body: parse_history_entry(body, "p")]
)
def test_another_language_is_named(parse: Callable[[object], object], body: object) -> None:
    with pytest.raises(NotComfyUI, match=r"(POST|GET) /.* where ComfyUI sends a JSON object"):
        parse(body)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_body_is_understood(version: str) -> None:
    seen: set[str] = set()
    for exchange in (exchange for case in cases(version) for exchange in load(version, case)["http"]):
        body, path, status = exchange["response"], exchange["path"], exchange["status"]
        kind = (exchange["method"], path.split("?")[0], status)
        if kind == ("POST", "/prompt", 200):
            assert parse_prompt_answer(body).prompt_id == body["prompt_id"]
        elif kind == ("POST", "/prompt", 400):
            rejection = parse_rejection(body)
            assert rejection is not None
            assert rejection.sentence()
        elif kind == ("GET", "/queue", 200):
            queue = parse_queue(body)
            assert len(queue.running) == len(body["queue_running"])
            assert len(queue.pending) == len(body["queue_pending"])
        elif kind == ("GET", "/system_stats", 200):
            assert parse_system_stats(body).version == version
        else:
            continue
        seen.add(f"{kind[1]} {status}")
    assert seen == {"/prompt 200", "/prompt 400", "/queue 200", "/system_stats 200"}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_history_is_understood(version: str) -> None:
    entries = [prompt.history for case in cases(version) for prompt in prompts(version, case) if prompt.history]
    assert len(entries) > 10
    for entry in entries:
        assert entry.events
        assert not any(isinstance(event, UnknownMessage) for event in entry.events)
        assert (entry.create_time is not None) == (version != "0.3.64")


def test_pending_prompts_come_in_the_order_in_which_they_will_run() -> None:
    heap = [[2, "b", {}, {}, []], [7.5, "d", {}, {}, []], [3, "c", {}, {}, []], [-1, "a", {}, {}, []]]
    assert parse_queue({"queue_running": [[1, "r", {}, {}, []]], "queue_pending": heap}) == QueueSnapshot(
        ("r",), ("a", "b", "c", "d")
    )


def test_a_rejection_says_what_was_wrong_node_by_node() -> None:
    errors = {"4": {"errors": [{"message": "Value not in list", "details": "ckpt_name: 'x'"}], "class_type": "Loader"}}
    rejection = Rejection("prompt_outputs_failed_validation", "Prompt outputs failed validation", "", errors)
    assert (
        rejection.sentence() == "Prompt outputs failed validation: node 4 (Loader): Value not in list (ckpt_name: 'x')"
    )
    assert Rejection("no_prompt", "No prompt provided", "because", {}).sentence() == "No prompt provided because"
    assert parse_rejection({"error": "plain words"}) == Rejection("", "plain words", "", {})
    assert parse_rejection(["error"]) is None


def test_partial_answers_keep_their_node_errors() -> None:
    answer = parse_prompt_answer({"prompt_id": "p", "number": 4, "node_errors": {"9": {"errors": []}}})
    assert answer == PromptAnswer("p", 4.0, {"9": {"errors": []}})
    assert parse_prompt_answer({"prompt_id": "p", "number": 4, "node_errors": []}).node_errors == {}


def test_a_history_entry_in_full() -> None:
    body = {
        "p": {
            "prompt": [1, "p", {}, {"create_time": 1500}, ["9"]],
            "outputs": {"9": {"images": [{"filename": "a.png", "subfolder": "s", "type": "temp"}], "text": ["x"]}},
            "status": {
                "messages": [
                    ["execution_start", {"prompt_id": "p", "timestamp": 2000}],
                    ["execution_success", {"prompt_id": "p", "timestamp": 3000}],
                ]
            },
        }
    }
    entry = parse_history_entry(body, "p")
    assert entry is not None
    assert entry.create_time == 1.5
    assert entry.events == (ExecutionStart("p", 2.0), ExecutionSuccess("p", 3.0))
    assert output_files(entry.outputs) == (OutputFile("9", "images", "a.png", "s", "temp"),)
    assert output_texts(entry.outputs) == ("x",)
    assert parse_history_entry({}, "p") is None


def test_stats_of_a_simulator_and_of_a_real_server() -> None:
    system = {"comfyui_version": "0.3.75", "argv": ["main.py", "--cpu"]}
    real = parse_system_stats({"system": system, "devices": [{"name": "cpu"}]})
    assert (real.version, real.devices, real.argv, real.time_scale) == ("0.3.75", ("cpu",), ("main.py", "--cpu"), None)
    simulated = parse_system_stats({"system": {"simulator": {"time_scale": 20}}, "devices": []})
    assert (simulated.version, simulated.time_scale) == ("unknown", 20.0)


def _item(number: float, prompt_id: str, *rest: Any) -> list[Any]:
    return [number, prompt_id, {}, *rest]


def test_the_queue_by_number_with_the_runs_that_sent_it() -> None:
    queue = parse_queue(
        {
            "queue_running": [_item(3, "a", {"comfyload": {"run": "one"}}, ["9"])],
            "queue_pending": [
                _item(6, "d", {"comfyload": {"run": "two"}}, ["9"]),
                _item(5, "c", {"create_time": 1}, ["9"]),
                _item(4, "b", {"comfyload": {"run": "one"}}, ["9"]),
            ],
        }
    )
    assert (queue.running, queue.pending) == (("a",), ("b", "c", "d"))
    assert queue.runs == {"a": "one", "b": "one", "d": "two"}


@pytest.mark.parametrize("extra_data", [None, [], {}, {"comfyload": 1}, {"comfyload": {}}, {"comfyload": {"run": 7}}])
def test_what_is_no_run_tag_is_somebody_elses(extra_data: object) -> None:
    assert parse_queue({"queue_running": [_item(1, "a", extra_data)], "queue_pending": [_item(2, "b")]}).runs == {}
