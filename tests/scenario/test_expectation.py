"""How long loads are expected to take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.scenario.scenario import Scenario, expected_duration, planned_duration, planned_prompts


def _parts(**arguments: Any) -> list[Scenario]:
    return [part for _, part in Scenario.build("txt2img" if "groups" not in arguments else None, **arguments).parts]


@pytest.mark.parametrize(
    ("arguments", "seconds", "prompts"),
    [
        ({"users": 5, "iterations": 3}, None, 15),
        ({"users": 5, "shared_iterations": 7}, None, 7),
        ({"burst": 9}, None, 9),
        ({"users": 5, "duration": "10m"}, 600, None),
        ({"users": [("1m", 2), ("3m", 8)]}, 240, None),
        ({"rate": "6/min", "duration": "10m"}, 600, 60),
        ({"rate": [("1m", "0/min"), ("2m", "6/min")]}, 180, 6),
        ({"preset": "smoke"}, None, 3),
        ({"preset": "spike"}, 350, None),
    ],
    ids=str,
)
def test_what_is_known_without_a_server(arguments: dict[str, Any], seconds: float | None, prompts: float) -> None:
    assert planned_duration(_parts(**arguments)) == seconds
    assert planned_prompts(_parts(**arguments)) == prompts


def test_groups_are_over_when_the_last_one_is() -> None:
    light, late = {"workflow": "txt2img", "rate": "1/min", "duration": "2m"}, {"workflow": "txt2img", "burst": 5}
    assert planned_duration(_parts(groups={"light": light, "late": {**light, "start": "90s"}})) == 210
    assert planned_prompts(_parts(groups={"light": light, "late": late})) == 7
    mixed = _parts(groups={"light": light, "late": {**late, "start": "1m"}})
    assert planned_duration(mixed) is None
    assert expected_duration(mixed, [None, 30.0], servers=1) == 150
    assert expected_duration(mixed, [None, 2.0], servers=1) == 120


@pytest.mark.parametrize(
    ("arguments", "servers", "seconds"),
    [
        ({"users": 5, "iterations": 3}, 1, 30),
        ({"users": 5, "iterations": 3}, 2, 15),
        # One user keeps one server busy.
        ({"users": 1, "iterations": 3}, 2, 6),
        # Two pauses between three prompts; with 40 users, the prompts of the others fill them.
        ({"users": 1, "iterations": 3, "think_time": "10s"}, 1, 26),
        ({"users": 40, "iterations": 3, "think_time": "10s"}, 1, 240),
        ({"users": 5, "shared_iterations": 7}, 1, 14),
        ({"burst": 9}, 3, 6),
    ],
    ids=str,
)
def test_iterations_take_what_their_server_takes(arguments: dict[str, Any], servers: int, seconds: float) -> None:
    assert expected_duration(_parts(**arguments), [2.0], servers) == pytest.approx(seconds)


def test_without_a_generation_time_nothing_is_claimed() -> None:
    assert expected_duration(_parts(users=5, iterations=3), [None], servers=1) is None


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 1e3), st.integers(1, 9))
def test_more_servers_never_take_longer(users: int, iterations: int, seconds: float, servers: int) -> None:
    parts = _parts(users=users, iterations=iterations)
    few, more = (expected_duration(parts, [seconds], count) for count in (servers, servers + 1))
    assert few is not None
    assert more is not None
    assert seconds * iterations <= more <= few
