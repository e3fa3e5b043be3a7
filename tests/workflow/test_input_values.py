"""Each prompt draws a value from a list in `inputs`, reproducibly; texts may name their prompt."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.scenario.distributions import uniform
from pytest_comfyload.workflow.graph import InputRef
from pytest_comfyload.workflow.input_values import ChoiceInput, filled
from pytest_comfyload.workflow.object_info import InputSpec, ObjectInfo
from pytest_comfyload.workflow.preflight import doubtful
from pytest_comfyload.workflow.template import DrawnPrompt
from pytest_comfyload.workflow.texts import PromptText
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import INFO

TXT2IMG = Workflow.load("txt2img")
PLACE = {"index": 7, "user": 2, "iteration": 1}


def drawn(inputs: dict[str, Any], seed: int = 1, text: str = "TEXT") -> DrawnPrompt:
    workflow = TXT2IMG.on(INFO).with_inputs(inputs)
    return workflow.on(INFO).vary(random.Random(seed), text=text, filename_prefix="load/x", place=PLACE)


def counts(inputs: dict[str, Any], address: str, n: int = 2000) -> Counter[Any]:
    return Counter(drawn(inputs, seed).inputs[address] for seed in range(n))


def test_a_list_is_drawn_from_evenly_and_lands_in_the_graph() -> None:
    drawings = [drawn({"KSampler.steps": [4, 8, 12]}, seed) for seed in range(900)]
    assert all(drawing.graph["3"]["inputs"]["steps"] == drawing.inputs["KSampler.steps"] for drawing in drawings)
    steps = Counter(drawing.inputs["KSampler.steps"] for drawing in drawings)
    assert set(steps) == {4, 8, 12}
    assert min(steps.values()) > 230


def test_a_dict_is_drawn_from_by_weight() -> None:
    steps = counts({"KSampler.steps": {4: 9, 8: 1, 12: 0}}, "KSampler.steps")
    assert set(steps) == {4, 8}
    assert steps[4] / 2000 == pytest.approx(0.9, abs=0.05)


def test_the_same_seed_draws_the_same_and_leaves_the_prompts_seeds_alone() -> None:
    inputs = {"KSampler.steps": [4, 8, 12], "KSampler.cfg": [1.0, 2.0, 3.0]}
    assert drawn(inputs, 5) == drawn(inputs, 5)
    assert drawn(inputs, 5).seeds == drawn({}, 5).seeds


def test_values_are_typed_and_judged_by_the_server() -> None:
    assert drawn({"KSampler.steps": ["4"]}).inputs == {"KSampler.steps": 4}
    with pytest.raises(WorkflowError, match=r"KSampler\.steps = 'many': wants INT"):
        drawn({"KSampler.steps": [4, "many"]})


def test_every_node_of_an_address_gets_the_same_value() -> None:
    drawing = drawn({"CLIPTextEncode[*].text": ["x", "y"]})
    assert {drawing.graph[node]["inputs"]["text"] for node in ("6", "7")} == {drawing.inputs["CLIPTextEncode[*].text"]}


def test_a_seed_that_is_drawn_stays_as_drawn() -> None:
    drawing = drawn({"KSampler.seed": [1, 2]})
    assert drawing.seeds == {}
    assert drawing.graph["3"]["inputs"]["seed"] in (1, 2)


def test_what_is_set_last_holds() -> None:
    workflow = TXT2IMG.with_inputs({"KSampler.steps": [4, 8]}).with_inputs({"3.steps": 5, "KSampler.cfg": 2.0})
    drawing = workflow.on(ObjectInfo()).vary(random.Random(1), text=None, filename_prefix="")
    assert drawing.graph["3"]["inputs"]["steps"] == 5
    again = (
        workflow.with_inputs({"KSampler.steps": 6})
        .on(ObjectInfo())
        .vary(random.Random(1), text=None, filename_prefix="")
    )
    assert again.graph["3"]["inputs"]["steps"] == 6


def test_links_are_values_and_can_be_drawn() -> None:
    assert drawn({"KSampler.positive": ["7", 0]}).graph["3"]["inputs"]["positive"] == ["7", 0]
    assert drawn({"KSampler.positive": [["6", 0], ["7", 0]]}).graph["3"]["inputs"]["positive"] in (["6", 0], ["7", 0])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "nothing to draw from"),
        ({4: 0}, "weights are numbers from 0 on"),
        ({4: -1, 8: 2}, "weights are numbers from 0 on"),
        ({4: float("inf")}, "weights are numbers from 0 on"),
        ({4: float("nan")}, "weights are numbers from 0 on"),
        ({4: "often"}, "wants INT"),
        ({}, "wants INT"),
    ],
)
def test_what_cannot_be_drawn_from(value: Any, says: str) -> None:
    with pytest.raises(WorkflowError, match=says) as refusal:
        drawn({"KSampler.steps": value})
    assert str(refusal.value).startswith("KSampler.steps = ")


def test_texts_name_their_prompt() -> None:
    drawing = drawn({"7.text": "bad {index} {user}/{iteration}"}, text="a {cat|dog} {seed} {}")
    assert drawing.inputs == {"7.text": "bad 7 2/1"}
    assert drawing.graph["7"]["inputs"]["text"] == "bad 7 2/1"
    assert drawing.text == drawing.graph["6"]["inputs"]["text"] == f"a {{cat|dog}} {drawing.seeds['3.seed']} {{}}"


@given(st.text(alphabet="{}sed index") | st.text())
def test_other_braces_stay(text: str) -> None:
    fields = {"seed": 1, "index": 2, "user": 3, "iteration": 4}
    assert filled(text, {}) == text
    assert "{seed}" not in filled(text, fields)
    if not any(f"{{{name}}}" in text for name in fields):
        assert filled(text, fields) == text


def test_inputs_that_come_with_a_text() -> None:
    text = PromptText("a cat", {"KSampler.steps": 4}, "prompts: p.jsonl, line 3")
    workflow = TXT2IMG.with_inputs({"KSampler.cfg": 2.0}).with_text(text)
    drawing = workflow.on(ObjectInfo()).vary(random.Random(1), text=text.text, filename_prefix="")
    assert drawing.inputs == {"KSampler.cfg": 2.0, "KSampler.steps": 4}
    wrong = PromptText("a cat", {"KSampler.step": 4}, "prompts: p.jsonl, line 3")
    with pytest.raises(WorkflowError, match=r"^prompts: p\.jsonl, line 3: node 3 'KSampler' has no input 'step'"):
        TXT2IMG.with_text(wrong)


MANY = list(range(1, 9_999))


def test_one_bad_value_among_very_many_is_refused_by_name() -> None:
    for bad, says in (
        ("many", "'many': wants INT from 1 to 10000"),
        (0.5, "0.5: wants INT"),
        (True, "True: wants INT"),
    ):
        with pytest.raises(WorkflowError, match=rf"^KSampler\.steps = {says}"):
            drawn({"KSampler.steps": [*MANY, bad, *MANY]})
    with pytest.raises(WorkflowError, match=r"^KSampler\.positive = \['66', 0\]: no node '66' to link to; nearest: 6"):
        drawn({"KSampler.positive": [["6", 0], ["66", 0]]})


def test_of_very_many_values_only_those_that_are_drawn_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = Mock(side_effect=lambda value: value)
    monkeypatch.setattr(InputSpec, "convert", convert)
    workflow = TXT2IMG.on(INFO).with_inputs({"KSampler.steps": MANY, "KSampler.cfg": dict.fromkeys(MANY, 1)})
    prompts = [workflow.vary(random.Random(seed), text=None, filename_prefix="") for seed in range(9)]
    assert len({prompt.inputs["KSampler.steps"] for prompt in prompts}) > 1
    assert 2 * len(prompts) < convert.call_count < 4 * len(prompts)
    assert any(isinstance(setting, ChoiceInput) and setting.values is MANY for setting in workflow.settings)


def test_values_that_contradict_the_server_are_found_among_very_many() -> None:
    def doubted(value: Any) -> list[Any]:
        workflow = TXT2IMG.on(INFO).with_inputs({"KSampler.steps": value})
        return [option[InputRef("3", "steps")] for option in doubtful(workflow.nodes, workflow.settings[0])]

    assert doubted(MANY) == doubted(20) == doubted(uniform(1, 9)) == []
    assert doubted([*MANY, 10_001, *MANY]) == [10_001]
    assert doubted([*MANY, 0, *MANY]) == [0]
    assert doubted([4, ["6", 0]]) == [["6", 0]]
    names = TXT2IMG.on(INFO).with_inputs({"KSampler.sampler_name": ["euler", "eular"]})
    assert [*doubtful(names.nodes, names.settings[0])] == [{InputRef("3", "sampler_name"): "eular"}]
    unknown = TXT2IMG.with_inputs({"KSampler.steps": [0, 4]})
    assert [*doubtful(unknown.nodes, unknown.settings[0])] == []
