from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.gateway.prompt_attempt import queue_item
from pytest_comfyload.gateway.rewriting import StampTranslator, ended_entry, file_paths, named, split

FILES = st.fixed_dictionaries(
    {"filename": st.text(min_size=1, max_size=8), "type": st.sampled_from(["output", "temp"])},
    optional={"subfolder": st.text(alphabet="ab/ ", max_size=6)},
)


@given(st.dictionaries(st.text(max_size=3), st.lists(FILES, max_size=3), max_size=3))
def test_a_files_worker_and_folder_come_back_as_they_went(output: dict[str, Any]) -> None:
    told = named(output, "w7")
    for kind, items in output.items():
        for before, after in zip(items, told[kind], strict=True):
            assert split(after["subfolder"]) == ("w7", before.get("subfolder", ""))
    assert len(list(file_paths({"9": told}))) == sum(map(len, output.values()))


def test_what_is_no_file_of_a_worker_stays() -> None:
    output = {"text": ["a"], "animated": [True], "images": [{"filename": "a.png", "type": "input"}, 7, {}], "n": 1}
    assert named(output, "w1") == output
    assert list(file_paths({"9": output})) == []


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=20),
)
def test_stamps_of_a_prompt_lie_between_its_sending_and_its_news(
    shift: float, prompts: list[tuple[float, float, float]]
) -> None:
    """This holds for any offset of the worker's clock, and for any delays."""
    stamps, now = StampTranslator(), 1e9
    for pause, there, back in prompts:
        sent = now + pause
        start = sent + there
        arrived = now = start + back
        stamp = round((start + shift) * 1000)
        stamps.observe(stamp, sent, arrived)
        told = stamps.translated({"timestamp": stamp})["timestamp"] / 1000
        assert sent - 0.002 <= told <= arrived + 0.002


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["outputs", "status", "messages", "prompt", "images", "9"]), inner, max_size=4
            )
        ),
        max_leaves=15,
    )
)
def test_whatever_a_worker_says_of_an_end_becomes_an_entry(said: Any) -> None:
    entry = said if isinstance(said, dict) else {"status": said}
    item = queue_item("id", 1, {"prompt": {}, "extra_data": {"api_key_comfy_org": "secret"}}, "me")
    state, shown, frames = ended_entry(entry, item, "w1", StampTranslator())
    assert state in ("success", "error", "interrupted")
    assert shown["prompt"][:4] == [1, "id", {}, {"client_id": "me"}]
    assert len(frames) == 2
