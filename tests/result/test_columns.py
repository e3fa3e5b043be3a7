"""Columns give the same values as the outcomes themselves."""

from __future__ import annotations

import dataclasses
import gc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.columns import Columns, Timed, collector_paused
from pytest_comfyload.result.generation_parts import model_load_time, parts_of, weights_time
from pytest_comfyload.result.outcome import PHASES, Outcome, OutcomeStatus
from tests.result.outcomes import failure, outcome

CLASSES = ("CheckpointLoaderSimple", "KSampler", "SamplerCustom", "VAEDecode", "SaveImage", "Other")


@st.composite
def nodes(draw: st.DrawFn) -> tuple[NodeInterval, ...]:
    """Draw nodes that ran one after the other, some with progress steps."""
    made, at = [], 0.0
    for number in range(draw(st.integers(0, 4))):
        length, count = draw(st.integers(1, 40)) / 8, draw(st.integers(0, 3))
        steps = tuple((at + (k + 1) * length / 8, float(k + 1)) for k in range(count))
        made.append(NodeInterval(f"{number}", draw(st.sampled_from(CLASSES)), at, at + length, steps))
        at += length
    return tuple(made)


@st.composite
def prompts(draw: st.DrawFn) -> list[Outcome]:
    """Draw prompts that succeeded, or failed at different stages."""
    found = []
    for number in range(draw(st.integers(0, 8))):
        each = outcome(float(number), nodes=draw(nodes()), queue=draw(st.integers(0, 40)) / 8, cached=draw(CACHED))
        reached = draw(st.sampled_from(("all", "started", "sent", "nothing")))
        if reached != "all":
            assert each.timeline is not None
            line = dataclasses.replace(each.timeline, ended=None, delivered=None, fetched=None)
            line = dataclasses.replace(line, accepted=None, started=None) if reached == "sent" else line
            each = failure(OutcomeStatus.OOM, None if reached == "nothing" else line, generator_lag=0.5)
        found.append(each)
    return found


CACHED = st.sampled_from(((), ("Other",)))


@given(prompts())
def test_times_are_those_of_the_outcomes(made: list[Outcome]) -> None:
    columns = Columns(made)
    for name in (*PHASES, "total_time", "generator_lag"):
        values = [getattr(each, name) for each in made]
        assert columns[name] == values
        known = [(each.intended, value) for each, value in zip(made, values, strict=True) if value is not None]
        assert columns.timed(name) == Timed([time for time, _ in known], [value for _, value in known])


@given(prompts())
def test_nodes_are_those_of_the_outcomes(made: list[Outcome]) -> None:
    found = Columns(made).nodes
    ran = [each for each in made if each.nodes or each.cached]
    times = [(node.class_type, each.intended, node.duration) for each in made for node in each.nodes]
    assert Counter((name, *pair) for name, timed in found.node_time.items() for pair in zip(*timed, strict=True)) == (
        Counter(times)
    )
    assert Counter(found.parts["model_load_time"].values if ran else []) == (
        Counter(model_load_time(each.nodes) for each in ran)
    )
    sampled = [[node for node in each.nodes if "sampling_time" in parts_of(node.class_type)] for each in made]
    naive = [sum(node.duration - weights_time(node) for node in each) for each in sampled if each]
    assert sorted(found.parts.get("sampling_time", Timed([], [])).values) == pytest.approx(sorted(naive))
    paces = [(n.class_type, n.steps_per_second) for each in made for n in each.nodes if n.steps_per_second is not None]
    assert Counter((name, rate) for name, timed in found.steps_per_second.items() for rate in timed.values) == (
        Counter(paces)
    )


@given(prompts())
def test_work_counts_prompts(made: list[Outcome]) -> None:
    work = Columns(made).work
    assert sum(work.values()) == len(made)
    assert {each.classes for each in work} == {tuple(node.class_type for node in each.nodes) for each in made}


def test_all_of_them_are_the_same_columns() -> None:
    columns = Columns([outcome(), failure(OutcomeStatus.OOM)])
    assert columns.among(columns.outcomes) is columns
    assert columns.among(columns.succeeded).outcomes == [columns.outcomes[0]]


def test_the_collector_goes_on_afterwards() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
