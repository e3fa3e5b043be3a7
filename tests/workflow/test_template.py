from __future__ import annotations

import copy
import json
import random
from typing import Any
from unittest.mock import Mock, call

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.scenario.distributions import uniform
from pytest_comfyload.workflow import template
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.slots import Slots
from pytest_comfyload.workflow.template import DrawnPrompt
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import INFO, OBJECT_INFO, TXT2IMG, vary


def test_seed_text_and_prefix_change_and_nothing_else() -> None:
    before = copy.deepcopy(TXT2IMG.graph)
    variation = vary(TXT2IMG)
    expected = copy.deepcopy(dict(before))
    expected["3"]["inputs"]["seed"] = variation.seeds["3.seed"]
    expected["6"]["inputs"]["text"] = variation.graph["6"]["inputs"]["text"]
    expected["9"]["inputs"]["filename_prefix"] = "load/x"
    assert variation.graph == expected
    assert variation.graph["6"]["inputs"]["text"].rstrip() == variation.text == "TEXT"
    assert variation.fresh == {"3", "6", "8", "9"}
    assert variation.needed == set(before)
    assert TXT2IMG.graph == before


def test_the_same_generator_gives_the_same_prompts() -> None:
    assert vary(TXT2IMG, seed=5) == vary(TXT2IMG, seed=5)
    assert vary(TXT2IMG, seed=5).seeds != vary(TXT2IMG, seed=6).seeds
    rng = random.Random(1)
    seeds = [TXT2IMG.on(ObjectInfo()).vary(rng, text=None, filename_prefix="").seeds["3.seed"] for _ in range(50)]
    assert len(set(seeds)) == 50


def test_what_the_user_set_stays_as_set() -> None:
    workflow = TXT2IMG.with_inputs({"3.seed": 7, "6.text": "mine", "9.filename_prefix": "here"})
    variation = vary(workflow)
    assert variation.graph == workflow.graph
    assert (variation.fresh, variation.seeds, variation.text) == (frozenset(), {}, None)


node_ids = st.sampled_from(["1", "2", "3", "4:1"])
values = st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.tuples(node_ids, st.integers(0, 2)))
input_names = st.sampled_from(
    ["seed", "noise_seed", "value", "text", "positive", "negative", "conditioning", "filename_prefix", "x"]
)
class_types = st.sampled_from(["KSampler", "CLIPTextEncode", "PrimitiveInt", "BasicGuider", "SaveImage", "Unknown"])
graphs = st.fixed_dictionaries(
    {
        node_id: st.fixed_dictionaries(
            {"class_type": class_types, "inputs": st.dictionaries(input_names, values, max_size=5)}
        )
        for node_id in ("1", "2", "3", "4:1")
    }
)


@given(graphs, st.integers(0, 99), st.sampled_from([None, OBJECT_INFO]))
def test_a_variation_differs_only_where_it_says(graph: dict[str, Any], seed: int, info: Any) -> None:
    workflow = Workflow.load(graph)
    before = copy.deepcopy(workflow.graph)
    variation = vary(workflow, seed, info=info)
    assert workflow.graph == before
    assert json.loads(json.dumps(variation.graph)) == variation.graph
    assert list(variation.graph) == list(before)
    for node_id, node in before.items():
        new = variation.graph[node_id]
        assert list(new["inputs"]) == list(node["inputs"])
        changed = {name for name, value in new["inputs"].items() if value != node["inputs"][name]}
        drawn = {name for name in changed if variation.seeds.get(f"{node_id}.{name}") == new["inputs"][name]}
        for name in changed - drawn:
            # An input of any name may feed a text encoder.
            given = {variation.text, "load/x"} if name == "filename_prefix" else {variation.text}
            assert new["inputs"][name].rstrip() in given
        if changed - {"filename_prefix"}:
            assert node_id in variation.fresh


def drawn_texts(workflow: Workflow, n: int = 50, **more: Any) -> list[str]:
    """Return the texts of the positive prompt in `n` prompts."""
    variations = (workflow.on(INFO).vary(random.Random(seed), filename_prefix="x", **more) for seed in range(n))
    return [variation.graph["6"]["inputs"]["text"] for variation in variations]


@given(st.text(min_size=1), st.integers(0, 2**32))
def test_each_prompt_has_a_text_of_its_own_that_reads_as_given(text: str, seed: int) -> None:
    first, again, other = (vary(TXT2IMG, each, text) for each in (seed, seed, seed + 1))
    sent = [variation.graph["6"]["inputs"]["text"] for variation in (first, again, other)]
    assert sent[0] == sent[1] != sent[2]
    assert first.text is not None
    assert sent[0].startswith(first.text)
    assert set(sent[0].removeprefix(first.text)) <= {" ", "\n"}


def test_a_text_is_left_alone_where_that_is_asked_for_or_the_seed_makes_it_unique() -> None:
    assert set(drawn_texts(TXT2IMG, text="a cat", vary_text=False)) == {"a cat"}
    seeded = drawn_texts(TXT2IMG, text="a cat {seed}")
    assert len(set(seeded)) == 50
    assert seeded == [text.rstrip() for text in seeded]
    # The index of a prompt starts at 0 in every run, so it does not make the text unique.
    assert len(set(drawn_texts(TXT2IMG, text="a cat {index}", place={"index": 0}))) == 50


