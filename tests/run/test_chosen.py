"""A run uses the servers that its scenario chooses; no request is sent to the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario

NOBODY = ServerAddress("http://127.0.0.1:9")


@pytest.fixture(scope="module")
def probing() -> Iterator[ServerAddress]:
    """A server with node classes that the other one lacks."""
    with SimulatorProcess(time_scale=100, probe_nodes=True) as process:
        yield ServerAddress(process.url)


SLEEP = {
    "1": {"class_type": "ProbeSleep", "inputs": {"seconds": 1.0, "seed": 1, "width": 64}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "probe"}},
}


def _run(named: tuple[ServerAddress, ...], store: Path, **arguments: Any) -> LoadResult:
    scenario = Scenario.build(**{"workflow": "txt2img", "max_send_lag": "30s", "fetch": False, **arguments})
    return run_load(LoadRun(scenario, named, "a title", store, store))


def test_the_first_so_many(server: ServerAddress, tmp_path: Path) -> None:
    load = _run((server, NOBODY), tmp_path, servers=1)
    assert load.facts.servers == (server.url,)
    assert load.success_rate == 100


def test_by_url_and_by_place(server: ServerAddress, probing: ServerAddress, tmp_path: Path) -> None:
    named = (NOBODY, server, probing)
    by_url = _run(named, tmp_path, servers=f"{server.url}/")
    assert {outcome.server for outcome in by_url.all_outcomes} == {server.url}
    by_place = _run(named, tmp_path, servers=[2, 1], users=2, balance="round_robin")
    assert by_place.facts.servers == (server.url, probing.url)
    assert {outcome.server for outcome in by_place.outcomes} == {server.url, probing.url}


def test_each_group_goes_to_its_own_servers_which_need_its_nodes_only(
    server: ServerAddress, probing: ServerAddress, tmp_path: Path
) -> None:
    groups = {"pictures": {"users": 2, "servers": [server.url]}, "sleep": {"workflow": SLEEP, "servers": [2]}}
    load = _run((server, NOBODY, probing), tmp_path, groups=groups)
    assert load.success_rate == 100
    used = {(outcome.group, outcome.server, outcome.warmup) for outcome in load.all_outcomes}
    assert used == {
        (group, address.url, warmup)
        for group, address in (("pictures", server), ("sleep", probing))
        for warmup in (True, False)
    }


def test_a_server_that_was_not_named_starts_no_load(server: ServerAddress, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"http://gpu9:8188 is not one of the servers of this run; legal: http://127"):
        _run((server,), tmp_path, servers="http://gpu9:8188")
    with pytest.raises(UsageError, match="servers=2 needs 2 servers, and there is only http://127"):
        _run((server,), tmp_path, servers=2)
    assert not (tmp_path / ".comfyload").exists()
