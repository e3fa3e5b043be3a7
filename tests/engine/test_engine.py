"""The engine on a real simulator: users, windows and accounts are those of the plan, also when it is cut short."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.engine import EngineReport, run_plan
from pytest_comfyload.engine.plan import Plan, Prompt
from pytest_comfyload.errors import ConnectionRefused
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.scenario.executors import Burst, ConstantUsers, Executor, PerUserIterations
from tests.conftest import TIME_SCALE


@dataclass(frozen=True)
class Sleep:
    """A prompt that sleeps on the server, never twice the same."""

    seconds: float
    varied: frozenset[str] = frozenset({"1"})
    seeds: Mapping[str, int] = field(default_factory=dict)
    text: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> Mapping[str, Any]:
        seed = random.getrandbits(32)
        return {
            "1": {"class_type": "ProbeSleep", "inputs": {"seconds": self.seconds, "seed": seed, "width": 64}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "engine"}},
        }


def plan(url: str, executor: Executor, seconds: float = 0.5, **changes: Any) -> Plan:
    def prompts(server: str, user: int, iteration: int) -> Prompt:
        return Sleep(seconds)

    defaults: dict[str, Any] = {
        "run_id": "test",
        "workflow": "sleep",
        "servers": (ServerAddress.parse(url),),
        "executor": executor,
        "prompts": prompts,
        "warmup": 0,
        "timeout": 60.0,
        "queue_timeout": None,
        "drain": 60.0,
        "fetch": True,
    }
    return Plan(**{**defaults, **changes})


def run(plan: Plan) -> tuple[EngineReport, list[Outcome]]:
    outcomes: list[Outcome] = []
    report = asyncio.run(run_plan(plan, Clock(TIME_SCALE), outcomes.append))
    return report, sorted(outcomes, key=lambda outcome: outcome.intended)


def test_per_user_iterations(simulator: str) -> None:
    report, outcomes = run(plan(simulator, PerUserIterations(users=3, iterations=2)))
    assert report.intended == report.submitted == len(outcomes) == 6
    assert {(outcome.user, outcome.iteration) for outcome in outcomes} == {(u, i) for u in range(3) for i in range(2)}
    assert len({outcome.client_id for outcome in outcomes}) == 3
    assert {outcome.status for outcome in outcomes} == {OutcomeStatus.SUCCESS}


def test_a_user_sends_its_next_prompt_when_the_last_one_is_in_hand_and_thought_over(simulator: str) -> None:
    _, outcomes = run(plan(simulator, PerUserIterations(users=1, iterations=3, think_time=4.0)))
    ends = [outcome.end for outcome in outcomes]
    for end, following in zip(ends, outcomes[1:], strict=False):
        assert end is not None
        # Between the end of the one and the start of the next lies our own work: under 50 ms of real time.
        assert 4.0 <= following.intended - end < 4.0 + 0.05 * TIME_SCALE


def test_constant_users_start_nothing_after_the_window(simulator: str) -> None:
    report, outcomes = run(plan(simulator, ConstantUsers(users=2, duration=6.0)))
    start, end = report.window
    assert end - start == pytest.approx(6.0)
    assert all(start <= outcome.intended < end for outcome in outcomes)
    # Two users on a server that does two prompts a second, less what the network takes.
    assert 4 <= len(outcomes) <= 14


def test_a_burst_is_intended_at_one_time(simulator: str) -> None:
    _, outcomes = run(plan(simulator, Burst(users=8), seconds=0.2))
    assert len({outcome.intended for outcome in outcomes}) == 1
    assert len({outcome.user for outcome in outcomes}) == 8


def test_warm_up_comes_first_and_once_for_each_server(simulator: str) -> None:
    report, outcomes = run(plan(simulator, PerUserIterations(users=2, iterations=1), warmup=2))
    warmups = [outcome for outcome in outcomes if outcome.warmup]
    assert [outcome.iteration for outcome in warmups] == [-2, -1]
    assert report.submitted == len(outcomes) - 2
    assert all(outcome.end is not None and outcome.end <= report.window[0] for outcome in warmups)


def test_a_prompt_that_waits_beyond_its_limit_is_given_up(simulator: str) -> None:
    _, outcomes = run(plan(simulator, Burst(users=2), seconds=8.0, queue_timeout=3.0))
    assert sorted(outcome.status for outcome in outcomes) == [OutcomeStatus.SUCCESS, OutcomeStatus.TIMEOUT]
    assert "waited in the queue for 3 s" in str(outcomes[0].error or outcomes[1].error)


def test_a_cancelled_run_reports_every_prompt_and_leaves_the_queue_empty(simulator: str) -> None:
    outcomes: list[Outcome] = []

    async def cut_short() -> dict[str, list[str]]:
        from pytest_comfyload.client.comfy import ComfyClient

        task = asyncio.create_task(
            run_plan(plan(simulator, Burst(users=3), seconds=3000.0), Clock(TIME_SCALE), outcomes.append)
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
    report, outcomes = run(plan(simulator, PerUserIterations(users=2, iterations=2)))
    # Virtual time would make of a 10 ms lag one of 200 ms.
    assert all(outcome.send_lag is not None and 0 <= outcome.send_lag < 0.1 for outcome in outcomes)
    assert 0 <= report.loop_lag < 0.5


def test_without_fetching_there_are_outputs_but_no_bytes(simulator: str) -> None:
    _, (outcome,) = run(plan(simulator, Burst(users=1), fetch=False))
    assert outcome.status is OutcomeStatus.SUCCESS
    assert [file.size for file in outcome.outputs] == [None]
    assert outcome.images == 1


def test_a_server_that_is_not_there_is_an_error_before_the_load() -> None:
    with pytest.raises(ConnectionRefused, match="is ComfyUI running there"):
        run(plan("http://127.0.0.1:9", Burst(users=3)))
