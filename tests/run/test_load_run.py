"""A run from scenario to result: checked before it starts, reproducible by its seed, saved as it goes."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.engine.progress import LoadProgress
from pytest_comfyload.errors import UsageError, WorkflowNotServable
from pytest_comfyload.history.spool import Header, read_end, read_header, read_spool
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.metrics.arrival_trace import arrival_line, header_line
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.run.observer import RunObserver
from pytest_comfyload.run.target import ComfyServers, Target
from pytest_comfyload.scenario.distributions import exponential, normal, uniform
from pytest_comfyload.scenario.scenario import Scenario


def _run(server: ServerAddress, store: Path, overrides: dict[str, str] | None = None, **arguments: Any) -> LoadResult:
    scenario = Scenario.build("txt2img", max_send_lag="30s", **arguments)
    return run_load(LoadRun(scenario, (server,), "a title", store, store, overrides or {}))


def _drawn(load: LoadResult) -> dict[tuple[int, int], tuple[dict[str, int], str | None]]:
    return {(each.user, each.iteration): (dict(each.seeds), each.text) for each in load.outcomes}


def test_a_seed_gives_the_same_prompts_to_the_same_places(server: ServerAddress, tmp_path: Path) -> None:
    one, two, other = (
        _drawn(_run(server, tmp_path, users=2, iterations=3, seed=seed, fetch=False, allow_cached=True))
        for seed in (11, 11, 12)
    )
    assert set(one) == {(user, iteration) for user in range(2) for iteration in range(3)}
    assert one == two
    assert all(one[place][0] != other[place][0] for place in one)
    assert {place: text for place, (_, text) in one.items()} == {place: text for place, (_, text) in other.items()}
    seeds = [tuple(seeds.items()) for seeds, _ in one.values()]
    assert len(set(seeds)) == len(seeds)
    assert len({text for _, text in one.values()}) > 1


def test_recorded_arrivals_are_part_of_the_run(server: ServerAddress, tmp_path: Path) -> None:
    start = datetime(2026, 11, 3, 8, tzinfo=UTC)
    lines = [header_line(start, 20), *(arrival_line(time, "3f2a") for time in (1, 2, 2, 8))]
    (tmp_path / "week.jsonl").write_text("".join(lines))
    scenario = Scenario.build_in(tmp_path, "txt2img", trace="week.jsonl", speed=2, fetch=False, max_send_lag="30s")
    load = run_load(LoadRun(scenario, (server,), "a title", tmp_path, tmp_path))
    begin, _ = load.facts.window
    assert sorted(each.intended - begin for each in load.outcomes if not each.warmup) == pytest.approx([0.5, 1, 1, 4])
    assert (load.facts.open_load, load.facts.executors) == (True, ("recorded arrivals",))
    assert load.facts.load.startswith("4 arrivals in 10.0 s of trace week.jsonl (")


def test_without_a_seed_each_run_draws_its_own_and_says_it(server: ServerAddress, tmp_path: Path) -> None:
    first = _run(server, tmp_path, fetch=False)
    second = _run(server, tmp_path, fetch=False)
    assert first.seed != second.seed
    again = _run(server, tmp_path, fetch=False, seed=first.seed, allow_cached=True)
    assert _drawn(again) == _drawn(first)


def test_prompts_are_dealt_to_users_in_turn(server: ServerAddress, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("# texts\none\n\ntwo\nthree\n", encoding="utf-8")
    load = _run(server, tmp_path, users=2, iterations=2, prompts="texts.txt", fetch=False)
    texts = {place: text for place, (_, text) in _drawn(load).items()}
    assert texts == {(0, 0): "one", (1, 0): "two", (0, 1): "three", (1, 1): "one"}


def test_overrides_beat_the_scenario_and_those_of_other_workflows_are_left_out(
    server: ServerAddress, tmp_path: Path
) -> None:
    overrides = {"KSampler.steps": "3", "Nowhere.steps": "5"}
    load = _run(server, tmp_path, overrides, inputs={"KSampler.steps": 9}, fetch=False)
    (sampler,) = (node for node in load.outcomes[0].nodes if node.class_type == "KSampler")
    assert sampler.steps[-1][1] == 3


def test_numbers_from_distributions_in_a_mix_and_in_groups(server: ServerAddress, tmp_path: Path) -> None:
    inputs = {"KSampler.steps": uniform(3, 30), "EmptyLatentImage.width": normal(256, 64, min=128, max=384)}
    quick = {"users": 2, "iterations": 4, "think_time": exponential("200ms"), "inputs": inputs}
    groups = {"mixed": {**quick, "mix": {"txt2img": 1, "img2img": 1}}, "plain": {**quick, "workflow": "txt2img"}}
    scenario = Scenario.build(groups=groups, seed=5, max_send_lag="30s", fetch=False)
    loads = [run_load(LoadRun(scenario, (server,), "t", tmp_path, tmp_path)) for _ in range(2)]
    one, two = ({(o.group, o.user, o.iteration): dict(o.inputs) for o in load.outcomes} for load in loads)
    assert one == two
    assert len({drawn["KSampler.steps"] for drawn in one.values()}) > 4
    widths = [drawn["EmptyLatentImage.width"] for drawn in one.values() if "EmptyLatentImage.width" in drawn]
    assert 8 <= len(widths) < 16
    assert all(128 <= width <= 384 and width % 8 == 0 for width in widths)
    assert "exponential(200 ms) think time" in str(scenario)


def test_every_outcome_is_in_the_spool(server: ServerAddress, tmp_path: Path) -> None:
    load = _run(server, tmp_path, users=2, iterations=2, warmup=1)
    spool = tmp_path / ".comfyload" / "spool" / f"{load.facts.run_id}.jsonl"
    assert {outcome.prompt_id for outcome in read_spool(spool)} == {each.prompt_id for each in load.all_outcomes}
    end = read_end(spool)
    assert end is not None
    assert end.all_outcomes == load.all_outcomes
    assert len(load.all_outcomes) == 5
    assert (load.facts.executors, load.facts.balance) == (("per-user iterations",), "least_queue")
    assert [outcome.warmup for outcome in load.all_outcomes].count(True) == 1
    assert all(outcome.outputs[0].size for outcome in load.all_outcomes)


def test_the_target_is_shown_before_the_load_and_may_be_refused(server: ServerAddress, tmp_path: Path) -> None:
    class Refusing(RunObserver):
        def on_target(self, target: Target) -> None:
            assert target.urls == (server.url,)
            raise UsageError("not there")

    run = LoadRun(Scenario.build("txt2img"), (server,), "a title", tmp_path, tmp_path, observer=Refusing())
    with pytest.raises(UsageError, match="not there"):
        run_load(run)
    assert not (tmp_path / ".comfyload").exists()


def test_a_workflow_that_the_server_cannot_run_starts_no_load(server: ServerAddress, tmp_path: Path) -> None:
    graph = {"1": {"class_type": "KSamplr", "inputs": {}}}
    run = LoadRun(Scenario.build(graph), (server,), "a title", tmp_path, tmp_path)
    with pytest.raises(WorkflowNotServable, match=r"lacks the node class KSamplr \(did you mean KSampler\?"):
        run_load(run)
    assert not (tmp_path / ".comfyload").exists()


def test_servers_that_nobody_else_knows_are_not_locked(
    server: ServerAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    scenario = Scenario.build("txt2img", max_send_lag="30s", fetch=False, warmup=0)
    run_load(LoadRun(scenario, (server,), "a title", tmp_path, tmp_path, private=True))
    assert list(temporary.iterdir()) == []
    run_load(LoadRun(scenario, (server,), "a title", tmp_path, tmp_path))
    assert len(list(temporary.glob("*/*.lock"))) == 1


def test_the_spool_is_named_when_it_begins_and_says_what_is_planned(server: ServerAddress, tmp_path: Path) -> None:
    headers: list[Header] = []

    class Reading(RunObserver):
        def on_spool(self, path: Path) -> None:
            headers.append(read_header(path))

    scenario = Scenario.build("txt2img", users=2, iterations=3, max_send_lag="30s", fetch=False, warmup=0)
    run_load(LoadRun(scenario, (server,), "a title", tmp_path, tmp_path, observer=Reading()))
    (header,) = headers
    assert header.planned == 6
    assert header.servers == (server.url,)


def test_servers_by_hand(server: ServerAddress, tmp_path: Path) -> None:
    def run(scenario: Scenario, title: str, files: Path) -> LoadResult:
        assert title == "txt2img"
        return run_load(LoadRun(scenario, (server,), title, files, tmp_path))

    servers = ComfyServers([server], run, tmp_path)
    assert servers.url == server.url
    assert servers.system_stats()["system"]["simulator"]["time_scale"] == 100
    outcome = servers.submit("txt2img", inputs={"KSampler.steps": 2}, fetch=False)
    assert outcome.succeeded
    assert not outcome.warmup


def test_the_figures_of_groups_add_up_to_those_of_the_run(server: ServerAddress, tmp_path: Path) -> None:
    groups = {"light": {"users": 2, "iterations": 2}, "flood": {"burst": 3}}
    figures = _run(server, tmp_path, groups=groups, fetch=False).to_dict()
    parts = figures["by_group"]
    assert {name: part["prompts"] for name, part in parts.items()} == {"light": 4, "flood": 3}
    assert {name: part["total_time"]["n"] for name, part in parts.items()} == {"light": 4, "flood": 3}
    assert max(part["total_time"]["max"] for part in parts.values()) == figures["total_time"]["max"]
    # All prompts went to one server, so there is no breakdown.
    assert figures["by_server"] == {}


def test_who_waits_is_told_how_the_run_stands(server: ServerAddress, tmp_path: Path) -> None:
    told: list[tuple[str, bool]] = []
    ticked: list[str] = []

    class Noting(RunObserver):
        def on_progress(self, progress: LoadProgress) -> None:
            told.append((threading.current_thread().name, progress.warming_up))

        def tick(self) -> None:
            ticked.append(threading.current_thread().name)

    run = LoadRun(
        Scenario.build("txt2img", users=2, iterations=2, fetch=False),
        (server,),
        "a title",
        tmp_path,
        tmp_path,
        observer=Noting(),
    )
    run_load(run)
    assert set(told) == {("comfyload", True), ("comfyload", False)}
    assert set(ticked) == {threading.current_thread().name}


def test_times_that_a_simulator_guesses_are_noted(tmp_path: Path) -> None:
    graph = {
        "1": {"class_type": "MysteryImage", "inputs": {"seed": 1, "width": 64, "height": 64}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    with SimulatorProcess(time_scale=100) as process:
        load = run_load(LoadRun(Scenario.build(graph), (ServerAddress(process.url),), "t", tmp_path, tmp_path))
    assert load.success_rate == 100
    assert (
        "times of MysteryImage are guessed by the simulator; "
        "set them with `comfyload simulate` --node-time CLASS=SECONDS "
        "or take them from a run with `comfyload simulate` --calibrate RUN"
    ) in load.facts.notes
