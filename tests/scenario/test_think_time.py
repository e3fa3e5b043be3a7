"""A pause is a duration, a pair of durations, or drawn from a distribution of durations; it is never negative."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.scenario.distributions import exponential, lognormal, normal, uniform
from pytest_comfyload.scenario.pacing import NO_PAUSE, ThinkTime
from pytest_comfyload.scenario.scenario import Scenario, expected_duration, planned_duration


def pauses(value: Any, n: int = 5000) -> list[float]:
    pause, rng = ThinkTime.read(value), random.Random(1)
    return [pause.draw(rng) for _ in range(n)]


def test_durations_and_pairs() -> None:
    assert ThinkTime.read(0) == NO_PAUSE
    assert set(pauses("2s")) == {2.0}
    assert min(pauses(("1s", 3))) == pytest.approx(1, abs=0.01)
    assert max(pauses(("1s", 3))) == pytest.approx(3, abs=0.01)


def test_distributions_of_durations() -> None:
    assert statistics.fmean(pauses(exponential("5s"))) == pytest.approx(5, rel=0.05)
    assert statistics.median(pauses(lognormal("500ms", 2))) == pytest.approx(0.5, rel=0.05)
    assert pauses(uniform("1s", "3s")) == pauses(("1s", "3s"))


def test_a_bell_that_reaches_below_nothing_is_cut_there() -> None:
    drawn = pauses(normal("1s", "1s"))
    assert min(drawn) >= 0
    pause = ThinkTime.read(normal("1s", "1s"))
    assert pause.mean == pytest.approx(statistics.fmean(drawn), rel=0.05)
    assert pause.mean > 1.2


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0, ""),
        ("2s", ", 2.0 s think time"),
        (("1s", "5s"), ", 1.0 s to 5.0 s think time"),
        (exponential("5s"), ", exponential(5.0 s) think time"),
        (normal(90, "10s", max="2m"), ", normal(1 min 30 s, 10.0 s, max=2 min) think time"),
    ],
)
def test_it_is_printed_with_the_scenario(value: Any, printed: str) -> None:
    assert str(ThinkTime.read(value)) == printed
    assert str(Scenario.build("txt2img", think_time=value)).endswith(f"1 user × 1 iteration{printed}")


def test_its_mean_is_in_the_expected_duration() -> None:
    scenario = Scenario.build("txt2img", iterations=5, think_time=exponential("5s"))
    assert planned_duration([scenario]) is None
    assert expected_duration([scenario], [2.0], servers=1) == pytest.approx(5 * 2 + 4 * 5)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (exponential("soon"), "think_time=exponential('soon'): mean='soon' is not a duration; write seconds"),
        (exponential(0), "think_time=exponential(0): mean=0 must be above 0"),
        (normal(-1, 1), "mean=-1 is not a duration"),
        (normal(3, 1, min="9s", max=4), "think_time=normal(3, 1, min='9s', max=4): min=9 must be below max=4"),
        (normal(1, 10, max=0), "almost none of its values are above 0; give a larger mean"),
        (uniform(5, None), "high=None is not a duration"),  # type: ignore[arg-type]
        (("3s", "1s"), "the shortest is longer than the longest"),
        (("3s",), "neither a duration nor a pair"),
    ],
    ids=repr,
)
def test_what_is_no_pause(value: Any, says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Scenario.build("txt2img", think_time=value)
    assert says in str(refusal.value)
    assert str(refusal.value).startswith("think_time=")
