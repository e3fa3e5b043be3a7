"""Invalid arguments never become a scenario: each refusal names the argument and the way out."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.arrival_trace import arrival_line, header_line
from pytest_comfyload.metrics.units import format_duration, parse_duration
from pytest_comfyload.scenario.arguments import DEFAULTS
from pytest_comfyload.scenario.executors import (
    ArrivalRate,
    Burst,
    ConstantUsers,
    PerUserIterations,
    RampingUsers,
    RecordedArrivals,
    SharedIterations,
    UserStage,
)
from pytest_comfyload.scenario.pacing import RateStage
from pytest_comfyload.scenario.scenario import Scenario, ThinkTime, planned_duration, planned_prompts
from pytest_comfyload.scenario.shape import PRESETS


def test_the_defaults_are_one_prompt_by_one_user() -> None:
    scenario = Scenario.build("txt2img")
    assert scenario.executor == PerUserIterations(users=1, iterations=1)
    assert (scenario.warmup, scenario.timeout, scenario.drain, scenario.max_send_lag) == (1, 300.0, 300.0, 0.1)


@pytest.mark.parametrize(
    ("arguments", "executor"),
    [
        ({"users": 5, "iterations": 3}, PerUserIterations(5, 3)),
        ({"iterations": 3}, PerUserIterations(1, 3)),
        ({"users": 2, "duration": "10m"}, ConstantUsers(2, 600.0)),
        ({"users": 2, "shared_iterations": 9}, SharedIterations(2, 9)),
        ({"users": [("1m", 2), ("3m", 8)]}, RampingUsers((UserStage(60.0, 2), UserStage(180.0, 8)))),
        ({"burst": 15}, Burst(15)),
        ({"rate": "6/min", "duration": "10m"}, ArrivalRate((RateStage(600.0, 0.1, 0.1),))),
        (
            {"rate": [("1m", "60/min"), ("2m", "0/min")], "arrival": "poisson", "max_in_flight": 3},
            ArrivalRate((RateStage(60.0, 0.0, 1.0), RateStage(120.0, 1.0, 0.0)), poisson=True, max_in_flight=3),
        ),
        ({"preset": "smoke"}, PerUserIterations(1, 3)),
        ({"preset": "soak", "users": 3, "duration": "1h"}, ConstantUsers(3, 3600.0)),
        ({"preset": "load", "users": 7}, RampingUsers((UserStage(60, 7), UserStage(300, 7), UserStage(60, 0)))),
    ],
)
def test_executors(arguments: dict[str, Any], executor: object) -> None:
    assert Scenario.build("txt2img", **arguments).executor == executor


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs a workflow"),
        ({"workflow": 3}, "workflow=3 is neither a name, a path nor a dict"),
        ({"workflow": "w", "user": 5}, "no argument 'user'; did you mean users?"),
        ({"workflow": "w", "concurrency": 5}, "no argument 'concurrency'; write users=N"),
        ({"workflow": "w", "rps": 5}, "no argument 'rps'; write rate='6/min'"),
        ({"workflow": "w", "groups": {"a": {"vus": 1}}}, "group 'a': vus= is not for a group; write users=N"),
        ({"workflow": "w", "groups": {"a": {"user": 1}}}, "group 'a': user= is not for a group; did you mean users?"),
        ({"workflow": "w", "users": 0}, "users=0 is not a whole number of at least 1"),
        ({"workflow": "w", "users": True}, "users=True is not a whole number"),
        ({"workflow": "w", "iterations": 2.5}, "iterations=2.5"),
        ({"workflow": "w", "iterations": 2, "duration": "1m"}, "duration='1m' and iterations=2 contradict each other"),
        ({"workflow": "w", "burst": 2, "users": 3}, "burst=2 and users=3 contradict each other"),
        ({"workflow": "w", "duration": "ten minutes"}, "duration='ten minutes' is not a duration; write seconds"),
        ({"workflow": "w", "timeout": -1}, "timeout=-1 is not a duration"),
        ({"workflow": "w", "timeout": 0}, "timeout=0 is not positive"),
        (
            {"workflow": "w", "servers": ["a"]},
            "servers: 'a' is not one of the servers; write 'all', how many, a URL of --comfyui-url",
        ),
        ({"workflow": "w", "groups": {"a": {"servers": 0}}}, "group 'a': servers=0 is not a number of servers"),
        ({"workflow": "w", "rate": "5/min"}, "rate='5/min' needs duration=, such as duration='10m'"),
        ({"workflow": "w", "rate": 5, "duration": 9}, "rate=5 is not a rate; write a number and a unit"),
        ({"workflow": "w", "rate": "0/min", "duration": 9}, "rate='0/min' must be above 0"),
        (
            {"workflow": "w", "rate": "5/min", "duration": 9, "users": 2},
            "rate='5/min' and users=2 contradict each other",
        ),
        ({"workflow": "w", "arrival": "poisson"}, "arrival='poisson' needs rate=, such as rate='6/min'"),
        ({"workflow": "w", "max_in_flight": 3}, "max_in_flight=3 needs rate=, such as rate='6/min'"),
        ({"workflow": "w", "users": [("1m", 2)], "iterations": 3}, "contradict each other; give only one"),
        ({"workflow": "w", "users": [("1m", 0)]}, "never rises above 0"),
        ({"workflow": "w", "users": [("1m",)]}, "is not a list of stages, such as [('1m', 2)]"),
        ({"workflow": "w", "iterations": 2, "shared_iterations": 2}, "shared_iterations=2 and iterations=2 contradict"),
        ({"workflow": "w", "preset": "lunch"}, "preset='lunch'; legal: smoke, load, stress, spike, soak, breakpoint"),
        ({"workflow": "w", "preset": "load", "rate": "1/s"}, "preset='load' and rate='1/s' contradict each other"),
        ({"workflow": "w", "mix": {"a": 1}}, "workflow='w' and mix={'a': 1} contradict each other"),
        ({"mix": {"a": 0}}, "mix={'a': 0} is not a dict of workflow to weight"),
        ({"workflow": "w", "think_time": (2, 1)}, "the shortest is longer than the longest"),
        ({"workflow": "w", "balance": "best"}, "balance='best'; legal: least_queue, round_robin, sticky"),
        ({"workflow": "w", "groups": {}}, "groups={} is not a dict of name to arguments"),
        (
            {"workflow": "w", "groups": {"a": {"seed": 1}}},
            "group 'a': seed= is not for a group; legal: start, users",
        ),
        ({"workflow": "w", "users": 2, "groups": {"a": {"users": 1}}}, "users= and groups= contradict each other"),
        ({"workflow": "w", "groups": {"a": {"users": 0}}}, "group 'a': users=0 is not a whole number"),
        ({"workflow": "w", "inputs": {"steps": 3}}, "is not a dict of 'node.input' to value"),
        ({"workflow": "w", "prompts": []}, "prompts=[] is neither a list of texts nor the path"),
        ({"workflow": "w", "fetch": "no"}, "fetch='no' is neither True nor False"),
        (
            {"workflow": "w", "must_run": "KSampler"},
            "must_run='KSampler' is not a list of node classes, such as ['KSamp",
        ),
        ({"workflow": "w", "must_run": [1]}, "must_run=[1] is not a list of node classes"),
        ({"workflow": "w", "seed": -1}, "seed=-1 is not a whole number of at least 0"),
    ],
)
def test_refusals(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Scenario.build(**arguments)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def week(tmp_path: Path) -> Path:
    start = datetime(2026, 11, 3, 8, tzinfo=UTC)
    lines = [header_line(start, 7200), *(arrival_line(time, "3f2a") for time in (10, 4000, 4010.5, 4060, 7100))]
    (tmp_path / "week.jsonl").write_text("".join(lines))
    return tmp_path


def test_recorded_arrivals_are_those_of_the_window_at_that_speed(week: Path) -> None:
    scenario = Scenario.build_in(week, "w", trace="week.jsonl", window="busiest 1m", speed=1.5)
    assert isinstance(scenario.executor, RecordedArrivals)
    assert scenario.executor.times == pytest.approx((0, 7))
    assert planned_duration([scenario]) == 40
    assert scenario.planned == planned_prompts([scenario]) == 2
    assert re.fullmatch(
        r"w, 2 arrivals in 40.0 s of trace week.jsonl \([0-9a-f]{8}\), busiest 1m at 1.5 × speed", str(scenario)
    )


def test_groups_have_traces_of_their_own(week: Path) -> None:
    groups = {"light": {"trace": "week.jsonl", "window": "0s..1h"}, "heavy": {"trace": "week.jsonl", "start": "1m"}}
    scenario = Scenario.build_in(week, "w", groups=groups)
    assert [part.executor.prompts for _, part in scenario.parts] == [1, 5]


def test_another_content_window_or_speed_is_another_load(week: Path) -> None:
    def shape(**arguments: Any) -> str:
        return Scenario.build_in(week, "w", trace="week.jsonl", **arguments).shape

    shapes = [shape(), shape(window="busiest 1h"), shape(speed=2)]
    (week / "week.jsonl").write_text((week / "week.jsonl").read_text() + arrival_line(20, "3f2a"))
    assert len({*shapes, shape()}) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"users": 2}, "trace='week.jsonl' and users=2 contradict each other; give only one"),
        ({"rate": "6/min"}, "trace='week.jsonl' and rate='6/min' contradict each other"),
        ({"preset": "smoke"}, "preset='smoke' and trace='week.jsonl' contradict each other"),
        ({"arrival": "poisson"}, "arrival='poisson' and trace='week.jsonl' contradict each other"),
        ({"speed": 0}, "speed=0 is not a number from 0.001 to 1000"),
        ({"speed": float("nan")}, "speed=nan is not a number"),
        ({"speed": "2"}, "speed='2' is not a number"),
        ({"window": "1h30m..1h40m"}, "), 1h30m..1h40m has no arrivals"),
        ({"window": "noon"}, "window='noon' cannot be read; write 'all', "),
        ({"trace": 3}, "trace=3 is not the path of a trace, such as 'week.jsonl'"),
        ({"trace": "day.jsonl"}, "trace day.jsonl: there is no such file"),
        ({"trace": None, "window": "all"}, "window='all' needs trace=, such as trace='week.jsonl'"),
        ({"trace": None, "speed": 2}, "speed=2 needs trace=, such as trace='week.jsonl'"),
    ],
)
def test_traces_that_are_refused(arguments: dict[str, Any], said: str, week: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        Scenario.build_in(week, **{"workflow": "w", "trace": "week.jsonl", **arguments})
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_says_what_it_expands_to(preset: str) -> None:
    scenario = Scenario.build("txt2img", preset=preset)
    assert str(scenario) == f"txt2img, {preset}: {scenario.executor}"


def test_think_time_is_a_duration_or_a_range() -> None:
    assert Scenario.build("w", think_time="2s").think_time == ThinkTime(2.0, 2.0)
    assert Scenario.build("w", think_time=("1s", 3)).think_time == ThinkTime(1.0, 3.0)


def test_groups_are_scenarios_of_their_own_with_what_is_common() -> None:
    scenario = Scenario.build(
        "txt2img",
        timeout="60s",
        groups={"light": {"users": 2, "duration": "5m"}, "flooder": {"burst": 9, "start": "2m", "workflow": "lora"}},
    )
    (light_name, light), (flooder_name, flooder) = scenario.parts
    assert (light_name, flooder_name) == ("light", "flooder")
    assert light.executor == ConstantUsers(2, 300.0)
    assert (flooder.executor, flooder.start, flooder.workflow_name) == (Burst(9), 120.0, "lora")
    assert light.timeout == flooder.timeout == 60.0


def test_a_mix_has_weights() -> None:
    scenario = Scenario.build(mix={"txt2img": 3, "lora": 1})
    assert scenario.workflows == (("txt2img", 3.0), ("lora", 1.0))
    assert scenario.workflow_name == "3 txt2img + 1 lora"


def test_the_workflow_twice() -> None:
    with pytest.raises(UsageError, match="got the workflow twice"):
        Scenario.build("a", workflow="b")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)), json_like, max_size=4))
def test_any_arguments_give_a_scenario_or_a_usage_error(arguments: dict[str, Any]) -> None:
    with contextlib.suppress(UsageError):
        assert Scenario.build(**arguments).executor.users >= 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300s", 300), ("100ms", 0.1), ("10m", 600), ("1h30m", 5400), ("1.5 s", 1.5), (7, 7), (0.25, 0.25), ("0s", 0)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text, "timeout") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "m", "10 parsecs", "-3s", None, True, float("nan"), float("inf"), [], "1s2"]
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(UsageError, match="timeout="):
        parse_duration(text, "timeout")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.85, "850 ms"), (12.34, "12.3 s"), (250, "4 min 10 s"), (600, "10 min"), (3900, "1 h 5 min"), (7200, "2 h")],
)
def test_durations_are_printed_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_planned_prompts_are_those_of_all_groups() -> None:
    assert Scenario.build("txt2img", users=2, iterations=3).planned == 6
    light = {"users": 2, "iterations": 3}
    assert Scenario.build("txt2img", groups={"light": light, "burst": {"burst": 4}}).planned == 10
    assert Scenario.build("txt2img", groups={"light": light, "heavy": {"users": 1, "duration": "1m"}}).planned is None
