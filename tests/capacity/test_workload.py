"""People send the given amount at the given times of day, and the same people send the same."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.capacity import columns
from pytest_comfyload.capacity.arrived import DAY
from pytest_comfyload.capacity.columns import listed
from pytest_comfyload.capacity.workload import DAY_PROFILES, DayProfile, Workload, WorkStyle
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.arrival_trace import ArrivalTrace, arrival_line, gap_line, header_line

MIDNIGHT = datetime(2026, 11, 2, tzinfo=UTC)


def test_as_many_images_as_were_asked_for_arrive_in_order() -> None:
    arrived = Workload(people=100, images_per_day=1000).draw()
    assert arrived.days == 30
    assert len(arrived) / arrived.days == pytest.approx(1000, rel=0.05)
    assert listed(arrived.at) == sorted(arrived.at)
    assert arrived.at[-1] < arrived.days * DAY
    assert set(arrived.people) <= set(range(100))


@pytest.mark.parametrize("name", DAY_PROFILES)
def test_the_day_profile_is_kept(name: str) -> None:
    workload = Workload(people=200, images_per_day=2000, day=DayProfile.named(name), style=WorkStyle.parse("one"))
    arrived = workload.draw()
    hours = Counter(int(at // 3600) % 24 for at in arrived.at)
    assert [hours[hour] / len(arrived) for hour in range(24)] == pytest.approx(workload.day.shares, abs=0.01)


def test_the_first_people_send_what_they_would_send_alone() -> None:
    workload = Workload(people=50, images_per_day=500, style=WorkStyle.parse("4-at-once"))
    fewer = Workload(people=20, images_per_day=200, style=WorkStyle.parse("4-at-once"))
    first, alone = workload.draw(days=20).of_first(20), fewer.draw(days=20)
    for name in ("at", "people", "kinds", "quantiles"):
        assert listed(getattr(first, name)) == listed(getattr(alone, name))


@pytest.mark.parametrize("style", ["sessions", "one", "4-at-once"])
def test_the_same_is_sent_without_numpy(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Workload(20, 300, style=WorkStyle.parse(style), mix={"a": 3, "b": 1})
    arrays = workload.draw(days=30)
    monkeypatch.setattr(columns, "np", None)
    lists = workload.draw(days=30)
    assert isinstance(lists.at, list)
    assert not isinstance(arrays.at, list)
    assert lists.at == pytest.approx(list(arrays.at))
    for name in ("people", "kinds", "quantiles"):
        assert getattr(lists, name) == list(getattr(arrays, name))


def test_sessions() -> None:
    together = Workload(people=1, images_per_day=40, style=WorkStyle.parse("4-at-once")).draw(days=50)
    sizes = Counter(len(list(group)) for _, group in itertools.groupby(together.at))
    assert set(sizes) == {4}
    spread = Workload(people=1, images_per_day=8).draw(days=1000)
    gaps = [after - before for before, after in itertools.pairwise(spread.at) if after - before < 600]
    assert sum(gaps) / len(gaps) == pytest.approx(45, rel=0.1)


def test_a_session_is_all_of_one_workflow() -> None:
    arrived = Workload(people=5, images_per_day=100, mix={"a": 3, "b": 1}).draw(days=200)
    share = listed(arrived.kinds).count(0) / len(arrived)
    assert share == pytest.approx(0.75, abs=0.05)
    same = sum(k == j for k, j in itertools.pairwise(arrived.kinds)) / len(arrived)
    assert same > 0.85


@given(st.lists(st.floats(0, 1000), min_size=24, max_size=24).filter(lambda weights: sum(weights) > 0.001))
def test_a_day_is_used_up_in_order(weights: list[float]) -> None:
    profile = DayProfile.of(weights, "x")
    times = [profile.time(k / 50) for k in range(50)]
    assert times == sorted(times)
    assert all(0 <= time < DAY for time in times)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 " * 23, "has 23 numbers; a day profile has 24"),
        ("1,2,x" + ",1" * 21, "'x' is not a number"),
        ("-1" + " 1" * 23, "-1 cannot be the share of an hour"),
        ("nan" + " 1" * 23, "nan cannot be"),
        ("0 " * 24, "sum to 0"),
    ],
)
def test_bad_day_profiles(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DayProfile.parse(text, "day.csv")


@pytest.mark.parametrize("style", ["", "two", "0-at-once", "-at-once", "99999-at-once"])
def test_bad_styles(style: str) -> None:
    with pytest.raises(UsageError, match="legal: sessions, one, and N-at-once"):
        WorkStyle.parse(style)


def test_a_trace_is_repeated_at_its_hours() -> None:
    lines = [header_line(MIDNIGHT.replace(hour=9), 7200.0), *(arrival_line(60.0 * k, "w") for k in range(100))]
    workload = Workload.of_trace(ArrivalTrace.parse("".join(lines).encode(), "trace"), {"": 1.0})
    arrived = workload.draw()
    assert (len(arrived), arrived.days, arrived.busiest, arrived.at[0]) == (100, 1, 9, 9 * 3600)
    faster = workload.scaled(2.0)
    assert faster.images_per_day == 200
    assert faster.draw().at[-1] == arrived.at[-1] / 2


def test_a_trace_with_a_hole_is_refused() -> None:
    lines = [header_line(MIDNIGHT, 100.0), arrival_line(1.0, "w"), gap_line(10.0, 20.0)]
    with pytest.raises(UsageError, match=r"has a gap from 10\.0 s to 20\.0 s"):
        Workload.of_trace(ArrivalTrace.parse("".join(lines).encode(), "trace"), {"": 1.0})
