from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_comfyload.gateway.catalog import NodeCatalog
from pytest_comfyload.gateway.validation import judge

CLASSES: dict[str, Any] = {
    "Source": {"input": {"required": {"name": [["a", "b"]]}}, "output": ["IMAGE"], "output_node": False},
    "Invert": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"], "output_node": False},
    "Save": {"input": {"required": {"images": ["IMAGE", {}]}}, "output": [], "output_node": True},
}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def test_no_depth_of_a_graph_is_too_deep() -> None:
    graph = {"0": node("Source", name="a")}
    graph |= {str(number): node("Invert", image=[str(number - 1), 0]) for number in range(1, 5000)}
    graph["end"] = node("Save", images=["4999", 0])
    assert judge(graph, CLASSES).outputs == ("end",)
    graph["0"]["inputs"]["name"] = "z"
    found = judge(graph, CLASSES)
    assert found.error is not None
    assert list(found.node_errors) == ["0"]


def test_a_cycle_is_no_output_that_can_be_executed() -> None:
    graph = {
        "1": node("Invert", image=["2", 0]),
        "2": node("Invert", image=["1", 0]),
        "3": node("Save", images=["2", 0]),
    }
    assert judge(graph, CLASSES).error is not None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["1", "2", "Save"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["1", "2", "inputs", "class_type"]), inner)
    ),
    max_leaves=12,
)
NODES = st.fixed_dictionaries(
    {},
    optional={
        "class_type": st.sampled_from(sorted(CLASSES)) | ANYTHING,
        "inputs": st.dictionaries(st.sampled_from(["name", "image", "images"]), ANYTHING) | ANYTHING,
        "_meta": ANYTHING,
    },
)


@given(st.dictionaries(st.sampled_from("123"), NODES | ANYTHING) | ANYTHING, ANYTHING)
@settings(max_examples=50)
def test_whatever_is_sent_is_judged(graph: Any, targets: Any) -> None:
    found = judge(graph, CLASSES, targets)
    assert (found.error is None) == bool(found.outputs)


def test_workers_with_different_models_are_one_choice_and_each_gets_what_it_has() -> None:
    def classes(*names: str) -> dict[str, Any]:
        source = {"input": {"required": {"name": [list(names), {}]}}, "output": ["IMAGE"], "output_node": False}
        return {**CLASSES, "Source": source}

    catalog = NodeCatalog()
    catalog.learn("w1", classes("a", "b"))
    alone = catalog.differing
    catalog.learn("w2", classes("b", "c") | {"Extra": CLASSES["Save"]})
    assert (alone, catalog.differing) == (False, True)
    assert catalog.union["Source"]["input"]["required"]["name"][0] == ["a", "b", "c"]

    def fit(*names: str) -> Any:
        graph = {f"s{name}": node("Source", name=name) for name in names}
        return catalog.judge({**graph, **{f"o{name}": node("Save", images=[f"s{name}", 0]) for name in names}}, None)

    assert [fit(name)[1] for name in "abc"] == [",w1,", "", ",w2,"]
    judgement, _ = fit("a", "c")
    assert judgement.error is None, "as each worker answers: one of the two outputs is dropped"
    assert list(judgement.node_errors)
