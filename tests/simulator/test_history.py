from __future__ import annotations

import pytest

from pytest_comfyload.simulator.queue import PromptHistory, QueuedPrompt


def history(*ids: str) -> PromptHistory:
    made = PromptHistory()
    for number, prompt_id in enumerate(ids):
        made.add(QueuedPrompt(number, prompt_id, {}, {}, [], 0.0), True, {}, {}, [])
    return made


@pytest.mark.parametrize(
    ("max_items", "offset", "ids"),
    [(None, -1, "abcd"), (2, -1, "cd"), (2, -3, "cd"), (9, -1, "abcd"), (2, 0, "ab"), (2, 1, "bc"), (None, 1, "bcd")],
)
def test_pages_are_cut_as_a_real_server_cuts_them(max_items: int | None, offset: int, ids: str) -> None:
    assert "".join(history(*"abcd").page(max_items, offset)) == ids


@pytest.mark.parametrize("max_items", [0, -1])
def test_a_page_of_nothing_is_empty(max_items: int) -> None:
    assert history(*"abcd").page(max_items, -1) == {}


def test_the_last_of_two_prompts_with_one_id_is_kept() -> None:
    assert history("twin", "twin").get("twin")["twin"]["prompt"][0] == 1


def test_deleting_and_clearing() -> None:
    made = history(*"abc")
    made.delete(["b", "unknown"])
    assert list(made.page(None, -1)) == ["a", "c"]
    made.clear()
    assert made.page(None, -1) == {}


def test_the_oldest_go_when_there_are_ten_thousand() -> None:
    made = history(*(str(number) for number in range(10_001)))
    assert made.get("0") == {}
    assert made.get("1")
    assert len(made.page(None, -1)) == 10_000
