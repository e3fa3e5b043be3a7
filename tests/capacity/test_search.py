"""The search finds the true limit within four runs and its budget, and says so if it does not."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

from pytest_comfyload.capacity.answer import Capacity
from pytest_comfyload.capacity.search import Wanted, search
from pytest_comfyload.capacity.solve import Arrival, System
from pytest_comfyload.errors import NoSamples, ServerError, UsageError
from pytest_comfyload.metrics.intervals import percentile
from pytest_comfyload.metrics.queueing import serve
from pytest_comfyload.metrics.slo import Slo
from pytest_comfyload.result.checks import Check
from tests.capacity.fake_bench import FETCH, SUBMIT, FakeBench


def lognormal(rng: random.Random) -> float:
    """Draw a service time with median 9 s and cv 0.3."""
    return rng.lognormvariate(math.log(9), 0.3)


def find(
    bench: FakeBench,
    slo: str = "total_time.p95 < 60",
    arrival: Arrival = "poisson",
    budget: float = 3600,
    think_time: float = 0.0,
) -> Capacity:
    capacity = search(Wanted(Slo.parse(slo), System(arrival, bench.servers, think_time), budget), bench, bench.rng)
    assert bench.now <= budget
    assert len(capacity.runs) == len(bench.calls) - 1 <= 4
    return capacity


def bench(seed: int = 1, **differences: Any) -> FakeBench:
    return FakeBench(lognormal, random.Random(seed), **differences)


def true_rate(bound: float, servers: int = 1, prompts: int = 200_000) -> float:
    """Return the prompts per minute at which P95 of the total time is `bound`, by bisection on one long run."""
    rng = random.Random(4711)
    gaps = list(itertools.accumulate(rng.expovariate(1 / 60) for _ in range(prompts)))
    services = [lognormal(rng) for _ in range(prompts)]
    good, bad = 0.0, 60 * servers / 9
    for _ in range(12):
        rate = (good + bad) / 2
        passages = serve([at / rate for at in gaps], services, servers, "least_queue")
        totals = [end - at + SUBMIT + FETCH for at, end in zip(passages.arrivals, passages.ends, strict=True)]
        good, bad = (rate, bad) if percentile(totals[prompts // 20 :], 95) < bound else (good, rate)
    return good


def test_within_ten_percent_of_the_truth_in_eighteen_of_twenty_seeds() -> None:
    truth = true_rate(60)
    found = [find(bench(seed)) for seed in range(20)]
    near = [capacity for capacity in found if abs(float(capacity.value) - truth) <= 0.1 * truth]
    assert len(near) >= 18
    assert sum(capacity.resolved for capacity in found) >= 18
    # 90 % intervals, which are also those of the values.
    assert all(capacity.value.interval == (capacity.lower, capacity.upper) for capacity in found)
    assert sum(float(capacity.lower) <= truth <= float(capacity.upper) for capacity in found) >= 14


def test_a_steady_server_may_drift_a_little() -> None:
    """The replay interval of constant service times has zero width."""

    def resolved(stretch: float) -> bool:
        steady = FakeBench(lambda rng: 9.0, random.Random(1), stretch=lambda run: stretch if run >= 2 else 1.0)
        return find(steady, arrival="users", budget=1700).resolved

    assert resolved(1.03)
    assert not resolved(1.15)


def test_two_servers() -> None:
    capacity = find(bench(servers=2))
    assert capacity.resolved
    assert capacity.value == pytest.approx(true_rate(60, servers=2), rel=0.15)


def test_users() -> None:
    # Six successive services take 6 × 9.4 s on average, and are under 60 s in fewer than 19 of 20 cases.
    capacity = find(bench(), arrival="users")
    assert capacity.resolved
    assert capacity.value == 5
    assert (capacity.unit, capacity.limited_by) == ("users", "queue")


def test_users_who_think_are_more() -> None:
    capacity = find(bench(), arrival="users", think_time=60)
    assert capacity.resolved
    assert 8 <= float(capacity.value) <= 12


def test_what_it_does_and_what_it_says() -> None:
    used = bench(gap=0.2)
    capacity = find(used, slo="total_time.p95 < 60 and generation_time.p95 < 30")
    assert [call.split()[0] for call in used.calls] == ["warm-up", "users", "poisson"]
    assert used.calls[1] == "users 2"
    assert float(used.calls[2].split()[1]) == pytest.approx(0.8 * float(capacity.value), rel=0.1)
    measured, confirming = capacity.runs
    assert 75 <= len(measured.outcomes) <= 130
    assert 40 <= len(confirming.outcomes) <= 80
    assert capacity.value.n == len(measured.outcomes) + len(confirming.outcomes)
    assert (capacity.value.name, capacity.unit, capacity.limited_by) == ("capacity", "prompts/min", "queue")
    assert float(capacity.lower) < float(capacity.value) < float(capacity.upper)
    sentence = capacity.sentence()
    assert sentence.startswith("total_time.p95 < 60 and generation_time.p95 < 30 is met up to")
    assert "confirmed at" in sentence
    assert "total_time.p95" in sentence


def test_a_gap_between_prompts_is_found() -> None:
    without, with_gap = (float(find(bench(3, gap=gap)).value) for gap in (0.0, 3.0))
    assert with_gap < 0.85 * without


def test_a_server_that_slows_under_load_is_unresolved() -> None:
    # In the confirming runs, prompts take three times as long; the second sample includes the first of them.
    used = bench(stretch=lambda run: 3.0 if run in (2, 4) else 1.0)
    capacity = find(used, budget=7200)
    assert not capacity.resolved
    assert [call.split()[0] for call in used.calls] == ["warm-up", "users", "poisson", "users", "poisson"]
    assert capacity.value == capacity.lower == 0  # no load was seen to meet the SLO
    assert float(capacity.upper) == pytest.approx(float(used.calls[2].split()[1]), rel=0.1)
    assert "contradicted twice" in capacity.sentence()


def test_a_refuted_model_that_was_too_dark_still_vouches_for_what_held() -> None:
    used = bench(stretch=lambda run: 0.3 if run in (2, 4) else 1.0)
    capacity = find(used, budget=7200)
    assert not capacity.resolved
    assert float(capacity.value) == pytest.approx(max(float(used.calls[k].split()[1]) for k in (2, 4)), rel=0.01)
    assert float(capacity.upper) == math.inf
    assert "∞" in capacity.sentence()


def test_twice_the_sample_can_mend_it() -> None:
    # Only the first confirming run was slow.
    used = bench(stretch=lambda run: 3.0 if run == 2 else 1.0)
    capacity = find(used, budget=7200)
    assert capacity.resolved
    assert len(capacity.runs) == 4
    assert capacity.value.n > 200


def test_generation_alone() -> None:
    capacity = find(bench(), slo="total_time.p95 < 9")
    assert capacity.value == 0
    assert (capacity.limited_by, capacity.resolved) == ("generation", True)
    assert "without a queue" in capacity.sentence()


def test_generation_alone_of_users_means_nothing() -> None:
    with pytest.raises(UsageError, match="does not depend on the number of users"):
        find(bench(), slo="generation_time.p95 < 9", arrival="users")


def test_memory() -> None:
    capacity = find(bench(oom=0.02))
    assert capacity.limited_by == "memory"
    assert float(capacity.value) > 0
    assert find(bench(oom=0.2)).value == 0


def test_nothing_works() -> None:
    with pytest.raises(ServerError, match="Allocation on device"):
        find(bench(oom=1.0))


def test_an_invalid_measurement_is_worth_nothing() -> None:
    capacity = find(bench(late_from=1))
    assert (capacity.limited_by, capacity.resolved) == ("generator", False)
    assert "generator was late" in capacity.sentence()
    with pytest.raises(NoSamples):
        assert capacity.value > 1


def test_an_invalid_confirmation_leaves_an_estimate() -> None:
    capacity = find(bench(late_from=2))
    assert (capacity.limited_by, capacity.resolved) == ("generator", False)
    assert float(capacity.value) == pytest.approx(true_rate(60), rel=0.15)


def test_a_budget_too_short_to_measure_is_refused_before_the_first_run() -> None:
    used = bench()
    with pytest.raises(UsageError, match=r"budget: 10 min are too short to measure 100 prompts of about .* s"):
        find(used, budget=600)
    assert used.calls == ["warm-up"]


def test_a_budget_too_short_to_confirm() -> None:
    used = bench()
    capacity = find(used, budget=1400)
    assert (capacity.limited_by, capacity.resolved) == ("budget", False)
    assert "limited by the time budget" in capacity.sentence()
    assert [call.split()[0] for call in used.calls] == ["warm-up", "users"]
    assert float(capacity.lower) < float(capacity.value) < float(capacity.upper)


@pytest.mark.parametrize("op", [">", "=="])
@pytest.mark.parametrize("which", ["value", "lower", "upper"])
def test_what_was_not_confirmed_settles_no_claim(which: str, op: str) -> None:
    metric = getattr(find(bench(), budget=1400), which)
    bound = 1.0 if op == ">" else float(metric)
    check = Check.of(metric, op, bound, True)
    assert (check.verdict, check.unsettled, check.settled_by) == ("unresolved", True, "a larger budget")
    assert "unresolved, limited by the time budget: the budget had no time left" in check.sentence
    missed = Check.of(metric, ">", 1000.0, False)
    assert (missed.verdict, missed.unsettled) == ("fail", False)
    assert "unresolved, limited by the time budget" in missed.sentence


def test_what_was_confirmed_settles_a_claim() -> None:
    assert Check.of(find(bench()).value, ">", 1.0, True).verdict == "pass"


@pytest.mark.parametrize("budget", [1300, 2100, 2900])
@pytest.mark.parametrize("slower_from", [1, 2])
def test_the_budget_is_kept_whatever_becomes_of_the_server(budget: int, slower_from: int) -> None:
    # `find` asserts it.
    capacity = find(bench(stretch=lambda run: 4.0 if run >= slower_from else 1.0), budget=budget)
    assert capacity.resolved or capacity.limited_by in ("budget", "queue")
