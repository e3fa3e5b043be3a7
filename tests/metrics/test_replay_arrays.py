"""Reruns by columns equal reruns by lists: the same draws, the same order, the same times within rounding."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_comfyload.metrics import replay as replaying
from pytest_comfyload.metrics.load_plan import Arrivals, Plan, Pools, Service, Times, Users
from pytest_comfyload.metrics.queueing import Dispatch
from pytest_comfyload.metrics.replay import measured_order, runs_of, statistics_of
from pytest_comfyload.metrics.replay_arrays import ArrayReruns, served

# Sums of eighths are exact, so that prompts that are due at the same time are so with columns and with lists.
SECONDS = st.integers(0, 40).map(lambda eighths: eighths / 8)
SERVICES = st.builds(
    lambda occupied, fails, outside: Service(occupied, math.inf if fails else 0.5 * occupied, outside),
    SECONDS,
    st.integers(0, 9).map(lambda chance: chance == 0),
    SECONDS,
)
POOLS = st.lists(st.lists(SERVICES, min_size=1, max_size=6), min_size=1, max_size=3).flatmap(
    lambda rows: st.builds(
        Pools,
        st.just([[row] for row in rows]),
        st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=12),
    )
)
PAUSES = st.lists(SECONDS, max_size=5).map(tuple)
ARRIVALS = st.lists(SECONDS, min_size=1, max_size=40).map(lambda gaps: Arrivals(tuple(_sums(gaps))))
USERS = st.one_of(
    st.builds(Users, st.integers(1, 6), iterations=st.integers(1, 8), pauses=PAUSES),
    st.builds(Users, st.integers(1, 6), shared=st.integers(1, 40), think_time=SECONDS),
    # Without think time, prompts that take no time would follow each other forever.
    st.builds(Users, st.integers(1, 6), duration=st.integers(1, 40), think_time=st.sampled_from((0.5, 2.0))),
    st.builds(Users, st.integers(1, 6), iterations=st.integers(1, 8), duration=st.integers(1, 40)),
)


def _sums(gaps: list[float]) -> Iterator[float]:
    at = 0.0
    for gap in gaps:
        yield (at := at + gap)


@given(st.one_of(ARRIVALS, USERS), POOLS, st.integers(0, 99))
@example(Arrivals.burst(20), Pools([[[Service.of(1.0)]]]), 1)
@example(Users(3, iterations=5), Pools([[[Service(0.0, math.inf)]]]), 1)
def test_columns_and_lists_agree(plan: Plan, pools: Pools, seed: int) -> None:
    by_columns = ArrayReruns.of(plan, pools, random.Random(seed))
    if by_columns is None:
        return
    for by_lists in runs_of(plan, pools, random.Random(seed), runs=3):
        _expect_equal(by_columns.next(), by_lists)


SEVERAL = st.integers(1, 3).flatmap(
    lambda servers: st.builds(
        Pools,
        st.lists(
            st.lists(st.lists(SERVICES, min_size=1, max_size=4), min_size=servers, max_size=servers),
            min_size=1,
            max_size=3,
        ),
        st.just((0,)),
    )
)


@given(ARRIVALS, SEVERAL, st.data(), st.integers(0, 99))
def test_columns_and_lists_agree_on_several_servers_in_turn(
    plan: Arrivals, pools: Pools, data: st.DataObject, seed: int
) -> None:
    kinds = data.draw(st.lists(st.integers(0, len(pools.rows) - 1), min_size=1, max_size=12))
    pools, servers = Pools(pools.rows, kinds), len(pools.rows[0])
    by_columns = ArrayReruns.of(plan, pools, random.Random(seed), servers, "round_robin")
    assert by_columns is not None
    for by_lists in runs_of(plan, pools, random.Random(seed), servers=servers, dispatch="round_robin", runs=3):
        _expect_equal(by_columns.next(), by_lists)


@given(ARRIVALS, st.data())
def test_the_measured_order_is_the_same_by_columns_and_by_lists(plan: Arrivals, data: st.DataObject) -> None:
    services = data.draw(st.lists(SERVICES, min_size=len(plan.at), max_size=len(plan.at)))
    _expect_equal(served(plan, services), measured_order(plan, services, 1, "shared"))


@pytest.mark.parametrize("dispatch", ["shared", "least_queue", "sticky"])
def test_what_depends_on_the_queues_is_replayed_by_lists(dispatch: Dispatch) -> None:
    pools = Pools([[[Service.of(1.0)]] * 2])
    assert ArrayReruns.of(Arrivals.burst(9), pools, random.Random(1), 2, dispatch) is None


def _expect_equal(one: Times, other: Times) -> None:
    for name in ("queue_time", "generation_time", "total_time"):
        assert list(getattr(one, name)) == pytest.approx(list(getattr(other, name)), rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize(
    "plan",
    [
        Users(20, iterations=100),
        Users(20, shared=2_000, think_time=0.1),
        Users(20, duration=1_500.0, pauses=(0.1, 0.15, 0.3)),
        Arrivals.burst(2_000),
    ],
    ids=["iterations", "shared", "duration", "burst"],
)
def test_large_loads_are_replayed_by_columns(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    rows = [[[Service(t, t, 0.3 * rng.random()) for t in (rng.lognormvariate(0, 0.4) for _ in range(200))]]]
    pools = Pools(rows, [0] * 2_000)
    by_columns = next(runs_of(plan, pools, random.Random(2), runs=1))
    assert not isinstance(by_columns.queue_time, list)
    monkeypatch.setattr(replaying, "LEAST_FOR_ARRAYS", math.inf)
    by_lists = next(runs_of(plan, pools, random.Random(2), runs=1))
    assert isinstance(by_lists.queue_time, list)
    _expect_equal(by_columns, by_lists)
    for columns, lists in ((by_columns.total_time, by_lists.total_time), (by_columns.queue_time, by_lists.queue_time)):
        qs = (None, 50, 95, 99.9)
        assert statistics_of(columns, qs) == pytest.approx(statistics_of(lists, qs), rel=1e-9)


def test_users_who_hardly_meet_are_replayed_by_lists() -> None:
    """The lists continue with the draws that follow."""
    plan, pools = (
        Users(2, iterations=600, think_time=7.0),
        Pools([[[Service.of(t) for t in (1.0, 2.0, 2.5)]]], [0] * 1200),
    )
    by_columns = ArrayReruns.of(plan, pools, random.Random(3))
    assert by_columns is not None
    for by_lists in runs_of(plan, pools, random.Random(3), runs=3):
        _expect_equal(by_columns.next(), by_lists)


@pytest.mark.parametrize("values", [[], [math.inf], [3.0, 1.0, math.inf, 2.0]])
def test_statistics_count_failures_as_infinite_and_leave_them_out_of_the_mean(values: list[float]) -> None:
    import numpy as np

    by_lists = statistics_of(values, (None, 50, 75, 100))
    if values:
        columns: object = np.array(values)
        assert statistics_of(columns, (None, 50, 75, 100)) == pytest.approx(by_lists, nan_ok=True)  # type: ignore[arg-type]
    finite = [value for value in values if math.isfinite(value)]
    assert by_lists[0] == pytest.approx(sum(finite) / len(finite) if finite else math.nan, nan_ok=True)


def test_without_numpy_the_interval_is_the_same() -> None:
    """The interval is computed in two subprocesses, one of which cannot import numpy."""
    code = """
import sys
if sys.argv[1] == "without":
    sys.modules["numpy"] = None
import random
from tests.result.queued import lognormal, of_users
load = of_users(10, 120, lognormal(random.Random(5), 0.3))
print(*load.total_time.p95.interval, *load.queue_time.mean.interval)
assert ("pytest_comfyload.metrics.replay_arrays" in sys.modules) == (sys.argv[1] == "with")
"""

    def run(how: str) -> list[float]:
        done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True)
        return list(map(float, done.stdout.split()))

    assert run("with") == pytest.approx(run("without"), rel=1e-9)
