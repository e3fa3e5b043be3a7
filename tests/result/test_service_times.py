"""The service times given to the model are those that were measured."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from typing import Any

import pytest

from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.service_times import services_of
from tests.capacity.fake_bench import FETCH, SUBMIT, FakeBench, load_result
from tests.result.outcomes import outcome as made


def _bench(**differences: float) -> FakeBench:
    return FakeBench(lambda rng: rng.uniform(2, 4), random.Random(1), **differences)  # type: ignore[arg-type]


def test_a_prompt_occupies_its_server_beyond_its_generation() -> None:
    load = _bench(gap=0.2).users(3, 0.0, 60, 60)
    for service, outcome in zip(services_of([load.measured]), load.outcomes, strict=True):
        assert service.generation == outcome.generation_time
        assert service.occupied == pytest.approx(service.generation + 0.2)
        assert service.outside == pytest.approx(SUBMIT + FETCH)


def test_an_idle_server_says_nothing_of_the_gap() -> None:
    load = _bench(gap=0.2).users(1, 5.0, 60, 60)
    assert all(service.occupied == service.generation for service in services_of([load.measured]))


def test_loads_are_pooled() -> None:
    bench = _bench(gap=0.2)
    busy, idle = bench.users(3, 0.0, 60, 60), bench.users(1, 5.0, 60, 60)
    services = services_of([busy.measured, idle.measured])
    assert len(services) == len(busy.outcomes) + len(idle.outcomes)
    assert all(service.occupied == pytest.approx(service.generation + 0.2) for service in services)


def _in_a_row(*pauses: float, queue: float = 3.0, **fields: Any) -> list[Outcome]:
    """Return prompts of two seconds, all sent before the first ended, with these pauses of the server in between."""
    begins = itertools.accumulate((2.0 + pause for pause in pauses), initial=queue + 0.1)
    return [made(0.0, queue=at - 0.1, **fields) for at in begins]


def test_a_pause_now_and_then_is_that_of_its_prompt() -> None:
    """The median pause does not show it, although pauses are more than a tenth of the time here."""
    services = services_of([_in_a_row(0.0, 0.0, 1.0, 0.0, 0.5)])
    assert [service.occupied for service in services[:5]] == pytest.approx([2.0, 2.0, 3.0, 2.0, 2.5])
    assert all(service.generation == pytest.approx(2.0) for service in services)


def test_where_nothing_waited_a_pause_is_no_longer_than_the_server_stood_idle() -> None:
    busy, idle = _in_a_row(1.0, 1.0), [made(100.0 + 2.5 * k, submit=0, queue=0) for k in range(3)]
    services = services_of([[*busy, *idle]])
    assert [service.occupied for service in services] == pytest.approx([3.0, 3.0, 3.0, 2.5, 2.5, 3.0])


def test_prompts_of_others_between_two_are_no_pause() -> None:
    """The others are the other part of the run, foreign prompts, and a prompt with void time stamps."""
    mixed = [
        dataclasses.replace(each, workflow="txt2img" if k % 2 else "lora")
        for k, each in enumerate(_in_a_row(*[0.1] * 9))
    ]
    part = [each for each in mixed if each.workflow == "lora"]
    assert [service.occupied for service in services_of([part], [mixed])] == pytest.approx([2.1] * 5)
    assert [service.occupied for service in services_of([_in_a_row(5.0, contended=True)])] == pytest.approx([2.0] * 2)
    first, void, last = _in_a_row(0.0, 0.0)
    assert void.timeline is not None
    hidden = dataclasses.replace(void, timeline=void.timeline.voided())
    assert [service.occupied for service in services_of([[first, hidden, last]])] == pytest.approx([2.0] * 2)


def test_a_failure_is_never_done_and_holds_the_server_while_it_runs() -> None:
    load = _bench(oom=1.0).users(1, 0.0, 30, 30)
    for service, outcome in zip(services_of([load.measured]), load.outcomes, strict=True):
        assert service.generation == math.inf
        assert service.occupied == outcome.generation_time


def test_failures_of_unknown_length_and_those_that_never_began() -> None:
    good, lost, refused = _bench().users(1, 0.0, 6, 60).outcomes[:1] * 3
    assert lost.timeline is not None
    timeline = dataclasses.replace(lost.timeline, ended=None, delivered=None, fetched=None)
    lost = dataclasses.replace(lost, status=OutcomeStatus.TIMEOUT, timeline=timeline)
    refused = dataclasses.replace(refused, status=OutcomeStatus.REJECTED, timeline=None)
    services = services_of([load_result([good, lost, refused]).measured])
    assert [service.occupied for service in services] == [good.generation_time, good.generation_time, 0.0]


def test_what_we_cut_off_ourselves_is_no_sample() -> None:
    load = _bench().users(2, 0.0, 30, 0)
    cut = sum(outcome.status is OutcomeStatus.CENSORED for outcome in load.outcomes)
    assert cut > 0
    assert len(services_of([load.measured])) == len(load.outcomes) - cut
