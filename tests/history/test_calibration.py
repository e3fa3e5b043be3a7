from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.calibration import calibration_of, node_times_of
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.store import Store
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.service_times import gaps_between
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.simulator.settings import Calibration
from tests.history.records import golden
from tests.result.outcomes import outcome


def store_with(folder: Path, *nodes: tuple[NodeInterval, ...], warmup: tuple[NodeInterval, ...] = ()) -> Store:
    """Return a store with one run: a successful prompt for each of `nodes`, after a warm-up prompt."""
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


def calibration(store: Store) -> Calibration:
    return calibration_of(store, store.runs(), "latest", Git(Path.cwd()))


def test_whole_prompts_in_sum_as_long_as_their_generations(tmp_path: Path) -> None:
    sampler, save = NodeInterval("3", "KSampler", 0.0, 2.0), NodeInterval("9", "SaveImage", 2.0, 2.5)
    found = calibration(store_with(tmp_path, (sampler, save), (sampler,), warmup=(sampler,)))
    assert [each.cold for each in found.prompts] == [True, False, False]
    assert [sorted(each.nodes) for each in found.prompts] == [["KSampler"], ["KSampler", "SaveImage"], ["KSampler"]]
    for prompt, measured in zip(found.prompts, _successes(tmp_path), strict=True):
        assert sum(map(sum, prompt.nodes.values())) + prompt.other == pytest.approx(measured)


def test_a_calibration_is_handed_over_as_it_is(tmp_path: Path) -> None:
    sampler = NodeInterval("3", "KSampler", 0.0, 2.0)
    found = calibration(store_with(tmp_path, (sampler,), (sampler,), warmup=(sampler,)))
    assert Calibration.from_json(found.to_json()) == found
    stated = found.with_times({"KSampler": 9.0})
    assert (stated.node_times["KSampler"], stated.prompts[0].nodes["KSampler"]) == (9.0, [9.0])
    for bad in ("", "[]", "{}", '{"prompts": [3], "gaps": [], "node_times": {}}'):
        with pytest.raises(UsageError, match="cannot be read"):
            Calibration.from_json(bad)


def test_a_simulator_pauses_between_prompts_as_the_run_did(tmp_path: Path) -> None:
    """One pause in four is four seconds long; the others are zero."""
    with SimulatorProcess(gaps=[0.0, 0.0, 0.0, 4.0], node_times={"KSampler": 0.5}, time_scale=40) as server:
        load = _load(server.url, tmp_path, users=12, iterations=8)
    gaps = gaps_between([load.outcomes])
    assert load.invalid_because is None
    assert len(gaps) >= 60
    assert {round(gap) for gap in gaps} == {0, 4}
    assert 0.05 < statistics.fmean(gap > 2 for gap in gaps) < 0.6


def _successes(folder: Path) -> list[float | None]:
    store = Store.open(folder)
    return [each.generation_time for each in store.load(store.runs()[0]).outcomes if each.succeeded]


@pytest.mark.parametrize("calibrated", [True, False])
def test_the_service_times_of_a_simulator_are_those_of_the_run(calibrated: bool, tmp_path: Path) -> None:
    """The run was bimodal, on a fast GPU; the simulated GPU is a slow one, and its prompts are all alike."""
    from scipy import stats  # type: ignore[import-untyped]

    with SimulatorProcess(gpu="h100", time_scale=400, seed=5) as server:
        load = _load(server.url, tmp_path, inputs={"KSampler.steps": [8, 40]})
    store = Store.open(tmp_path / "store")
    store.add(msgspec.structs.replace(golden(), outcomes=tuple(load.all_outcomes)))
    measured = [each.generation_time for each in load.outcomes]
    arguments = ["--calibrate", "latest", "--store", str(tmp_path / "store")] if calibrated else []
    command = "from pytest_comfyload.cli import main; main()"
    options = ["simulate", "--port", "0", "--gpu", "rtx3060", "--time-scale", "400", "--exit-with-parent", *arguments]
    with subprocess.Popen(
        [sys.executable, "-c", command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout
            again = _load(child.stdout.readline().split()[-1], tmp_path)
        finally:
            child.kill()
    simulated = [each.generation_time for each in again.outcomes]
    same = stats.ks_2samp(measured, simulated).pvalue
    assert same > 0.01 if calibrated else same < 1e-6
    if calibrated:
        # The time to load models is charged once: the first prompts of both runs take the same time.
        cold, colds = again.all_outcomes[0].generation_time, load.all_outcomes[0].generation_time
        assert cold == pytest.approx(colds, rel=0.05)


def _load(url: str, folder: Path, **arguments: Any) -> LoadResult:
    scenario = Scenario.build(
        "txt2img",
        **{"users": 1, "iterations": 120, **arguments},
        fetch=False,
        max_send_lag="60s",
        timeout="100m",
        seed=3,
    )
    return run_load(LoadRun(scenario, (ServerAddress.parse(url),), "a title", folder, folder))