@pytest.mark.parametrize(
    ("inputs", "more", "fresh"),
    [
        ({}, {}, {"3", "6", "8", "9"}),
        ({}, {"vary_text": False}, {"3", "8", "9"}),
        ({"3.seed": 7}, {}, {"3", "6", "8", "9"}),
        ({"3.seed": 7}, {"vary_text": False}, set()),
        ({"3.seed": 7}, {"vary_text": False, "text": "a {seed}"}, {"3", "6", "8", "9"}),
        ({"3.seed": 7}, {"vary_text": False, "text": "a {index}"}, set()),
        ({"3.seed": [7, 8], "4.ckpt_name": ["a", "b"], "6.text": "x"}, {}, set()),
        ({"3.seed": 7, "6.text": "x {seed}"}, {}, {"3", "6", "8", "9"}),
        ({"3.seed": 7, "6.text": "x", "9.filename_prefix": "{seed}"}, {}, set()),
    ],
)
def test_what_must_run_is_what_new_input_leads_to(
    inputs: dict[str, Any], more: dict[str, Any], fresh: set[str]
) -> None:
    workflow = TXT2IMG.with_inputs(inputs)
    given = {"text": "a cat", "filename_prefix": "x", **more}
    assert workflow.vary(random.Random(1), **given).fresh == fresh


def test_what_leads_to_no_output_is_not_needed() -> None:
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "LoraLoader", "inputs": {"lora_name": "left over"}},
    }
    info = {"LoraLoader": {"output_node": False}, "PreviewImage": {"output_node": True}}
    assert vary(Workflow.load(graph), info=info).needed == {"1", "2"}
    assert vary(Workflow.load(graph), info=None).needed == {"1", "2", "3"}
    assert Workflow.load(graph).on(ObjectInfo(info)).node_counts() == {"LoadImage": 1, "PreviewImage": 1}


def test_what_is_drawn_decides_what_runs() -> None:
    """A template determines what runs once for each form of the graph, and each drawn link is another form."""
    workflow = TXT2IMG.on(INFO).with_inputs({"KSampler.positive": [["6", 0], ["7", 0]], "KSampler.seed": 7})
    runs = {
        (prompt.graph["3"]["inputs"]["positive"][0], prompt.fresh)
        for prompt in (workflow.vary(random.Random(seed), text="TEXT", filename_prefix="x") for seed in range(20))
    }
    # Only encoder "6" has a text of its own, and in some prompts it feeds nothing.
    assert runs == {("6", frozenset({"6", "3", "8", "9"})), ("7", frozenset({"6"}))}


def test_prompts_of_one_workflow_differ_in_what_runs() -> None:
    """What runs depends on the text, and on whether a value names an image that could be varied."""
    set_seed = TXT2IMG.on(INFO).with_inputs({"3.seed": 7})
    given = [("a {index}", True), ("a {index}", False), ("a {seed}", False), (None, True)]
    fresh = [
        set_seed.vary(random.Random(1), text=text, filename_prefix="x", vary_text=vary_text).fresh
        for text, vary_text in given
    ]
    assert fresh == [{"3", "6", "8", "9"}, set(), {"3", "6", "8", "9"}, set()]
    saving = Workflow.load({"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": ""}}})
    saving = saving.always_running(["SaveImage"], draws=True)
    prompts = [saving.vary(random.Random(1), text=None, filename_prefix=name) for name in ("x", "x.png", "x")]
    assert [prompt.unsatisfied for prompt in prompts] == [("1",), (), ("1",)]


def test_a_template_looks_at_the_graph_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Mock()
    for name in ("positive_texts", "free_texts", "pictures"):
        monkeypatch.setattr(Slots, name, getattr(looked, name))
        getattr(looked, name).return_value = []
    inputs = {"KSampler.steps": [4, 8], "KSampler.cfg": uniform(1, 9), "7.text": ["bad {index}", "worse"]}
    workflow = TXT2IMG.on(INFO).with_inputs(inputs).always_running(["KSampler"])
    prompts = [workflow.vary(random.Random(seed), text="TEXT", filename_prefix=f"{seed}") for seed in range(50)]
    assert len({json.dumps(prompt.graph) for prompt in prompts}) == 50
    assert looked.mock_calls == [call.positive_texts(), call.pictures(), call.free_texts()]


def test_the_prompts_of_a_seed_are_these() -> None:
    """The order of the draws keeps runs reproducible, also by later versions."""
    inputs = {"KSampler.steps": [4, 8, 20], "KSampler.cfg": uniform(1, 9), "9.filename_prefix": {"x": 1, "y {seed}": 2}}
    workflow = TXT2IMG.on(INFO).with_inputs(inputs).always_running(["CLIPTextEncode"])
    drawn = []
    for seed in range(3):
        prompt = workflow.vary(random.Random(seed), text="a {index}", filename_prefix="x", place={"index": seed})
        ends = [[*map(len, prompt.graph[node]["inputs"]["text"].split("\n"))] for node in ("6", "7")]
        drawn.append((prompt.text, *prompt.seeds.values(), *prompt.inputs.values(), ends))
    assert drawn == [
        ("a 0", 6939962107496397, 20, 1.3238750254462204, "y 6939962107496397",
         [[66, 52, 39, 62, 46], [64, 18, 37, 18, 13]]),
        ("a 1", 1136833878997956, 4, 7.087699559300605, "y 1136833878997956",
         [[52, 27, 13, 63, 4], [86, 56, 1, 58, 35]]),
        ("a 2", 1649843210167967, 8, 2.3526689252835498, "y 1649843210167967",
         [[43, 33, 28, 5, 21], [92, 51, 48, 57, 35]]),
    ]  # fmt: skip


def test_a_template_forgets_forms_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"KSampler.positive": [["6", 0], ["7", 0]], "KSampler.negative": [["6", 0], ["7", 0]]}
    workflow = TXT2IMG.on(INFO).with_inputs(inputs)

    def prompts() -> list[DrawnPrompt]:
        return [workflow.vary(random.Random(seed), text="TEXT", filename_prefix="x") for seed in range(50)]

    with_all = prompts()
    monkeypatch.setattr(template, "_MOST_FORMS", 1)
    assert prompts() == with_all
