from __future__ import annotations

import copy
import json
import random
from typing import Any
from unittest.mock import Mock, call

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.scenario.distributions import uniform
from pytest_comfyload.workflow.graph import InputRef, spots
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.slots import Slots
from pytest_comfyload.workflow.template import DrawnPrompt
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import CONTROLNET, FLUX, INFO, OBJECT_INFO

TXT2IMG = Workflow.load("txt2img")


def vary(workflow: Workflow, seed: int = 1, text: str | None = "TEXT", info: Any = OBJECT_INFO) -> DrawnPrompt:
    return workflow.on(ObjectInfo(info)).vary(random.Random(seed), text=text, filename_prefix="load/x")


def with_seed(spec: list[Any]) -> dict[str, Any]:
    return {"Sampler": {"input": {"required": {"seed": spec}}}}


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


def test_a_linked_seed_is_varied_at_its_source() -> None:
    variation = vary(Workflow.load(FLUX))
    assert variation.graph["57:3"]["inputs"]["value"] == variation.seeds["57:3.value"]
    assert variation.graph["5"]["inputs"]["noise_seed"] == ["57:3", 0]
    assert variation.fresh >= {"57:3", "2", "5"}


@pytest.mark.parametrize("address", ["57:3.value", "5.noise_seed"])
def test_a_linked_seed_that_the_user_set_stays_on_either_end(address: str) -> None:
    assert vary(Workflow.load(FLUX).with_inputs({address: 5})).seeds == {}


def test_one_source_of_two_seeds_stays_within_both_ranges() -> None:
    graph = {
        "1": {"class_type": "Sampler", "inputs": {"seed": ["3", 0]}},
        "2": {"class_type": "Sampler2", "inputs": {"noise_seed": ["3", 0]}},
        "3": {"class_type": "PrimitiveInt", "inputs": {"value": 5}},
    }
    info = {
        **with_seed(["INT", {"min": 10, "max": 20}]),
        "Sampler2": {"input": {"required": {"noise_seed": ["INT", {"min": 15, "max": 2**64}]}}},
        "PrimitiveInt": OBJECT_INFO["PrimitiveInt"],
    }
    seeds = {vary(Workflow.load(graph), seed, info=info).seeds["3.value"] for seed in range(200)}
    assert seeds == set(range(15, 21))


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        (["INT", {"min": 0, "max": 3}], 0, 3),
        (["INT", {"min": -2, "max": 1}], 0, 1),
        (["INT", {"min": -5, "max": -3}], -5, -3),
        (["INT", {"min": 0, "max": 2**64 - 1}], 0, 2**53),
        (["INT", {}], 0, 2**32 - 1),
    ],
)
def test_a_seed_keeps_to_what_the_server_takes(spec: list[Any], low: int, high: int) -> None:
    workflow = Workflow.load({"1": {"class_type": "Sampler", "inputs": {"seed": 1}}})
    drawn = [vary(workflow, seed, info=with_seed(spec)).seeds["1.seed"] for seed in range(100)]
    assert low <= min(drawn)
    assert max(drawn) <= high
    assert max(drawn) > high - (high - low) / 3 - 1


def test_only_whole_numbers_called_seed_are_seeds() -> None:
    inputs = {
        "seed": 1,
        "noise_seed": 2,
        "wave_seed": 3,
        "use_seed": True,
        "seeds": 4,
        "seed_mode": "fixed",
        "x_seed": "n",
    }
    workflow = Workflow.load({"1": {"class_type": "Odd", "inputs": inputs}})
    assert set(vary(workflow, info=None).seeds) == {"1.seed", "1.noise_seed", "1.wave_seed"}
    floats = {"Odd": {"input": {"required": {"seed": ["FLOAT", {}]}}}}
    assert "1.seed" not in vary(workflow, info=floats).seeds


@pytest.mark.parametrize("info", [None, with_seed(["INT", {"max": 5}])])
def test_a_seed_written_as_text_is_a_number(info: Any) -> None:
    seeds = vary(Workflow.load({"1": {"class_type": "Sampler", "inputs": {"seed": "42"}}}), info=info).seeds
    assert type(seeds["1.seed"]) is int


def test_a_seed_that_the_server_takes_as_text_stays() -> None:
    workflow = Workflow.load({"1": {"class_type": "Sampler", "inputs": {"seed": "42"}}})
    assert vary(workflow, info=with_seed(["STRING", {}])).seeds == {}


