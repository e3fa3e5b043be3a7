"""The queue: who waits in which order, and which load run sent what."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_comfyload.protocol.bodies import parse_queue


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
