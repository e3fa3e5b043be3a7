"""Workflows as people export them: subgraphs, linked seeds and texts, video, audio, text only."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.workflow import Workflow

EXPORTS = Path(__file__).parent / "data" / "exports"
TEXT = "a text of the load"


@pytest.mark.parametrize(
    ("name", "seed_spot", "text_spot", "prefix_node"),
    [
        ("subgraph", "57:3.seed", "57:60:6.text", "9"),
        ("linked_noise_seed", "32.value", "31.value", "9"),
        ("animatediff_video", "8.seed", "5.text", "11"),
        ("stable_audio", "3.seed", "6.text", "13"),
    ],
)
def test_an_export_is_varied_where_its_literals_stand(
    name: str, seed_spot: str, text_spot: str, prefix_node: str
) -> None:
    workflow = Workflow.load(EXPORTS / f"{name}.json")
    first, second = (
        workflow.on(ObjectInfo()).vary(random.Random(seed), text=TEXT, filename_prefix="comfyload/run")
        for seed in (1, 2)
    )
    node, _, name_of_text = text_spot.rpartition(".")
    assert list(first.seeds) == [seed_spot]
    assert first.seeds != second.seeds
    assert first.graph[node]["inputs"][name_of_text].rstrip() == TEXT
    assert first.graph[prefix_node]["inputs"]["filename_prefix"] == "comfyload/run"
    assert first.fresh >= {node, seed_spot.rpartition(".")[0]}


def test_a_linked_seed_stays_linked() -> None:
    workflow = Workflow.load(EXPORTS / "linked_noise_seed.json")
    graph = workflow.on(ObjectInfo()).vary(random.Random(1), text=TEXT, filename_prefix="x").graph
    assert graph["25"]["inputs"]["noise_seed"] == ["32", 0]
    assert graph["6"]["inputs"]["text"] == ["31", 0]


def test_a_text_only_export_stays_as_it_is() -> None:
    workflow = Workflow.load(EXPORTS / "text_only.json")
    variation = workflow.on(ObjectInfo()).vary(random.Random(1), text=TEXT, filename_prefix="x")
    assert variation.graph == workflow.graph
    assert (variation.fresh, variation.text) == (frozenset(), None)


def test_nodes_of_a_subgraph_are_addressed_by_id_title_and_class() -> None:
    workflow = Workflow.load(EXPORTS / "subgraph.json")
    for address in ("57:3.steps", "KSampler.steps"):
        assert workflow.with_inputs({address: 4}).graph["57:3"]["inputs"]["steps"] == 4
    assert workflow.with_inputs({"Empty Latent Image.width": 64}).graph["57:5"]["inputs"]["width"] == 64
    assert workflow.models() == {"57:4.ckpt_name": "v1-5-pruned-emaonly.safetensors"}
