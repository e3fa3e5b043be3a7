"""The rendered stack in front of two real ComfyUI servers: nginx alone, and nginx with the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext
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
from tests.deploy.users import check_limits, check_received, receive

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


def test_twelve_users_receive_exactly_what_is_theirs(plan: Plan, tmp_path: Path) -> None:
    urls = [each.url for each in plan.servers]
    with nginx(tmp_path, rendered(tmp_path, urls)) as url:
        asyncio.run(_received(url, 1, urls[0], private=False))


def test_behind_a_queue_twelve_users_receive_exactly_what_is_theirs(plan: Plan, tmp_path: Path) -> None:
    urls = [each.url for each in plan.servers]
    stack = rendered(tmp_path, urls, queue=True)
    with rendered_queue(tmp_path, stack), nginx(tmp_path, stack) as url:
        asyncio.run(_received(url, 2, urls[0], private=True))


@pytest.mark.parametrize("queue", [False, True])
def test_prompts_alone_are_limited_and_those_of_one_user(plan: Plan, tmp_path: Path, queue: bool) -> None:
    stack = rendered(tmp_path, [each.url for each in plan.servers], rate=1, queue=queue)
    with rendered_queue(tmp_path, stack) if queue else nullcontext(), nginx(tmp_path, stack) as url:
        asyncio.run(check_limits(url, 3 + queue, stack.burst + 1, "too_many_prompts"))


async def _received(front: str, series: int, worker: str, *, private: bool) -> None:
    await check_received(await receive(front, series), worker, private=private)


def _load(url: str, plan: Plan, folder: Path) -> LoadResult:
    browsers = ServerAddress.parse(url, {"Accept": "text/html"})
    scenario = Scenario.build_in(folder, "txt2img", inputs=TINY, users=USERS, iterations=EACH, max_send_lag="30s")
    return run_load(LoadRun(scenario, (browsers,), "real", folder, folder, workers=plan.servers, private=True))