@pytest.mark.parametrize("high", [float("inf"), float("nan"), 1e400, None, "9"])
def test_a_seed_without_a_bound_is_drawn_all_the_same(high: Any) -> None:
    workflow = Workflow.load({"1": {"class_type": "Sampler", "inputs": {"seed": 1}}})
    assert 0 <= vary(workflow, info=with_seed(["INT", {"min": 0, "max": high}])).seeds["1.seed"] < 2**32


JOINED: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["6", 0], "negative": ["7", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["30", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad"}},
    "30": {"class_type": "Join", "inputs": {"string_a": "masterpiece", "string_b": "a cat", "delimiter": ", "}},
}
STRINGS = {"required": {name: ["STRING", {}] for name in ("string_a", "string_b", "delimiter")}}
STYLES = {"required": {"style": [["noir", "pop"], {}], "picture": ["IMAGE"], **STRINGS["required"]}}


def joined(nodes: dict[str, Any], **inputs: Any) -> Workflow:
    return Workflow.load({**JOINED, "30": {"class_type": "Join", "inputs": inputs}, **nodes})


@pytest.mark.parametrize("info", [None, {**OBJECT_INFO, "Join": {"input": STYLES}}])
@pytest.mark.parametrize(
    "inputs",
    [
        {"string_b": "a cat", "delimiter": ", "},
        {"string_a": "", "string_b": "a cat", "separator": " and "},
        {"string_a": ["40", 0], "string_b": " -- "},
        {"string_a": "", "string_b": 5},
    ],
)
def test_a_text_goes_to_the_one_text_that_a_prompt_is_joined_of(inputs: dict[str, Any], info: Any) -> None:
    source = {"40": {"class_type": "PrimitiveString", "inputs": {"value": "a cat"}}}
    workflow = joined(source, **inputs).on(ObjectInfo(info)).taking_texts([])
    variation = vary(workflow, info=info)
    changed = {spot for spot, value in spots(variation.graph) if str(value).rstrip() == "TEXT"}
    assert changed == set(workflow.text_spots or ())
    assert len(changed) == 1
    assert variation.text == "TEXT"


def test_a_joined_text_takes_no_choice_and_no_path_for_a_prompt() -> None:
    inputs = {"style": "noir", "picture": ["41", 0], "string_a": "a cat"}
    loaded = {"41": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}}
    workflow = joined(loaded, **inputs)
    info = {**OBJECT_INFO, "Join": {"input": STYLES}}
    assert workflow.on(ObjectInfo(info)).taking_texts([]).text_spots == (InputRef("30", "string_a"),)


def test_several_texts_are_named_with_the_way_to_choose() -> None:
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(JOINED).on(INFO).taking_texts([])
    assert str(caught.value) == (
        "prompts: workflow has 2 texts that may be the prompt: 30.string_a Join = 'masterpiece'; 30.string_b Join = "
        "'a cat'; set the others by inputs=, such as {'30.string_a': ...}, or draw one of them: "
        "inputs={'30.string_b': [..., ...]}"
    )
    chosen = Workflow.load(JOINED).on(INFO).taking_texts(["Join.string_a"])
    assert chosen.text_spots == (InputRef("30", "string_b"),)


