from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pytest_comfyload.errors import GeneratorError, NoSamples, UsageError
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.columns import Columns
from pytest_comfyload.result.outcome import CacheClass, OutcomeStatus
from tests.result.outcomes import failure, load_of, outcome, picture

FAILURES = [status for status in OutcomeStatus if status is not OutcomeStatus.SUCCESS]


def test_times_of_successful_prompts() -> None:
    load = load_of(outcome(0, generation=2.0), outcome(1, generation=4.0, lag=0.05))
    assert load.generation_time.max == pytest.approx(4.0)
    assert load.send_lag.max == pytest.approx(0.05)
    assert load.submit_time.mean == pytest.approx(0.1)
    assert load.queue_time.mean == pytest.approx(1.0)
    assert load.delivery_time.mean == pytest.approx(0.2)
    assert load.fetch_time.mean == pytest.approx(0.3)
    assert load.total_time.max == pytest.approx(5.65)
    assert {load.total_time.n, load.queue_time.n, load.generation_time.n} == {2}


@pytest.mark.parametrize("status", FAILURES)
def test_every_failure_is_counted_and_makes_the_total_infinite(status: OutcomeStatus) -> None:
    load = load_of(outcome(), failure(status))
    assert load.total_time.p99 == math.inf
    assert load.success_rate == 50
    assert load.errors[status] == 1
    assert load.errors[str(status)] == 1
    assert sum(load.errors.values()) == 1


def test_named_counts() -> None:
    load = load_of(*[failure(OutcomeStatus.OOM)] * 2, failure(OutcomeStatus.TIMEOUT), outcome())
    counts = [load.oom_errors, load.timeouts, load.errors["oom"], load.errors["lost"], load.cached]
    assert [int(count) for count in counts] == [2, 1, 2, 0, 0]
    assert [count.name for count in counts] == ["oom_errors", "timeouts", "errors[oom]", "errors[lost]", "cached"]
    assert {count.n for count in counts} == {4}


def test_a_kind_of_error_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown kind of error 'ooms'; legal: oom, rejected, http_error,"):
        load_of(outcome()).errors["ooms"]


def test_queue_time_is_infinite_for_a_prompt_that_never_started() -> None:
    stuck = failure(OutcomeStatus.TIMEOUT, Timeline(0.0, 1.0, 1.1))
    rejected = failure(OutcomeStatus.REJECTED, Timeline(0.0, 1.0))
    load = load_of(outcome(), stuck, rejected)
    assert (load.queue_time.n, load.queue_time.failed) == (2, 1)
    assert load.queue_time.p99 == math.inf
    assert load.submit_time.n == 2


def test_generation_time_is_of_prompts_that_started() -> None:
    failed = failure(OutcomeStatus.OOM, Timeline(0.0, 1.0, 1.1, 1.2, 1.9))
    load = load_of(outcome(generation=3.0), failed, failure(OutcomeStatus.REJECTED, Timeline(0.0, 1.0)))
    assert load.generation_time.values == pytest.approx((3.0,))
    assert load.generation_time.failed == 1


def test_warm_up_is_measured_nowhere() -> None:
    load = load_of(outcome(generation=50.0, warmup=True, cache_class=CacheClass.FULLY), outcome())
    assert (len(load.outcomes), len(load.all_outcomes)) == (1, 2)
    assert load.generation_time.max < 3
    assert load.cached == 0


def test_throughput_counts_images_of_prompts_that_ended_in_the_window() -> None:
    batch = (picture(), picture(name="b.png"))
    late = outcome(57.0, outputs=batch)
    last = outcome(56.4, outputs=batch)
    load = load_of(outcome(0.0, outputs=batch), last, late, failure(OutcomeStatus.BAD_OUTPUT, outputs=batch))
    assert load.throughput == 4
    assert load.prompt_throughput == 2
    assert (load.throughput.unit, load.throughput.n) == ("images/min", 4)
    assert load_of(outcome(0.0, outputs=batch), window=(0.0, 30.0)).throughput == 4


def test_whatever_a_workflow_delivers_counts_and_the_unit_says_what() -> None:
    video, preview = picture(name="a.mp4", kind="gifs"), picture(name="b.png", type="temp")
    load = load_of(outcome(0.0, outputs=(video, preview)))
    assert (float(load.throughput), load.throughput.unit) == (1, "outputs/min")
    assert load.gpu.energy_per_image.unit == "J/output"
    only_previews = load_of(outcome(0.0, outputs=(preview,)))
    assert (float(only_previews.throughput), only_previews.throughput.unit) == (1, "images/min")


def test_blank_outputs_are_counted_among_the_results() -> None:
    blank, preview = picture(blank=True), picture(name="b.png", type="temp", blank=True)
    assert (
        load_of(outcome(0.0, outputs=(blank, preview)), outcome(5.0, outputs=(picture(), preview))).blank_outputs == 1
    )


def test_without_prompts_nothing_can_be_claimed() -> None:
    load = load_of(intended=3, submitted=0)
    assert load.accounting.dropped == 3
    for metric in (load.success_rate, load.throughput, load.oom_errors, load.total_time.p95):
        with pytest.raises(NoSamples):
            assert metric >= 0
    assert load.state == "valid"


@pytest.mark.parametrize(("intended", "submitted"), [(2, 1), (2, 3), (1, 2)])
def test_accounts_that_do_not_balance_are_our_own_fault(intended: int, submitted: int) -> None:
    with pytest.raises(GeneratorError, match=r"the counts do not add up.*2 success"):
        load_of(outcome(), outcome(), intended=intended, submitted=submitted)


