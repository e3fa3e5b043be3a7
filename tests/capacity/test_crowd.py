"""`find_capacity(people=...)`: people instead of prompts, confirmed by sending their prompts."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from pytest_comfyload.capacity.crowd import Crowd
from pytest_comfyload.capacity.search import Wanted, search
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.load_plan import Service
from pytest_comfyload.metrics.slo import Slo
from tests.capacity.fake_bench import FakeBench


def test_people_are_found_and_confirmed_by_prompts_of_theirs() -> None:
    """A prompt takes ten seconds on the one server; the plan's knee is at about 90 people with ten images a day."""
    bench = FakeBench(lambda rng: rng.lognormvariate(2.26, 0.3), random.Random(1))
    crowd = Crowd.parse({"images_per_day": 10}, servers=1)
    capacity = search(Wanted(Slo.parse("total_time.p95 < 60"), crowd, 4 * 3600.0), bench, bench.rng)
    assert capacity.unit == "people"
    assert 60 < float(capacity.value) < 130
    assert float(capacity.lower) <= float(capacity.value) <= float(capacity.upper)
    assert [call.split()[0] for call in bench.calls[:3]] == ["warm-up", "users", "scheduled"]
    assert "people" in capacity.sentence()


def test_the_schedule_is_of_a_busy_hour_and_of_those_people() -> None:
    crowd = Crowd.parse({"images_per_day": 10, "day": "evening", "work": "one"}, servers=1)
    few, many = (crowd.schedule(people, 60) for people in (50, 200))
    assert len(few) == len(many) == 60
    assert list(few) == sorted(few)
    assert few[0] >= 0
    assert few[-1] > 2 * many[-1]


def test_more_people_than_are_tried_have_no_upper_end() -> None:
    solved = Crowd.parse({"images_per_day": 400}, servers=1).solve(
        Slo.parse("total_time.p95 < 60"), [Service.of(0.01)] * 20, random.Random(1)
    )
    assert solved.value > 10
    assert solved.upper == math.inf


def test_an_slo_that_one_prompt_misses_holds_nobody() -> None:
    bench = FakeBench(lambda rng: 10.0, random.Random(1))
    crowd = Crowd.parse({"images_per_day": 10}, servers=1)
    capacity = search(Wanted(Slo.parse("total_time.p95 < 9"), crowd, 7200.0), bench, bench.rng)
    assert float(capacity.value) == 0
    assert capacity.limited_by == "generation"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (30, "give a dict of what one person does"),
        ({}, "give a dict of what one person does"),
        ({"images_per_day": -1}, "images_per_day=-1 is not a number above 0"),
        ({"images_per_day": "x"}, "images_per_day='x' is not a number above 0"),
        ({"images_per_day": 5, "days": "office"}, "unknown key 'days'; legal: day"),
        ({"images_per_day": 5, "day": "offices"}, "'offices' is not a profile: office"),
        ({"images_per_day": 5, "day": [1] * 23}, "has 23 numbers"),
        ({"images_per_day": 5, "work": "hard"}, "legal: sessions, one, and N-at-once"),
        ({"images_per_day": 5, "on_days": 0}, "on_days=0 is not a number above 0"),
    ],
)
def test_bad_people(given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Crowd.parse(given, 1)
