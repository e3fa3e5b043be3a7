"""Servers are asked once what is installed on them; those that do not answer delay nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.history.environment import subject_of
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.run import target as module
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.run.target import Installed, installed_on
from pytest_comfyload.scenario.scenario import Scenario
from tests.client.servers import FakeComfy, silent_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKS = {"my-pack": {"ver": COMMIT, "enabled": True}}


class _NothingElse(FakeComfy):
    async def _other(self, request: web.Request) -> web.StreamResponse:
        if request.path not in self.bodies:
            return web.Response(status=404)
        return await super()._other(request)


def _installed(bodies: dict[str, Any]) -> Installed:
    async def ask() -> Installed:
        async with _NothingElse(bodies=bodies) as server:
            (installed,) = await installed_on([ServerAddress(server.url)], ["loras"])
            return installed

    return asyncio.run(ask())


def test_a_manager_of_either_kind_and_the_sizes_of_models() -> None:
    sizes = [{"name": "a", "size": 5}]
    told = Installed({"my-pack": "0123456"}, {"loras": {"a": 5}})
    for path in ("/customnode/installed", "/v2/customnode/installed"):
        assert _installed({path: PACKS, "/experiment/models/loras": sizes}) == told


def test_a_server_that_has_none_of_it() -> None:
    assert _installed({}) == Installed({}, {"loras": {}})


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)

    async def ask() -> tuple[Installed, ...]:
        async with silent_server() as place:
            return await installed_on([ServerAddress(f"http://{place}")], ["vae"])

    assert asyncio.run(ask()) == (Installed({}, {"vae": {}}),)


def test_a_load_on_the_simulator_knows_them(tmp_path: Path) -> None:
    scenario = Scenario.build("lora", users=1, iterations=1, fetch=False, max_send_lag="30s")
    with SimulatorProcess(time_scale=100, custom_nodes={"my-pack": COMMIT}) as process:
        load = run_load(LoadRun(scenario, (ServerAddress(process.url),), "t", tmp_path, tmp_path))
    subject = subject_of(load.facts)
    assert subject["custom node my-pack"] == "0123456"
    for name in ("CheckpointLoaderSimple.ckpt_name", "LoraLoader.lora_name"):
        assert subject[name].endswith("000,000 B)")


def test_without_a_manager_the_packs_of_the_workflow_are_named(tmp_path: Path) -> None:
    graph = {
        "1": {"class_type": "ProbeSleep", "inputs": {"seconds": 0.1, "seed": 1, "width": 64}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    scenario = Scenario.build(graph, users=1, iterations=1, fetch=False, max_send_lag="30s")
    with SimulatorProcess(time_scale=100, probe_nodes=True) as process:
        load = run_load(LoadRun(scenario, (ServerAddress(process.url),), "t", tmp_path, tmp_path))
    assert load.facts.subject["custom node probe"] == "version unknown"
    assert load.facts.server_facts[0].custom_nodes == {}


@pytest.mark.parametrize("users", [1, 3])
def test_pictures_in_variants_are_told_by_the_one_that_they_are_made_of(
    users: int, server: ServerAddress, tmp_path: Path
) -> None:
    scenario = Scenario.build(
        "img2img", users=users, iterations=2, must_run=["VAEEncode"], fetch=False, max_send_lag="30s"
    )
    one, other = (run_load(LoadRun(scenario, (server,), "t", tmp_path, tmp_path)) for _ in range(2))
    assert one.facts.subject == other.facts.subject
    assert one.facts.subject["LoadImage.image"] == "comfyload/photo.png"
