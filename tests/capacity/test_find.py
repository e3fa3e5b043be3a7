"""A capacity search sends scenarios: the user's own arguments, with a load that the search chooses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.capacity.answer import Capacity
from pytest_comfyload.capacity.find import find_capacity
from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.executors import ConstantUsers, PerUserIterations
from pytest_comfyload.scenario.scenario import Scenario

SLEEPING = {
    "1": {"class_type": "ProbeSleep", "inputs": {"seconds": 2.0, "seed": 1, "width": 64}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "probe"}},
}


@pytest.fixture
def server() -> Iterator[ServerAddress]:
    with SimulatorProcess(time_scale=40, probe_nodes=True) as process:
        yield ServerAddress(process.url)


def test_users_on_a_server_with_known_service_times(server: ServerAddress, tmp_path: Path) -> None:
    scenarios: list[Scenario] = []

    def run(scenario: Scenario, title: str) -> LoadResult:
        scenarios.append(scenario)
        return run_load(LoadRun(scenario, (server,), title, tmp_path, tmp_path))

    capacity = find_capacity(
        SLEEPING,
        slo="total_time.p95 < 21",
        arrival="users",
        budget="20m",
        server_count=1,
        run=run,
        max_send_lag="30s",
        seed=7,
    )
    # A prompt sleeps for two seconds of the simulated clock. The server and a busy machine add up to three more, which
    # are 0.1 s of real time.
    assert 4 <= capacity.value <= 10, capacity.sentence()
    assert capacity.limited_by == "queue"
    warm_up, measuring, *confirming = scenarios
    assert warm_up.executor == PerUserIterations(1, 3)
    assert isinstance(measuring.executor, ConstantUsers)
    assert measuring.executor.users == 2
    assert [scenario.warmup for scenario in scenarios[:3]] == [1, 0, 0]
    assert len({scenario.seed for scenario in scenarios}) == len(scenarios)
    assert len(confirming) in (1, 3)
    assert all(scenario.max_send_lag == 30 for scenario in scenarios)


def test_an_open_load_is_asked_for_by_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """All scenarios are built before the first prompt is sent, so that a bad argument costs no time."""
    built: list[dict[str, Any]] = []

    def build(workflow: object, **arguments: Any) -> Scenario:
        built.append(arguments)
        raise UsageError("enough")

    monkeypatch.setattr(Scenario, "build", build)
    with pytest.raises(UsageError, match="enough"):
        _find(inputs={"KSampler.steps": 4})
    expected = {"rate": "1/min", "arrival": "poisson", "duration": 60.0, "inputs": {"KSampler.steps": 4}, "warmup": 0}
    assert built == [expected]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"slo": "total_time < 60"}, "cannot be parsed"),
        ({"budget": "soon"}, "budget='soon' is not a duration"),
        ({"budget": 0}, "is not positive"),
        ({"arrival": "poison"}, "arrival='poison': legal: poisson, users"),
        ({"arrival": "users", "slo": "generation_time.p95 < 9"}, "does not depend on the number of users"),
        ({"think_time": 5}, "give arrival='users'"),
        ({"users": 5}, "decides users itself; leave users=5 out"),
        ({"arrival": "users", "userz": 5}, "no argument 'userz'"),
        ({"arrival": "users", "warmup": -1}, "warmup=-1"),
        ({"arrival": "users", "seed": "x"}, "seed='x'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        _find(**arguments)


def _find(**arguments: Any) -> Capacity:
    def run(scenario: Scenario, title: str) -> LoadResult:
        raise AssertionError("nothing may run")

    return find_capacity("txt2img", **{"slo": "total_time.p95 < 60", "server_count": 1, "run": run, **arguments})
