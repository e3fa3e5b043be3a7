from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.gateway.file_access import NotAccessible, claim_inputs, resolve_file
from pytest_comfyload.gateway.prompt_store import PromptStore

CLASSES: dict[str, Any] = {
    "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
    "Other": {"input": {"required": {"text": ["STRING", {}]}}},
}
OWNERS = {
    "output/w1/a.png": "ann",
    "output/w1/sub/a.png": "ann",
    "output/w2/a.png": "ann",
    "output/w1/b.png": "bob",
    "temp/w2/t.png": "ann",
    "input/mine.png": "ann",
    "input/masks/mine.png": "ann",
    "input/bobs.png": "bob",
}


class Owners:
    async def owner_of(self, path: str) -> str:
        return OWNERS.get(path, "")


STORE = cast(PromptStore, Owners())


def resolved(filename: str, subfolder: str = "", kind: str = "output") -> tuple[str, str, str] | None:
    reference = {"filename": filename, "subfolder": subfolder, "type": kind}
    try:
        file = asyncio.run(resolve_file(STORE, "ann", reference))
    except NotAccessible:
        return None
    return file.worker, file.subfolder, file.type


def claimed(*values: str, class_type: str = "LoadImage", name: str = "image") -> tuple[list[Any], str] | None:
    graph = {str(at): {"class_type": class_type, "inputs": {name: value}} for at, value in enumerate(values)}
    try:
        nodes, worker = asyncio.run(claim_inputs(STORE, "ann", graph, CLASSES))
    except NotAccessible:
        return None
    return [node["inputs"][name] for node in nodes.values()], worker


def test_a_user_reads_own_outputs_own_uploads_and_what_has_no_owner() -> None:
    assert resolved("a.png", "w1") == ("w1", "", "output")
    assert resolved("a.png", "w1/sub") == ("w1", "sub", "output")
    assert resolved("t.png", "w2", "temp") == ("w2", "", "temp")
    assert resolved("mine.png", "", "input") == resolved("example.png", "", "input") == ("", "", "input")
    assert resolved("b.png", "w1") is None
    assert resolved("bobs.png", "", "input") is None
    assert resolved("unknown.png", "w1") is None
    assert resolved("a.png") is None


@pytest.mark.parametrize(
    ("filename", "subfolder"),
    [
        ("b.png [output]", ""),
        ("sub/bobs.png", ""),
        ("..", ""),
        ("bobs.png", "x/.."),
        ("bobs.png", "."),
        ("bobs.png", "/"),
        ("bobs.png", "x\\.."),
        ("C:bobs.png", ""),
        ("blake3:0123", ""),
        ("", ""),
    ],
)
def test_no_other_way_to_write_a_name_reaches_a_file_of_another_user(filename: str, subfolder: str) -> None:
    assert resolved(filename, subfolder, "input") is None


def test_a_prompt_may_read_own_outputs_which_bind_it_to_their_worker() -> None:
    assert claimed("mine.png", "example.png") == (["mine.png", "example.png"], "")
    assert claimed("masks/mine.png [input]") == (["masks/mine.png [input]"], "")
    assert claimed("w1/a.png [output]", "mine.png") == (["a.png [output]", "mine.png"], "w1")
    assert claimed("w1/sub/a.png [output]") == (["sub/a.png [output]"], "w1")
    assert claimed("w1/a.png [output]", "w2/a.png [output]") is None
    for value in ("bobs.png", "w1/b.png [output]", "b.png [output]", "../output/b.png", "/etc/passwd", "x/../bobs.png"):
        assert claimed(value) is None, value


def test_a_node_of_any_class_is_not_given_the_upload_of_another_user() -> None:
    assert claimed("a cat, b.g", "two\nlines.png", class_type="Other", name="text") is not None
    assert claimed("bobs.png", class_type="Other", name="text") is None


@given(
    st.text(alphabet="ab./\\:[] ", max_size=12),
    st.text(alphabet="ab./\\", max_size=8),
    st.sampled_from(["input", "output", "x"]),
)
def test_whatever_is_asked_for_is_answered(filename: str, subfolder: str, kind: str) -> None:
    resolved(filename, subfolder, kind)
    claimed(filename)
