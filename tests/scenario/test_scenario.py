"""Arguments that cannot be meant never become a scenario: each refusal names the argument and the way out."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.scenario.executors import Burst, ConstantUsers, PerUserIterations
from pytest_comfyload.scenario.scenario import DEFAULTS, Scenario
from pytest_comfyload.scenario.units import format_duration, parse_duration


def test_the_defaults_are_one_prompt_by_one_user() -> None:
    scenario = Scenario.build("txt2img")
    assert scenario.executor == PerUserIterations(users=1, iterations=1)
    assert (scenario.warmup, scenario.timeout, scenario.drain, scenario.max_send_lag) == (1, 300.0, 300.0, 0.1)


@pytest.mark.parametrize(
    ("arguments", "executor"),
    [
        ({"users": 5, "iterations": 3}, PerUserIterations(5, 3)),
        ({"iterations": 3}, PerUserIterations(1, 3)),
        ({"users": 2, "duration": "10m", "think_time": "500ms"}, ConstantUsers(2, 600.0, 0.5)),
        ({"burst": 15}, Burst(15)),
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
        ({"workflow": "w", "users": 0}, "users=0 is not a whole number of at least 1"),
        ({"workflow": "w", "users": True}, "users=True is not a whole number"),
        ({"workflow": "w", "iterations": 2.5}, "iterations=2.5"),
        ({"workflow": "w", "iterations": 2, "duration": "1m"}, "duration='1m' and iterations=2 contradict each other"),
        ({"workflow": "w", "burst": 2, "users": 3}, "burst=2 and users=3 contradict each other"),
        ({"workflow": "w", "duration": "ten minutes"}, "duration='ten minutes' is not a duration; write seconds"),
        ({"workflow": "w", "timeout": -1}, "timeout=-1 is not a duration"),
        ({"workflow": "w", "timeout": 0}, "timeout=0 must be longer than nothing"),
        ({"workflow": "w", "rate": "5/min"}, "load_scenario(rate='5/min') is not built yet; leave rate out"),
        ({"workflow": "w", "users": [("1m", 2)]}, "is not built yet; give users= a number"),
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