def test_accounts_that_balance() -> None:
    load = load_of(outcome(), failure(OutcomeStatus.LOST), intended=5)
    assert (load.accounting.intended, load.accounting.submitted, load.accounting.dropped) == (5, 2, 3)
    assert load.accounting.by_status == {OutcomeStatus.SUCCESS: 1, OutcomeStatus.LOST: 1}


SAMPLER = NodeInterval("3", "KSampler", 0.0, 2.0, ((0.5, 1.0), (1.5, 3.0)))
DECODER = NodeInterval("8", "VAEDecode", 2.0, 2.5)


def test_time_and_steps_by_node_class() -> None:
    second = NodeInterval("13", "KSampler", 2.5, 3.5, ((2.6, 1.0),))
    load = load_of(
        outcome(nodes=(SAMPLER, DECODER, second)),
        outcome(nodes=(SAMPLER,)),
        failure(OutcomeStatus.OOM, Timeline(0.0, 1.0, 1.1, 1.2, 1.9, nodes=(SAMPLER,))),
    )
    assert set(load.node_time) == {"KSampler", "VAEDecode"}
    assert load.node_time["KSampler"].values == (1.0, 2.0, 2.0)
    assert load.node_time["VAEDecode"].p50 == 0.5
    assert load.node_time["KSampler"].p95.name == "node_time[KSampler].p95"
    assert load.steps_per_second["KSampler"].values == (2.0, 2.0)
    assert load.steps_per_second["KSampler"].p50.unit == "it/s"


def test_a_class_that_did_not_run_is_named_with_those_that_did() -> None:
    load = load_of(outcome(nodes=(SAMPLER, DECODER)))
    with pytest.raises(UsageError, match=r"node_time\['Ksampler'\].*classes that ran: KSampler, VAEDecode"):
        load.node_time["Ksampler"]
    with pytest.raises(UsageError, match=r"node_time\['VAEDecoder'\].*classes that ran: VAEDecode, KSampler$"):
        assert load.node_time["VAEDecoder"].p95 < 1
    reported = "no node of that class reported progress; classes that reported progress"
    with pytest.raises(UsageError, match=f"{reported}: KSampler$"):
        load.steps_per_second["VAEDecode"]
    with pytest.raises(UsageError, match=f"{reported}: none$"):
        load_of(outcome()).steps_per_second["KSampler"]


def test_a_late_generator_makes_the_run_invalid() -> None:
    load = load_of(outcome(), outcome(lag=0.2))
    assert load.state == "invalid"
    assert load.invalid_because == (
        "the generator was late (send_lag p99 200 > 100 ms); use fewer users or a faster machine for it, or raise "
        "max_send_lag (100 ms)"
    )
    assert load_of(outcome(), outcome(lag=0.2), max_send_lag=0.3).state == "valid"


def test_measuring_the_cache_makes_the_run_invalid() -> None:
    fully = outcome(cache_class=CacheClass.FULLY)
    load = load_of(fully, fully, failure(OutcomeStatus.TIMEOUT))
    assert load.state == "invalid"
    assert "all 2 successful prompts came entirely from the server's cache" in (load.invalid_because or "")
    assert load.cached == 2
    assert load_of(fully, fully, allow_cached=True).state == "valid"
    assert load_of(fully, *[outcome() for _ in range(19)]).state == "valid"
    assert load_of(failure(OutcomeStatus.TIMEOUT)).state == "valid"


def test_facts_of_the_run() -> None:
    load = load_of(outcome(), window=(5.0, 35.0), time_scale=20.0)
    assert (load.scenario, load.seed, load.simulated, load.window) == ("users=1", 7, True, 30.0)
    assert not load_of(outcome()).simulated
    assert repr(load) == "<LoadResult test_slo: 1 prompts, valid>"


def builtins_only(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and builtins_only(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(builtins_only, value))
    return value is None or type(value) in (str, int, float, bool)


@pytest.mark.parametrize(
    "outcomes", [(), (outcome(),), (outcome(), failure(OutcomeStatus.OOM)), (failure(OutcomeStatus.TIMEOUT),)]
)
def test_the_figures_as_builtins(outcomes: tuple[Any, ...]) -> None:
    figures = load_of(*outcomes, notes=("a note",)).to_dict()
    assert builtins_only(figures)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["prompts"] == len(outcomes)


def test_what_the_figures_say() -> None:
    figures = load_of(outcome(), failure(OutcomeStatus.OOM)).to_dict()
    assert figures["errors"] == {"oom": 1}
    assert figures["success_rate"] == 50.0
    assert figures["throughput"] == 1.0
    assert figures["generation_time"]["n"] == 1
    assert figures["total_time"]["failed"] == 1
    assert figures["total_time"]["p99"] == math.inf
    assert figures["total_time"]["max"] == pytest.approx(3.6)
    assert "generation_time" not in load_of(failure(OutcomeStatus.REJECTED)).to_dict()


def test_what_was_worked_out_is_not_kept_with_the_outcomes() -> None:
    load = load_of(*(outcome(float(at)) for at in range(100)))
    before = (float(load.total_time.p95), load.to_dict())
    held = {name for name, value in vars(load).items() if isinstance(value, Columns | Distribution)}
    assert held == set()
    assert (float(load.total_time.p95), load.to_dict()) == before
