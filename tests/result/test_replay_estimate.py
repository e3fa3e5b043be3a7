"""Times that depend on waiting: what a rerun of the load would have measured, or why that is unknown."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pytest_comfyload.metrics.assessment import judge
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.queueing import Dispatch
from pytest_comfyload.metrics.replay import runs_of
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus
from pytest_comfyload.result.replay_estimate import reruns_of
from tests.result.queued import SUBMIT, arrived, lognormal, of_users


def steady(k: int, server: int) -> float:
    return 2.0


def poisson(rng: random.Random, prompts: int, rate: float) -> list[float]:
    return list(itertools.accumulate(rng.expovariate(rate) for _ in range(prompts)))


def ends(metric: Metric) -> tuple[float, float]:
    return float(metric.lower), float(metric.upper)


def changed(load: LoadResult, change: Callable[[int, Outcome], Outcome], **facts: Any) -> LoadResult:
    outcomes = [change(k, outcome) for k, outcome in enumerate(load.outcomes)]
    return LoadResult(dataclasses.replace(load.facts, **facts), outcomes)


def same(k: int, outcome: Outcome) -> Outcome:
    return outcome


def why_not(load: LoadResult) -> str:
    judgement = judge(load.total_time.p95, "<", 1e6)
    assert (judgement.verdict, judgement.upper) == ("inconclusive", math.inf)
    return judgement.sentence.partition(", but ")[2]


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("balance", ["least_queue", "round_robin", "sticky"])
@pytest.mark.parametrize(
    "load_of", [lambda *args: of_users(6, 12, *args), lambda *args: arrived([0.7 * k for k in range(72)], *args)]
)
def test_a_steady_server_measures_the_same_again(
    load_of: Callable[..., LoadResult], balance: Dispatch, servers: int
) -> None:
    load = load_of(steady, servers, balance)
    if load.facts.open_load and balance == "sticky" and servers > 1:
        assert why_not(load) == "arrivals that stick to servers cannot be replayed."
        return
    for metric in (load.total_time.p95, load.total_time.mean, load.queue_time.p95, load.queue_time.mean):
        assert ends(metric) == pytest.approx((metric, metric))


def test_recorded_arrivals_are_replayed_as_those_of_a_rate() -> None:
    at = poisson(random.Random(3), 200, 0.5)
    rate, trace = (arrived(at, steady, executors=(name,)) for name in ("constant arrival rate", "recorded arrivals"))
    assert ends(trace.total_time.p95) == ends(rate.total_time.p95)


def test_the_sentences() -> None:
    p95 = of_users(10, 10, lognormal(random.Random(13), 0.3, mean=5.5)).total_time.p95
    said = {bound: judge(p95, "<", bound) for bound in (80, 62, 59, 50)}
    assert {bound: (judgement.verdict, judgement.sentence) for bound, judgement in said.items()} == {
        80: ("pass", "60.2 s < 80 s; replayed: 54–65 s."),
        62: ("inconclusive", "60.2 s < 62 s, but replayed: 54–65 s; a longer load would settle it."),
        59: ("fail", "60.2 s > 59 s; replayed: 54–65 s, so a rerun may meet it."),
        50: ("fail", "60.2 s > 50 s; replayed: 54–65 s."),
    }
    assert said[62].settled_by == "more prompts"


def test_a_burst_is_never_advised_to_be_longer() -> None:
    load = arrived([0.0] * 60, lognormal(random.Random(1), 0.3))
    judgement = judge(load.total_time.p95, "<", float(load.total_time.p95) + 0.1)
    assert (judgement.verdict, judgement.settled_by) == ("inconclusive", "reruns")
    assert judgement.sentence.endswith("; reruns would settle it.")
    small = judge(arrived([0.0] * 15, steady).total_time.p95, "<", 60)
    assert (small.verdict, small.settled_by) == ("unsupported", "reruns")
    assert small.sentence == ("30 s < 60 s, but 15 prompts at once are too few for P95; reruns would settle it.")


def test_an_overloaded_server_is_a_ramp_as_well() -> None:
    load = arrived([0.5 * k for k in range(100)], lognormal(random.Random(1), 0.3))
    assert judge(load.total_time.p95, "<", float(load.total_time.p95) + 0.1).settled_by == "reruns"


def test_too_few_prompts() -> None:
    load = of_users(5, 3, steady)
    assert judge(load.total_time.p95, "<", 60).sentence == (
        "10 s < 60 s, but 15 prompts are too few for P95, which needs 59."
    )
    assert judge(load.queue_time.mean, "<", 60).sentence == (
        "6.67 s < 60 s, but 15 prompts are too few for a mean, which needs 30."
    )
    assert judge(load.total_time.p95, "<", 60).verdict == "unsupported"
    assert judge(load.total_time.p50, "<", 60).verdict == "pass"  # five prompts are enough


def test_drift_is_no_sample() -> None:
    def heating(k: int, server: int) -> float:
        return 2.0 + 0.01 * k

    assert why_not(of_users(10, 10, heating)).startswith("generation times drift (lag-1 autocorrelation 0.9")
    # Two workflows that alternate are not drift.
    alternating = changed(
        of_users(2, 50, lambda k, server: 1.0 + 3 * (k % 2)),
        lambda k, outcome: dataclasses.replace(outcome, workflow="ab"[outcome.user]),
    )
    assert judge(alternating.total_time.p95, "<", 60).verdict == "pass"


def test_the_guard_against_drift_lets_clean_runs_pass() -> None:
    clean = sum(of_users(6, 10, lognormal(random.Random(seed), 0.3))._reruns.objection is None for seed in range(200))
    assert clean >= 190


def test_somebody_else_in_the_queue_is_seen() -> None:
    def held_up(k: int, outcome: Outcome) -> Outcome:
        line = outcome.timeline
        assert line is not None
        late = {name: getattr(line, name) + 10.0 for name in ("started", "ended", "delivered", "fetched")}
        return dataclasses.replace(outcome, timeline=dataclasses.replace(line, **late)) if k % 5 == 0 else outcome

    load = changed(arrived([3.0 * k for k in range(100)], lognormal(random.Random(2), 0.1)), held_up)
    assert "something else was at work in the queue" in why_not(load)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"executors": ()}, "how its load came is not known."),
        ({"executors": ("ramping users",)}, "ramping users cannot be replayed."),
        ({"executors": ("per-user iterations", "burst")}, "a load of several groups cannot be replayed."),
        ({"workers": ("http://w",)}, "what its balancer would do cannot be replayed."),
        ({"intended": 101}, "a load with dropped arrivals cannot be replayed."),
    ],
)
def test_plans_that_cannot_be_done_again(facts: dict[str, Any], why: str) -> None:
    assert why_not(changed(of_users(10, 10, steady), same, **facts)) == why


def test_what_was_cut_off_cannot_be_done_again() -> None:
    load = of_users(10, 10, steady)
    cut = changed(load, lambda k, each: dataclasses.replace(each, status=OutcomeStatus.CENSORED) if k == 99 else each)
    assert why_not(cut) == "a load that was cut off cannot be replayed."
    short = LoadResult(dataclasses.replace(load.facts, intended=99, submitted=99), load.outcomes[:99])
    assert why_not(short) == "a load that was ended early cannot be replayed."
    stepped = changed(load, lambda k, each: _without_queue(each) if k == 50 else each)
    assert why_not(stepped) == "the server's stamps of some prompts are void."


def _without_queue(outcome: Outcome) -> Outcome:
    assert outcome.timeline is not None
    return dataclasses.replace(outcome, timeline=dataclasses.replace(outcome.timeline, accepted=None))


def test_a_part_of_a_run_is_not_replayed_by_itself() -> None:
    load = changed(of_users(2, 70, steady), lambda k, each: dataclasses.replace(each, group="ab"[each.user]))
    assert why_not(load.by("group")["a"]) == "a part of a run cannot be replayed by itself."


def test_failures_are_never_done_and_are_redrawn() -> None:
    """Eight of 100 prompts fail, so P90 is finite and P95 is not; in some reruns eleven fail."""

    def failing(k: int, outcome: Outcome) -> Outcome:
        line = outcome.timeline
        assert line is not None
        line = dataclasses.replace(line, delivered=None, fetched=None)
        failed = dataclasses.replace(outcome, status=OutcomeStatus.OOM, timeline=line, cache_class=None)
        return failed if k % 12 == 7 else outcome

    load = changed(arrived([2.5 * k for k in range(100)], lognormal(random.Random(3), 0.1)), failing)
    assert load.total_time.p95 == math.inf
    assert math.isfinite(load.total_time.p90.lower)
    assert load.total_time.p90.upper == math.inf
    assert math.isfinite(load.total_time.p50.upper)


def test_each_kind_is_redrawn_from_its_own() -> None:
    """One user in five sends prompts that take ten times as long; no rerun can have more of them."""
    load = changed(
        of_users(5, 20, lambda k, server: 10.0 if k % 5 == 0 else 1.0),
        lambda k, each: dataclasses.replace(each, workflow="heavy" if each.user == 0 else "light"),
    )
    assert ends(load.total_time.p95) == pytest.approx((float(load.total_time.p95),) * 2)
    by_cache = changed(
        load,
        lambda k, each: dataclasses.replace(
            each, workflow="w", cache_class=CacheClass.COLD if each.user == 0 else CacheClass.WARM
        ),
    )
    assert ends(by_cache.total_time.p95) == pytest.approx((float(load.total_time.p95),) * 2)
    mixed = changed(load, lambda k, each: dataclasses.replace(each, workflow="w"))
    assert mixed.total_time.mean.upper - mixed.total_time.mean.lower > 1


def test_every_server_keeps_its_own_pace() -> None:
    load = of_users(6, 20, lambda k, server: [1.0, 3.0][server], 2, "sticky")
    assert ends(load.total_time.p95) == pytest.approx((9 + SUBMIT, 9 + SUBMIT))


def test_pauses_are_those_that_were_made() -> None:
    rng = random.Random(5)
    load = of_users(4, 25, steady, think=lambda: rng.uniform(0, 20))
    assert load.queue_time.mean > 0.1
    assert ends(load.queue_time.mean) == pytest.approx((load.queue_time.mean, load.queue_time.mean))


def test_the_same_run_has_the_same_interval_and_another_seed_another() -> None:
    made = [of_users(10, 10, lognormal(random.Random(6), 0.3)) for _ in range(2)]
    one, two = (ends(load.total_time.p95) for load in made)
    other = ends(changed(made[0], same, seed=2).total_time.p95)
    assert one == two != other
    assert other == pytest.approx(one, rel=0.03)


def test_nothing_is_replayed_before_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Sequence[Any]:
        runs.append(kwargs["runs"])
        return list(runs_of(*args, **kwargs))

    monkeypatch.setattr("pytest_comfyload.result.replay_estimate.runs_of", counting)
    load = of_users(10, 100, steady)
    assert load.total_time.p95 < 60
    assert load.to_dict()
    assert runs == []
    assert [load.total_time.p95.upper < 60, load.queue_time.mean.upper < 60, load.total_time.p50.upper < 60]
    assert runs == [500]  # reruns of a thousand prompts, made once for all metrics


def test_an_interval_outlasts_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    load = of_users(10, 20, lognormal(random.Random(4), 0.3))
    before = ends(load.total_time.p95)
    load.to_dict()
    monkeypatch.setattr("pytest_comfyload.result.replay_estimate.services_in", None)
    assert ends(load.total_time.p95) == before
    assert {name for name in vars(load._reruns) if name in ("_model", "_in_measured_order")} == set()


def test_of_large_loads_fewer_reruns_do() -> None:
    sizes = (1, 500, 1_000, 5_000, 50_000, 50_001, 10**6)
    assert [reruns_of(prompts) for prompts in sizes] == [1000, 1000, 500, 100, 100, 59, 59]


# By simulation: how often the upper end is above the median of repeated runs, and how wide the interval is.
@pytest.mark.parametrize(
    ("load_of", "upper", "width"),
    [
        (lambda rng, at: of_users(10, 10, lognormal(rng, 0.3)), 0.98, 0.15),
        (lambda rng, at: arrived([0.0] * 60, lognormal(rng, 0.3)), 0.95, 0.13),
        (lambda rng, at: arrived(at, lognormal(rng, 0.3)), 1.00, 0.51),
    ],
    ids=["closed 10×10", "burst 60", "Poisson ρ=.8"],
)
def test_coverage(
    load_of: Callable[[random.Random, list[float]], LoadResult],
    upper: float,
    width: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pytest_comfyload.result.replay_estimate.MOST_RUNS", 100)
    trials, covered, widths = 60, 0, 0.0
    for seed in range(trials):
        rng = random.Random(seed)
        at = poisson(rng, 300, 0.8)
        load = load_of(rng, at)
        low, high = load._reruns.interval("total_time", 95, float(load.total_time.p95))
        reruns = sorted(float(load_of(rng, at).total_time.p95) for _ in range(15))
        covered += reruns[7] <= high
        widths += (high - low) / reruns[7]
    assert covered / trials >= upper - 0.1  # three standard errors
    assert widths / trials == pytest.approx(width, rel=0.2)
