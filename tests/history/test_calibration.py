from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.calibration import node_times_of
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.store import Store
from pytest_comfyload.protocol.timeline import NodeInterval
from tests.history.records import golden
from tests.result.outcomes import outcome


def store_with(folder: Path, *nodes: tuple[NodeInterval, ...], warmup: tuple[NodeInterval, ...] = ()) -> Store:
    """One run with a successful prompt for each, after a warm-up prompt with these."""
    loading = outcome(-90.0, warmup=True, nodes=warmup)
    outcomes = (loading, *(outcome(float(at), nodes=each) for at, each in enumerate(nodes)))
    store = Store.open(folder)
    store.add(msgspec.structs.replace(golden(), outcomes=outcomes))
    return store


def times(store: Store, ref: str = "latest") -> dict[str, float]:
    return node_times_of(store, store.runs(), ref, Git(Path.cwd()))


def test_the_median_of_each_class(tmp_path: Path) -> None:
    sampler, save = NodeInterval("3", "KSampler", 0.0, 2.0), NodeInterval("9", "SaveImage", 5.0, 5.5)
    prompts = [(dataclasses.replace(sampler, end=end), save) for end in (2.0, 9.0, 3.0)]
    assert times(store_with(tmp_path, *prompts)) == {"KSampler": 3.0, "SaveImage": 0.5}


def test_warm_up_counts_for_classes_that_ran_in_no_other_prompt(tmp_path: Path) -> None:
    warmup = (NodeInterval("1", "VAELoader", 0.0, 4.0), NodeInterval("3", "KSampler", 4.0, 64.0))
    store = store_with(tmp_path, (NodeInterval("3", "KSampler", 0.0, 2.0),), warmup=warmup)
    assert times(store) == {"KSampler": 2.0, "VAELoader": 4.0}


def test_a_run_in_which_no_node_ran_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'latest' has no node that ran in a successful prompt"):
        times(store_with(tmp_path, ()))


def test_a_name_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run is named 'yesterday'"):
        times(store_with(tmp_path), "yesterday")
