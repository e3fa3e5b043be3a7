"""Two runs differ if their prompts caused different work, but not by chance or because of intended changes."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.history.index import row_of
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.history.record_file import decode, encode
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.columns import Columns
from pytest_comfyload.result.counts import combined, differing, executed
from pytest_comfyload.result.outcome import CacheClass, OutcomeStatus
from tests.result.made import prompt, run_of

NODES = {"w": {"CLIPTextEncode": 2, "KSampler": 1}}


def test_prompts_are_counted_by_how_many_nodes_of_a_class_were_executed() -> None:
    def encoders(*ids: str) -> tuple[NodeInterval, ...]:
        return tuple(NodeInterval(each, "CLIPTextEncode", 0.0, 1.0) for each in ids)

    prompts = [
        prompt(0.0, encoders("1", "2")),
        prompt(1.0, {"CLIPTextEncode": 1.0, "KSampler": 1.0}),
        prompt(2.0, encoders("1", "1")),  # one node in two intervals
        prompt(3.0, {"KSampler": 1.0}),
        prompt(4.0, {"KSampler": 1.0}, status=OutcomeStatus.OOM),
        prompt(5.0),  # its end came from the history, so its nodes were not seen
        prompt(6.0, {"Other": 1.0}, workflow="unknown"),
    ]
    done = Columns(Columns(prompts).succeeded).work
    assert executed(done, NODES) == {"w": {"CLIPTextEncode": [1, 2, 1], "KSampler": [2, 2]}}
    assert executed({}, NODES) == {}
    assert executed(done, {}) == {}


def test_a_run_tells_its_own_and_leaves_out_what_is_no_measurement() -> None:
    hit = prompt(1.0, {"CLIPTextEncode": 1.0}, cache_class=CacheClass.PARTLY, reused=("KSampler",))
    load = run_of(prompt(0.0, {"KSampler": 1.0}), hit, nodes=NODES)
    assert load.executions == load.to_dict()["executions"] == {"w": {"CLIPTextEncode": [1, 0, 0], "KSampler": [0, 1]}}


def one(name: str, prompts: Sequence[int], workflow: str = "w") -> dict[str, dict[str, list[int]]]:
    return {workflow: {name: [*prompts]}}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([0, 16], [16, 0], "X ran in 100 % of prompts before, 0 % now"),
        ([0, 5], [1, 0], "X ran in 100 % of prompts before, 0 % now"),
        ([0, 16, 0], [0, 0, 16], "X ran 1× per prompt before, 2× now"),
        ([0, 8, 0], [8, 0, 0], "X ran in 100 % of prompts before, 0 % now"),
        ([0, 30, 0], [3, 0, 0], "X ran in 100 % of prompts before, 0 % now"),
        ([0, 0, 8], [0, 8, 0], "X ran 2× per prompt before, 1× now"),
    ],
)
def test_other_work_is_said_with_the_counts(before: list[int], after: list[int], said: str) -> None:
    assert differing(one("X", before), one("X", after)) == (said,)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([0, 16], [0, 3]),
        ([50, 50], [0, 3]),  # one of two models was drawn three times by chance
        ([0, 15], [1, 14]),  # the first prompt loaded something
        ([0, 1000], [30, 970]),  # certain, but too small to matter
        ([0, 16], [0, 16, 0]),  # a second node was added on purpose
        ([0, 0], [0, 5]),
        ([], [0, 5]),
    ],
)
def test_chance_small_shares_and_other_graphs_are_no_other_work(before: list[int], after: list[int]) -> None:
    assert differing(one("X", before), one("X", after)) == ()


def test_workflows_are_compared_by_name_or_as_the_only_ones() -> None:
    ran, idle = [0, 9], [9, 0]
    assert differing(one("X", ran, "a"), one("X", idle, "b"))
    two = {**one("X", ran, "a"), **one("X", ran, "c")}
    assert differing(two, {**one("X", ran, "a"), **one("X", idle, "c")}, ("in A", "in B")) == (
        "X ran in 100 % of prompts in A, 0 % in B",
    )
    assert differing(two, {**one("X", ran, "a"), **one("X", idle, "d")}) == ()
    assert differing(one("X", ran), one("Y", idle)) == ()


def test_several_runs_are_one() -> None:
    assert combined([one("X", [1, 2]), one("X", [0, 3]), one("Y", [1, 1], "v")]) == {
        "w": {"X": [1, 5]}, "v": {"Y": [1, 1]}
    }  # fmt: skip
    assert combined([one("X", [1, 2]), one("X", [0, 3, 4])]) == one("X", [0, 3, 4])


def false_alarms(n: int, m: int, share: float) -> float:
    """Return the probability that runs of `n` and `m` prompts with the same true share are found to differ."""
    first, second = ([comb(k, i) * share**i * (1 - share) ** (k - i) for i in range(k + 1)] for k in (n, m))
    return sum(
        first[i] * second[j]
        for i in range(n + 1)
        for j in range(m + 1)
        if differing(one("X", [n - i, i]), one("X", [m - j, j]))
    )


@pytest.mark.parametrize(("n", "m", "most"), [(1, 3, 0.13), (3, 15, 0.05), (8, 8, 0.025), (15, 30, 0.01)])
def test_chance_alone_is_seldom_told_as_other_work(n: int, m: int, most: float) -> None:
    assert max(false_alarms(n, m, tenths / 10) for tenths in range(11)) <= most


COUNTS = st.lists(st.integers(-1, 50), max_size=4)


@given(COUNTS, COUNTS)
def test_both_ways_agree(a: list[int], b: list[int]) -> None:
    assert bool(differing(one("X", a), one("X", b))) == bool(differing(one("X", b), one("X", a)))
    assert differing(one("X", a), one("X", a)) == ()


def test_the_index_has_them_too() -> None:
    load = run_of(prompt(0.0, {"KSampler": 1.0}), nodes=NODES)
    row = row_of("a.run", decode(encode(record_of(load, Provenance()))))
    assert row.executions == load.executions
    allowed = run_of(*load.outcomes, nodes=NODES, allow_cached=True)
    assert row_of("a.run", record_of(allowed, Provenance())).executions == {}
