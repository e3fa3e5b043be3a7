"""Parts of a run are runs too: by a fact, by an input, by time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import NoSamples, UsageError
from pytest_comfyload.result.outcome import CacheClass, OutcomeStatus
from pytest_comfyload.result.output_files import FetchedFile
from pytest_comfyload.result.telemetry import UsageSample
from tests.result.made import LENGTH, node, prompt, run_of

IMAGE = (FetchedFile("9", "images", "a.png", "", "output"),)


def test_by_an_input_that_was_drawn() -> None:
    load = run_of(
        prompt(0.0, inputs={"KSampler.steps": 4, "LoraLoader.link": ["4", 0]}, outputs=IMAGE),
        prompt(1.0, inputs={"KSampler.steps": 8}),
        prompt(2.0, inputs={"KSampler.steps": 4}, status=OutcomeStatus.OOM),
        prompt(-1.0, warmup=True),
    )
    steps = load.by("KSampler.steps")
    assert list(steps) == [4, 8]
    assert (steps[4].oom_errors, steps[8].oom_errors) == (1, 0)
    assert steps[4].accounting.submitted == 2
    assert steps[4].facts.title == "t [KSampler.steps=4]"
    assert [outcome.intended for outcome in steps[8].all_outcomes] == [-1.0, 1.0]
    assert list(load.by("LoraLoader.link")) == ['["4", 0]']
    with pytest.raises(UsageError, match=r'by\("KSampler.steps"\)\[5\]: no prompt had that; there are: 4, 8'):
        steps[5]


def test_by_facts() -> None:
    load = run_of(
        prompt(0.0, server="http://a", user=0, cache_class=CacheClass.COLD),
        prompt(1.0, server="http://b", user=1, cache_class=CacheClass.WARM, workflow="v"),
        prompt(2.0, server="http://b", user=0),
        server_usage=(UsageSample("http://a", 0.0, 1.0, 2.0), UsageSample("http://b", 0.0, 3.0, 4.0)),
    )
    assert {key: len(part.outcomes) for key, part in load.by("server").items()} == {"http://a": 1, "http://b": 2}
    assert float(load.by("server")["http://b"].server.ram_used.max) == 3.0
    assert {key: len(part.outcomes) for key, part in load.by("workflow").items()} == {"w": 2, "v": 1}
    assert len(load.by("user")[0].outcomes) == 2
    assert set(load.by("cache_class")) == {"cold", "warm"}
    assert len(load.by("cache_class")["warm"].outcomes) == 1


def test_numbers_ascend_and_texts_come_as_they_were_sent() -> None:
    """Which user sends first is random; the order of the parts must not be."""
    load = run_of(
        prompt(0.0, user=10, workflow="w"),
        prompt(1.0, user=2, workflow="a"),
        prompt(2.0, user=0, workflow="w"),
    )
    assert list(load.by("user")) == [0, 2, 10]
    assert list(load.by("workflow")) == ["w", "a"]


def test_an_unknown_key_is_refused_with_the_legal_ones() -> None:
    load = run_of(prompt(0.0, inputs={"KSampler.steps": 4}))
    with pytest.raises(
        UsageError, match=r"by\('KSampler.step'\): legal: KSampler.steps, workflow, server, worker, group, stage"
    ):
        load.by("KSampler.step")


def test_between_counts_by_start_and_throughput_by_end() -> None:
    """The prompts take four seconds and start at 0, 10, … 90 s."""
    load = run_of(*(prompt(10.0 * index, outputs=IMAGE) for index in range(10)))
    part = load.between("2s", 32)
    assert [outcome.intended for outcome in part.outcomes] == [10.0, 20.0, 30.0]
    assert part.window == 30.0
    # The prompt sent at 0 s ended within the part, the one sent at 30 s after it.
    assert float(part.throughput) == pytest.approx(60 * 3 / 30)
    assert len(part.by("workflow")["w"]._ended_in_window) == 3


@pytest.mark.parametrize(("t0", "t1"), [(5, 5), (6, 5), (100, 200), (100, 90)])
def test_between_wants_a_time_within_the_window(t0: float, t1: float) -> None:
    with pytest.raises(UsageError, match="give two times within the window of 100 s"):
        run_of(prompt()).between(t0, t1)


@given(st.lists(st.floats(0, 99), max_size=20), st.floats(1, 99))
def test_two_halves_are_the_whole(starts: list[float], cut: float) -> None:
    load = run_of(*(prompt(start, (node("A", start, start + LENGTH),), outputs=IMAGE) for start in sorted(starts)))
    halves = load.between(0, cut), load.between(cut, 100)
    assert sum(len(half.outcomes) for half in halves) == len(load.outcomes)
    ended = [outcome.intended for half in halves for outcome in half._ended_in_window]
    assert sorted(set(ended)) == sorted({outcome.intended for outcome in load._ended_in_window})


def test_a_log_line_belongs_to_no_part() -> None:
    load = run_of(prompt(1.0), silent_ooms=3)
    assert load.silent_ooms == 3
    with pytest.raises(NoSamples):
        assert load.by("workflow")["w"].silent_ooms == 0


def test_a_server_without_a_log_has_no_silent_ooms() -> None:
    with pytest.raises(NoSamples, match="silent_ooms has no samples"):
        assert run_of(prompt(1.0)).silent_ooms == 0
    assert run_of(prompt(1.0), silent_ooms=0).silent_ooms == 0


def test_server_memory() -> None:
    samples = tuple(UsageSample("http://a", 60.0 * index, 100.0 + index, 7.0) for index in range(5))
    load = run_of(prompt(1.0), server_usage=samples)
    ram = load.server.ram_used
    assert [float(ram.max), float(ram.mean), float(ram.slope)] == pytest.approx([104.0, 102.0, 1.0])
    assert (ram.max.unit, ram.slope.unit) == ("B", "B/min")
    assert load.to_dict()["server"]["vram_used"] == {"max": 7.0, "mean": 7.0}
    assert load.between(0, 61).server.ram_used.max == 101
    with pytest.raises(NoSamples, match=r"server\.vram_used\.max has no samples"):
        assert run_of(prompt(1.0)).server.vram_used.max < 1
