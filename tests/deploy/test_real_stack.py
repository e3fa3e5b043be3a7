"""The rendered stack before two real ComfyUI servers: a load through nginx, and through nginx and the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.deploy.examined import Deployment
from pytest_comfyload.deploy.front_checks import check_balancer
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.benchmarks.bench_plan import TINY, Plan, servers_of
from tests.deploy.front import nginx, rendered, rendered_queue

pytestmark = [pytest.mark.real, pytest.mark.long]

USERS, EACH = 12, 3


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    with servers_of("real", tmp_path_factory.mktemp("real")) as plan:
        yield plan


def test_each_user_stays_on_a_server(plan: Plan, tmp_path: Path) -> None:
    with nginx(tmp_path, rendered(tmp_path, [each.url for each in plan.servers])) as url:
        load = _load(url, plan, tmp_path)
    assert load.success_rate == 100
    of_users = {(each.user, each.worker) for each in load.outcomes}
    assert len(of_users) == USERS
    assert {worker for _, worker in of_users} == {each.url for each in plan.servers}


def test_a_queue_gives_both_their_share(plan: Plan, tmp_path: Path) -> None:
    stack = rendered(tmp_path, [each.url for each in plan.servers], queue=True)
    with rendered_queue(tmp_path, stack), nginx(tmp_path, stack) as url:
        load = _load(url, plan, tmp_path)
        balanced = asyncio.run(check_balancer(Deployment(front=ServerAddress(url), workers=plan.servers)))
    assert load.success_rate == 100
    assert all(each.outputs for each in load.outcomes)
    assert {each.outputs[0].subfolder.partition("/")[0] for each in load.outcomes} == {"w1", "w2"}
    assert balanced.status == "pass", balanced


def _load(url: str, plan: Plan, folder: Path) -> LoadResult:
    browsers = ServerAddress.parse(url, {"Accept": "text/html"})
    scenario = Scenario.build_in(folder, "txt2img", inputs=TINY, users=USERS, iterations=EACH, max_send_lag="30s")
    return run_load(LoadRun(scenario, (browsers,), "real", folder, folder, workers=plan.servers, private=True))
