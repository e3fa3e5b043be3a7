"""Workers behind a balancer: each prompt is traced to its worker, memory is per worker, and nothing is left behind."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ConnectionRefused, UsageError
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.run.observer import RunObserver
from pytest_comfyload.scenario.scenario import Scenario
from tests.run.balancer import Balancer


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[str, str]]:
    settings: dict[str, Any] = {"time_scale": 20, "probe_nodes": True}
    with SimulatorProcess(**settings) as one, SimulatorProcess(**settings) as two:
        yield one.url, two.url


def _run(url: str, workers: tuple[str, ...], store: Path, **arguments: Any) -> LoadResult:
    scenario = Scenario.build("txt2img", **{"max_send_lag": "30s", "timeout": "1200s", "warmup": 0, **arguments})
    addresses = tuple(map(ServerAddress, workers))
    return run_load(LoadRun(scenario, (ServerAddress(url),), "a title", store, store, workers=addresses))


def _knows(url: str, prompt_id: str) -> bool:
    with urllib.request.urlopen(f"{url}/history/{prompt_id}", timeout=10) as answer:
        return prompt_id in json.load(answer)


def _held(url: str) -> int:
    with urllib.request.urlopen(f"{url}/queue", timeout=10) as answer:
        queue = json.load(answer)
    return len(queue["queue_running"]) + len(queue["queue_pending"])


def test_every_prompt_is_known_to_the_worker_that_ran_it(workers: tuple[str, str], tmp_path: Path) -> None:
    with Balancer(workers) as balancer:
        load = _run(balancer.url, workers, tmp_path, users=4, iterations=3)
    assert [outcome.status for outcome in load.outcomes] == [OutcomeStatus.SUCCESS] * 12
    assert all(outcome.server == balancer.url for outcome in load.outcomes)
    assert all(outcome.worker and _knows(outcome.worker, outcome.prompt_id) for outcome in load.outcomes)
    assert len({(outcome.user, outcome.worker) for outcome in load.outcomes}) == 4

    parts = load.by("worker")
    assert set(parts) == set(workers)
    assert sum(len(part.outcomes) for part in parts.values()) == 12
    assert {sample.server for sample in load.server.samples} == set(workers)
    for url, part in parts.items():
        assert part.server.ram_used.max > 0
        assert {sample.server for sample in part.server.samples} == {url}
    assert load.by("server")[balancer.url].server.samples == load.server.samples
    assert set(load.to_dict()["by_worker"]) == set(workers)
    assert load.facts.workers == workers


def test_every_worker_is_warmed_up_whomever_the_balancer_would_choose(workers: tuple[str, str], tmp_path: Path) -> None:
    with Balancer(workers) as balancer:
        load = _run(balancer.url, workers, tmp_path, users=4, iterations=1, warmup=2)
    warm_up = [outcome for outcome in load.all_outcomes if outcome.warmup]
    assert sorted((outcome.worker, outcome.iteration) for outcome in warm_up) == sorted(
        (worker, iteration) for worker in workers for iteration in (-1, -2)
    )
    assert all(outcome.succeeded and outcome.server == outcome.worker for outcome in warm_up)
    assert all(outcome.worker and _knows(outcome.worker, outcome.prompt_id) for outcome in warm_up)
    assert {outcome.server for outcome in load.outcomes} == {balancer.url}
    # Our own prompts on the workers were not taken for somebody else's.
    assert load.state == "valid"
    assert load.facts.notes == ()


class _ForReading(Balancer):
    """A worker that accepts prompts from its balancer only."""

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/prompt" and request.method == "POST":
            return web.Response(status=403, text="from the balancer only")
        return await super()._pass_on(request)


def test_a_worker_that_takes_no_prompts_directly_is_named_and_the_run_goes_on(
    workers: tuple[str, str], tmp_path: Path
) -> None:
    with Balancer(workers) as balancer, _ForReading(workers[1:]) as closed:
        named = (workers[0], closed.url)
        load = _run(balancer.url, named, tmp_path, users=4, iterations=1, warmup=1)
    assert load.success_rate == 100
    assert {outcome.worker for outcome in load.outcomes} == set(named)
    failed, unwarmed = load.facts.notes
    assert failed.startswith("1 of 2 warm-up prompts failed: 1 http_error (")
    assert closed.url in failed
    assert unwarmed == f"{closed.url} could not be warmed up directly: measured prompts loaded models there"


def test_workers_have_clocks_of_their_own(workers: tuple[str, str], tmp_path: Path) -> None:
    # Virtual seconds by which the clock of one worker jumps after its second prompt.
    apart = 5000.0
    with SimulatorProcess(time_scale=20, probe_nodes=True, faults={"clock-step": apart}) as other:
        _run(other.url, (), tmp_path, users=1, iterations=3)
        both = (workers[0], other.url)
        with Balancer(both) as balancer:
            load = _run(balancer.url, both, tmp_path, users=4, iterations=3, warmup=1)
    assert {outcome.worker for outcome in load.outcomes} == set(both)
    for outcome in load.outcomes:
        assert outcome.queue_time is not None
        assert outcome.delivery_time is not None
        assert outcome.queue_time + outcome.delivery_time < apart / 10
    assert load.facts.notes == ()


def test_a_worker_that_dies_before_it_is_asked_fails_no_prompt(workers: tuple[str, str], tmp_path: Path) -> None:
    with SimulatorProcess(time_scale=20) as mortal, Balancer(workers[:1]) as balancer:
        scenario = Scenario.build("txt2img", users=2, iterations=2, max_send_lag="30s", warmup=0)
        known = tuple(map(ServerAddress, (mortal.url, workers[0])))

        class Stopping(RunObserver):
            def on_spool(self, path: Path) -> None:
                mortal.stop()

        load = run_load(
            LoadRun(
                scenario,
                (ServerAddress(balancer.url),),
                "a title",
                tmp_path,
                tmp_path,
                workers=known,
                observer=Stopping(),
            )
        )
    assert load.success_rate == 100
    assert {outcome.worker for outcome in load.outcomes} == {workers[0]}


def test_no_worker_keeps_what_was_cut_off_even_where_the_balancer_forgets_who_had_it(
    workers: tuple[str, str], tmp_path: Path
) -> None:
    # These take minutes of real time each, and can be interrupted at any step.
    long = {"KSampler.steps": 10000, "EmptyLatentImage.width": 2048, "EmptyLatentImage.height": 2048}
    with Balancer(workers, sticky=False) as balancer:
        load = _run(balancer.url, workers, tmp_path, inputs=long, users=6, duration="20s", drain="10s", fetch=False)
    assert {outcome.status for outcome in load.outcomes} == {OutcomeStatus.CENSORED}
    patience = time.monotonic() + 20
    while sum(map(_held, workers)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert [_held(url) for url in workers] == [0, 0]


def test_what_waits_at_a_worker_is_seen_before_the_load(workers: tuple[str, str], tmp_path: Path) -> None:
    sleep = {"1": {"class_type": "ProbeSleep", "inputs": {"seconds": 60.0, "seed": 2, "width": 64}}}
    save = {"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "theirs"}}}
    body = json.dumps({"prompt": {**sleep, **save}, "extra_data": {"comfyload": {"run": "dead"}}}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{workers[1]}/prompt", body), timeout=10).close()
    with Balancer(workers) as balancer:
        load = _run(balancer.url, workers, tmp_path, users=1, fetch=False, on_foreign="wait")
    assert [note for note in load.facts.notes if note.startswith(f"{workers[1]} still held 1 prompt")]
    assert load.success_rate == 100


def test_every_worker_must_answer_and_keep_the_clock_of_the_others(workers: tuple[str, str], tmp_path: Path) -> None:
    with Balancer(workers) as balancer:
        with pytest.raises(ConnectionRefused, match=r"http://127\.0\.0\.1:1: connection refused"):
            _run(balancer.url, (workers[0], "http://127.0.0.1:1"), tmp_path)
        with (
            SimulatorProcess(time_scale=50) as other,
            pytest.raises(UsageError, match="cannot mix real and simulated servers") as refused,
        ):
            _run(balancer.url, (workers[0], other.url), tmp_path)
    assert f"{other.url} is simulated at ×50" in str(refused.value)