def test_prompts_without_a_place_are_refused() -> None:
    with pytest.raises(WorkflowError, match=r"no text input .* beside 6.text, which inputs= sets"):
        TXT2IMG.on(INFO).taking_texts(["6.text"])
    silent = Workflow.load({"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}})
    with pytest.raises(WorkflowError, match="no text input on the way to a text encoder; leave prompts out"):
        silent.on(INFO).taking_texts([])
    assert silent.on(INFO).taking_texts([], optional=True).text_spots == ()


def test_without_an_encoder_prompts_go_to_the_only_text_input() -> None:
    speech = {"1": {"class_type": "Speak", "inputs": {"text": "hello", "voice": "low"}}}
    said = vary(Workflow.load(speech).on(ObjectInfo()).taking_texts([])).graph["1"]["inputs"]
    assert (said["text"].rstrip(), said["voice"]) == ("TEXT", "low")
    with pytest.raises(WorkflowError, match="2 texts that may be the prompt"):
        Workflow.load({**speech, "2": speech["1"]}).on(ObjectInfo()).taking_texts([])


def test_a_loop_of_texts_ends() -> None:
    graph = {**JOINED, "30": {"class_type": "Join", "inputs": {"string_a": ["31", 0], "string_b": ["31", 0]}}}
    graph["31"] = {"class_type": "Join", "inputs": {"string_a": ["30", 0], "string_b": ["30", 0]}}
    assert vary(Workflow.load(graph)).text is None


def test_the_text_finds_the_positive_prompt_through_a_control_net() -> None:
    variation = vary(Workflow.load(CONTROLNET))
    assert variation.graph["2"]["inputs"]["value"].rstrip() == "TEXT"
    assert variation.graph["4"]["inputs"]["text"] == "ugly"
    assert variation.graph["8"]["inputs"]["image"] == "edges.png"
    assert variation.fresh >= {"2", "6", "7"}
    assert "4" not in variation.fresh


def test_the_text_finds_the_positive_prompt_of_a_guider() -> None:
    assert vary(Workflow.load(FLUX)).graph["2"]["inputs"]["text"].rstrip() == "TEXT"


def test_a_negative_made_of_the_positive_does_not_hide_it() -> None:
    graph = {
        "1": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a", "text_l": "b", "width": 64}},
        "2": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["1", 0]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "c"}},
        "4": {
            "class_type": "ConditioningCombine",
            "inputs": {"conditioning_1": ["1", 0], "conditioning_2": ["3", 0]},
        },
        "5": {"class_type": "Reroute", "inputs": {"": ["4", 0]}},
        "6": {"class_type": "KSampler", "inputs": {"positive": ["5", 0], "negative": ["2", 0]}},
    }
    new = Workflow.load(graph).on(INFO).vary(random.Random(1), text="TEXT", filename_prefix="", vary_text=False).graph
    assert (new["1"]["inputs"], new["3"]["inputs"]) == (
        {"text_g": "TEXT", "text_l": "TEXT", "width": 64},
        {"text": "TEXT"},
    )


def test_a_source_takes_only_what_the_server_says_it_takes() -> None:
    graph = {
        "1": {"class_type": "Styles", "inputs": {"style": "noir", "value": 3}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ["1", 0]}},
        "3": {"class_type": "KSampler", "inputs": {"seed": ["1", 1], "positive": ["2", 0]}},
    }
    styles = {"required": {"style": [["noir", "pop"], {}], "value": ["FLOAT", {}]}}
    variation = vary(Workflow.load(graph), info={**OBJECT_INFO, "Styles": {"input": styles}})
    assert (variation.graph, variation.fresh) == (graph, frozenset())


def test_literals_do_not_bar_the_way_to_the_positive_prompt() -> None:
    graph = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}},
        "2": {"class_type": "Custom", "inputs": {"second_pass": 1.0, "in": ["1", 0]}},
        "3": {"class_type": "KSampler", "inputs": {"positive": ["2", 0]}},
    }
    assert vary(Workflow.load(graph)).graph["1"]["inputs"]["text"].rstrip() == "TEXT"


def test_without_a_positive_prompt_the_text_stays() -> None:
    graph = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}}}
    variation = vary(Workflow.load(graph))
    assert (variation.text, variation.fresh, variation.graph) == (None, frozenset(), graph)
    assert vary(TXT2IMG, text=None).text is None


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
            # A text encoder may be fed from an input of any name.
            given = {variation.text, "load/x"} if name == "filename_prefix" else {variation.text}
            assert new["inputs"][name].rstrip() in given
        if changed - {"filename_prefix"}:
            assert node_id in variation.fresh


def drawn_texts(workflow: Workflow, n: int = 50, **more: Any) -> list[str]:
    """The texts of the positive prompt in `n` prompts."""
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
    # The number of a prompt begins anew with each run.
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
    """A template works out once what runs in a form of the graph, and there are as many forms as there are links."""
    workflow = TXT2IMG.on(INFO).with_inputs({"KSampler.positive": [["6", 0], ["7", 0]], "KSampler.seed": 7})
    runs = {
        (prompt.graph["3"]["inputs"]["positive"][0], prompt.fresh)
        for prompt in (vary(workflow, seed) for seed in range(20))
    }
    # A text of its own has only the encoder "6", which in some prompts feeds nothing.
    assert runs == {("6", frozenset({"6", "3", "8", "9"})), ("7", frozenset({"6"}))}


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
    """The order in which things are drawn makes a run reproducible, also by a later version."""
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
