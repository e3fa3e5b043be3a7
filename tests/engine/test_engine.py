"""The engine against a real simulator: users, windows and counts match the plan, even when a run is cut short."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.engine import RARELY, run_plan
from pytest_comfyload.engine.plan import EngineReport, Group, Plan, Prompt
from pytest_comfyload.errors import ConnectionRefused
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.scenario.executors import (
    ArrivalRate,
    Burst,
    ConstantUsers,
    Executor,
    PerUserIterations,
    RampingUsers,
    RecordedArrivals,
    SharedIterations,
    UserStage,
)
from pytest_comfyload.scenario.pacing import RateStage
from pytest_comfyload.scenario.scenario import ThinkTime
from tests.conftest import TIME_SCALE


@dataclass(frozen=True)
class Sleep:
    """A prompt that sleeps on the server and is never served from the cache."""

    seconds: float
    workflow: str = "sleep"
    fresh: frozenset[str] = frozenset({"1", "2"})
    needed: frozenset[str] = frozenset({"1", "2"})
    seeds: Mapping[str, int] = field(default_factory=dict)
    text: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    extra_data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> Mapping[str, Any]:
        seed = random.getrandbits(32)
        return {
            "1": {"class_type": "ProbeSleep", "inputs": {"seconds": self.seconds, "seed": seed, "width": 64}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "engine"}},
        }


@dataclass(frozen=True)
class Sleeps:
    seconds: float

    def __call__(self, user: int, iteration: int) -> Prompt:
        return Sleep(self.seconds)

    def warm_up(self, number: int) -> list[Prompt]:
        return [Sleep(self.seconds)]


def group(executor: Executor, seconds: float = 0.5, name: str | None = None, **changes: Any) -> Group:
    return Group(**{"name": name, "executor": executor, "prompts": Sleeps(seconds), "timeout": 60.0, **changes})


def plan(*urls: str, groups: Sequence[Group], **changes: Any) -> Plan:
    defaults: dict[str, Any] = {"run_id": "test", "seed": 1, "warmup": 0, "drain": 60.0}
    return Plan(servers=tuple(map(ServerAddress.parse, urls)), groups=tuple(groups), **{**defaults, **changes})


def run(plan: Plan) -> tuple[EngineReport, list[Outcome]]:
    outcomes: list[Outcome] = []
    report = asyncio.run(run_plan(plan, Clock(TIME_SCALE), outcomes.append))
    return report, sorted(outcomes, key=lambda outcome: outcome.intended)


def test_per_user_iterations(simulator: str) -> None:
    report, outcomes = run(plan(simulator, groups=[group(PerUserIterations(users=3, iterations=2))]))
    assert report.intended == report.submitted == len(outcomes) == 6
    assert {(outcome.user, outcome.iteration) for outcome in outcomes} == {(u, i) for u in range(3) for i in range(2)}
    assert len({outcome.client_id for outcome in outcomes}) == 3
    assert {outcome.status for outcome in outcomes} == {OutcomeStatus.SUCCESS}


def test_users_who_share_a_socket_are_one_client_to_the_server(simulator: str) -> None:
    shared = group(PerUserIterations(users=3, iterations=2), sockets="shared")
    _, outcomes = run(plan(simulator, groups=[shared]))
    assert len({outcome.client_id for outcome in outcomes}) == 1
    assert {(outcome.user, outcome.status) for outcome in outcomes} == {(u, OutcomeStatus.SUCCESS) for u in range(3)}
    # Each user received the events of its own prompt, including when it was executed.
    assert {outcome.generation_time is not None and outcome.generation_time > 0 for outcome in outcomes} == {True}


@pytest.mark.parametrize(
    ("executor", "sockets", "workers", "shared"),
    [
        (PerUserIterations(2, 1), None, (), False),
        (ArrivalRate((RateStage(10.0, 1.0, 1.0),)), None, (), True),
        (ArrivalRate((RateStage(10.0, 1.0, 1.0),)), None, ("http://worker:8188",), False),
        (ArrivalRate((RateStage(10.0, 1.0, 1.0),)), "per_user", (), False),
        (PerUserIterations(2, 1), "shared", ("http://worker:8188",), True),
    ],
)
def test_open_loads_share_a_socket_unless_it_would_pin_them_to_a_worker(
    executor: Executor, sockets: str | None, workers: tuple[str, ...], shared: bool
) -> None:
    users = group(executor, sockets=sockets)
    addresses = tuple(map(ServerAddress.parse, workers))
    assert plan("http://a:8188", groups=[users], workers=addresses).shares_sockets(users) is shared


def test_a_user_sends_its_next_prompt_when_the_last_one_is_in_hand_and_thought_over(simulator: str) -> None:
    _, outcomes = run(plan(simulator, groups=[group(PerUserIterations(1, 3), think_time=ThinkTime(4.0, 4.0))]))
    ends = [outcome.end for outcome in outcomes]
    for end, following in zip(ends, outcomes[1:], strict=False):
        assert end is not None
        # Between the end of one prompt and the start of the next there is only our own work: under 50 ms of real time.
        assert 4.0 <= following.intended - end < 4.0 + 0.05 * TIME_SCALE


def test_constant_users_start_nothing_after_the_window(simulator: str) -> None:
    report, outcomes = run(plan(simulator, groups=[group(ConstantUsers(users=2, duration=6.0))]))
    start, end = report.window
    assert end - start == pytest.approx(6.0)
    assert all(start <= outcome.intended < end for outcome in outcomes)
    # Two users on a server that executes two prompts per second, minus the network overhead.
    assert 4 <= len(outcomes) <= 14


def test_a_burst_is_intended_at_one_time(simulator: str) -> None:
    _, outcomes = run(plan(simulator, groups=[group(Burst(users=8), 0.2)]))
    assert len({outcome.intended for outcome in outcomes}) == 1
    assert len({outcome.user for outcome in outcomes}) == 8


def test_warm_up_comes_first_and_once_for_each_server(simulator: str) -> None:
    report, outcomes = run(plan(simulator, groups=[group(PerUserIterations(users=2, iterations=1))], warmup=2))
    warmups = [outcome for outcome in outcomes if outcome.warmup]
    assert [outcome.iteration for outcome in warmups] == [-1, -2]
    assert report.submitted == len(outcomes) - 2
    assert all(outcome.end is not None and outcome.end <= report.window[0] for outcome in warmups)


def test_a_prompt_that_waits_beyond_its_limit_is_given_up(simulator: str) -> None:
    _, outcomes = run(plan(simulator, groups=[group(Burst(users=2), 8.0, queue_timeout=3.0)]))
    assert sorted(outcome.status for outcome in outcomes) == [OutcomeStatus.SUCCESS, OutcomeStatus.TIMEOUT]
    assert "waited in the queue for 3 s" in str(outcomes[0].error or outcomes[1].error)


def test_a_cancelled_run_reports_every_prompt_and_leaves_the_queue_empty(simulator: str) -> None:
    outcomes: list[Outcome] = []

    async def cut_short() -> dict[str, list[str]]:
        from pytest_comfyload.client.comfy import ComfyClient

        task = asyncio.create_task(
            run_plan(plan(simulator, groups=[group(Burst(users=3), 3000.0)]), Clock(TIME_SCALE), outcomes.append)
        )
        client = ComfyClient(ServerAddress.parse(simulator))
        while len((await client.queue()).pending) < 2:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while (queue := await client.queue()).running:
            await asyncio.sleep(0.02)
        await client.aclose()
        return {"pending": list(queue.pending)}

    assert asyncio.run(asyncio.wait_for(cut_short(), 20)) == {"pending": []}
    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.CENSORED] * 3


def test_lags_are_measured_in_real_time(simulator: str) -> None:
    report, outcomes = run(plan(simulator, groups=[group(PerUserIterations(users=2, iterations=2))]))
    # In virtual time a 10 ms lag would be 200 ms.
    assert all(outcome.send_lag is not None and 0 <= outcome.send_lag < 0.1 for outcome in outcomes)
    assert 0 <= report.loop_lag < 0.5


def test_without_fetching_there_are_outputs_but_no_bytes(simulator: str) -> None:
    _, (outcome,) = run(plan(simulator, groups=[group(Burst(users=1), fetch=False)]))
    assert outcome.status is OutcomeStatus.SUCCESS
    assert [file.size for file in outcome.outputs] == [None]
    assert outcome.images == 1


def test_a_server_that_is_not_there_is_an_error_before_the_load() -> None:
    with pytest.raises(ConnectionRefused, match="is ComfyUI running there"):
        run(plan("http://127.0.0.1:9", groups=[group(Burst(users=3))]))


def test_shared_iterations_go_to_whoever_is_free(simulator: str) -> None:
    report, outcomes = run(plan(simulator, groups=[group(SharedIterations(users=3, iterations=7))]))
    assert report.intended == len(outcomes) == 7
    assert {outcome.user for outcome in outcomes} == {0, 1, 2}


def test_ramping_users_come_and_go(simulator: str) -> None:
    stages = (UserStage(4.0, 3), UserStage(4.0, 3), UserStage(4.0, 0))
    report, outcomes = run(plan(simulator, groups=[group(RampingUsers(stages), 0.1)]))
    begin, end = report.window
    assert end - begin == pytest.approx(12.0)
    firsts = {user: min(o.intended - begin for o in outcomes if o.user == user) for user in range(3)}
    assert firsts == pytest.approx({0: 0.0, 1: 4 / 3, 2: 8 / 3})
    lasts = {user: max(o.intended - begin for o in outcomes if o.user == user) for user in range(3)}
    # When ramping down from 3 users over 4 s, the third leaves at 8 + 4/3 s and the first at the very end.
    assert lasts[2] < 8 + 4 / 3 + 0.01 < lasts[0] < 12.0


def test_arrivals_come_whether_earlier_ones_are_done_or_not(simulator: str) -> None:
    rate = RateStage(duration=10.0, start=1.0, end=1.0)
    report, outcomes = run(plan(simulator, groups=[group(ArrivalRate((rate,)), 3.0)]))
    begin, _ = report.window
    assert [outcome.intended - begin for outcome in outcomes] == pytest.approx([float(second) for second in range(10)])
    assert report.dropped == 0
    # The server executes one prompt every three seconds, so the tenth prompt waits for the nine before it.
    assert outcomes[-1].queue_time == pytest.approx(9 * 3.0 - 9.0, rel=0.15)


def test_recorded_arrivals_come_when_they_came(simulator: str) -> None:
    executor = RecordedArrivals((0.5, 0.5, 4.0, 9.0), 10.0, "trace")
    report, outcomes = run(plan(simulator, groups=[group(executor, 0.5)]))
    begin, _ = report.window
    assert sorted(outcome.intended - begin for outcome in outcomes) == pytest.approx([0.5, 0.5, 4.0, 9.0])
    assert (report.intended, report.dropped) == (4, 0)


def test_beyond_the_limit_arrivals_are_dropped_and_counted(simulator: str) -> None:
    rate = RateStage(duration=10.0, start=2.0, end=2.0)
    report, outcomes = run(plan(simulator, groups=[group(ArrivalRate((rate,), max_in_flight=2), 3.0)]))
    assert report.intended == 20
    assert report.dropped == 20 - len(outcomes) > 5
    assert report.submitted == len(outcomes)


def test_groups_run_at_once_each_from_its_start(simulator: str) -> None:
    light = group(PerUserIterations(1, 6), 0.2, name="light", think_time=ThinkTime(1.0, 1.0))
    flood = group(Burst(users=8), 0.5, name="flood", start=3.0)
    report, outcomes = run(plan(simulator, groups=[light, flood]))
    begin, _ = report.window
    by_group = {name: [o for o in outcomes if o.group == name] for name in ("light", "flood")}
    assert [len(each) for each in by_group.values()] == [6, 8]
    assert {round(outcome.intended - begin, 6) for outcome in by_group["flood"]} == {3.0}
    waits = [outcome.queue_time or 0.0 for outcome in by_group["light"]]
    assert max(waits) > 1.0 > waits[0]


@pytest.mark.parametrize("balance", ["round_robin", "least_queue", "sticky"])
def test_prompts_are_spread_over_the_servers(simulator: str, balance: str) -> None:
    from pytest_comfyload.launch.simulator import SimulatorProcess

    with SimulatorProcess(time_scale=TIME_SCALE, probe_nodes=True) as second:
        urls = (simulator, second.url)
        report, outcomes = run(plan(*urls, groups=[group(PerUserIterations(4, 2))], balance=balance, warmup=1))
    measured = [outcome for outcome in outcomes if not outcome.warmup]
    assert {outcome.server for outcome in outcomes if outcome.warmup} == set(urls)
    counts = sorted(sum(1 for outcome in measured if outcome.server == url) for url in urls)
    assert counts[0] >= 2
    assert report.submitted == sum(counts) == 8
    if balance == "round_robin":
        assert counts == [4, 4]
    if balance == "sticky":
        assert all(len({o.server for o in measured if o.user == user}) == 1 for user in range(4))


def test_groups_use_the_servers_that_are_theirs(simulator: str) -> None:
    from pytest_comfyload.launch.simulator import SimulatorProcess

    with SimulatorProcess(time_scale=TIME_SCALE, probe_nodes=True) as second:
        urls = (simulator, second.url)
        executor = PerUserIterations(2, 3)
        groups = [
            group(executor, name="one", servers=(0,)),
            group(executor, name="two", servers=(1,)),
            group(executor, name="both", servers=(0, 1)),
        ]
        _, outcomes = run(plan(*urls, groups=groups, warmup=1))
    for warmup in (True, False):
        used = {(each.group, each.server) for each in outcomes if each.warmup is warmup}
        assert used == {("one", urls[0]), ("two", urls[1]), ("both", urls[0]), ("both", urls[1])}
    assert {outcome.status for outcome in outcomes} == {OutcomeStatus.SUCCESS}


def test_too_many_failures_stop_the_run() -> None:
    from pytest_comfyload.launch.simulator import SimulatorProcess

    with SimulatorProcess(time_scale=200, strict=True) as server:
        stopped = plan(server.url, groups=[group(PerUserIterations(users=2, iterations=500))], abort_on_failure_rate=50)
        report, outcomes = run(stopped)
    # A server without the probe nodes rejects every prompt.
    assert "prompts failed, more than 50 %" in str(report.aborted)
    assert 20 <= len(outcomes) < 100
    assert report.submitted == len(outcomes)


def test_the_garbage_collector_is_as_before_after_a_load(simulator: str) -> None:
    usual, seen = gc.get_threshold(), []

    class Watching(Sleeps):
        def __call__(self, user: int, iteration: int) -> Any:
            seen.append((gc.get_threshold()[0], gc.get_freeze_count() > 0))
            return super().__call__(user, iteration)

    run(plan(simulator, groups=[group(PerUserIterations(1, 1), prompts=Watching(0.5))]))
    assert seen == [(RARELY, True)]
    assert (gc.get_threshold(), gc.get_freeze_count()) == (usual, 0)
