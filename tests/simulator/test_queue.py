from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.simulator.queue import PromptQueue, QueuedPrompt

TIMES = itertools.count()


def item(number: float, prompt_id: str) -> QueuedPrompt:
    return QueuedPrompt(number, prompt_id, {}, {"client_id": "me", "create_time": next(TIMES)}, [], 0.0)


def filled(*items: QueuedPrompt) -> tuple[PromptQueue, list[int]]:
    """Return a queue, and a list that records its remaining count after each change."""
    seen: list[int] = []
    queue = PromptQueue(lambda: seen.append(queue.remaining))
    for one in items:
        queue.put(one)
    return queue, seen


def emptied(queue: PromptQueue) -> list[str]:
    ids = []
    while (taken := queue.take()) is not None:
        ids.append(taken.prompt_id)
        queue.finish()
    return ids


def test_fronts_come_last_in_first_out_before_the_others() -> None:
    queue, _ = filled(item(1, "a"), item(2, "b"), item(-3, "c"), item(-4, "d"), item(0.5, "e"))
    assert emptied(queue) == ["d", "c", "e", "a", "b"]


def test_equal_numbers_run_by_prompt_id() -> None:
    queue, _ = filled(item(7, "z"), item(7, "a"), item(7, "m"))
    assert emptied(queue) == ["a", "m", "z"]


@given(st.lists(st.tuples(st.integers(-5, 5), st.sampled_from("abc")), unique=True))
def test_prompts_run_by_number_then_id(numbered: list[tuple[int, str]]) -> None:
    queue, _ = filled(*(item(number, prompt_id) for number, prompt_id in numbered))
    assert emptied(queue) == [prompt_id for _, prompt_id in sorted(numbered)]


def test_twins_are_refused_but_stay_and_whoever_meets_them_fails() -> None:
    queue, _ = filled(item(2, "twin"))
    with pytest.raises(TypeError):
        queue.put(item(2, "twin"))
    queue.put(item(1, "before"))
    assert queue.remaining == 3
    with pytest.raises(TypeError):
        queue.take()
    assert queue.running is None
    assert queue.remaining == 2


def test_a_deleted_prompt_is_gone_and_the_running_one_stays() -> None:
    queue, seen = filled(item(1, "a"), item(2, "b"), item(3, "c"))
    queue.take()
    queue.delete(["a", "b", "unknown"])
    assert [pending.prompt_id for pending in queue.pending] == ["c"]
    assert queue.running is not None
    assert seen == [1, 2, 3, 3, 2], "one change for each put, for the take, and for the one deleted"


def test_clearing_leaves_the_running_prompt() -> None:
    queue, seen = filled(item(1, "a"), item(2, "b"))
    queue.take()
    queue.clear()
    assert seen[-1] == queue.remaining == 1
