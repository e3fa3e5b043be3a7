"""Which earlier runs count: in real repositories, and where git cannot say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pytest_comfyload.compare.baseline import Point, baseline_of, default_point, runs_of
from pytest_comfyload.compare.lineage import Lineage
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.index import Row, row_of
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.result.gpu_sample import GpuSample
from tests.history.records import row
from tests.history.repository import Repository
from tests.result.outcomes import load_of, outcome

NO_GIT = Lineage()


def _run(number: int, **different: Any) -> Row:
    return row(number, figures={"success_rate": 100.0, "generation_time.p50": 2.0}, branch="main", **different)


def _names(rows: tuple[Row, ...]) -> list[str]:
    return [each.file for each in rows]


def test_on_the_base_branch_it_is_the_commits_before(repository: Repository) -> None:
    first, second, third = (repository.commit(title) for title in ("one", "two", "three"))
    rows = [_run(1, commit=first), _run(2, commit=second), _run(3, commit=third), _run(4, commit=third)]
    lineage = Lineage(Git(repository.path))
    point = default_point(rows[3], lineage)
    baseline = baseline_of(rows[3], rows, point, lineage)
    assert _names(baseline.rows) == ["1.run", "2.run"]
    assert point.name == f"the commit before, {second[:10]}"
    assert _names(runs_of(rows[3], rows)) == ["3.run", "4.run"]


def test_on_a_branch_it_is_the_base_branch_as_far_as_the_merge_base(repository: Repository) -> None:
    before = repository.commit("before")
    repository.git("checkout", "-q", "-b", "feature")
    own = repository.commit("own")
    head = repository.commit("head")
    repository.git("checkout", "-q", "main")
    after = repository.commit("after")
    rows = [_run(1, commit=before), _run(2, commit=own), _run(3, commit=after), _run(4, commit=head, merge_base=before)]
    lineage = Lineage(Git(repository.path))
    baseline = baseline_of(rows[3], rows, default_point(rows[3], lineage), lineage)
    assert _names(baseline.rows) == ["1.run"]
    assert baseline.notes == ()


def test_uncommitted_changes_are_held_against_what_they_change(repository: Repository) -> None:
    first, second = repository.commit("one"), repository.commit("two")
    rows = [_run(1, commit=first), _run(2, commit=second), _run(3, commit=second, dirty=True)]
    lineage = Lineage(Git(repository.path))
    assert _names(baseline_of(rows[2], rows, default_point(rows[2], lineage), lineage).rows) == ["1.run", "2.run"]
    assert _names(runs_of(rows[2], rows)) == ["3.run"]


@pytest.mark.parametrize(
    "flaw",
    [
        {"state": "invalid"},
        {"state": "contaminated"},
        {"state": "incomplete"},
        {"dirty": True},
        {"test": "another"},
        {"parameters": "other"},
        {"fingerprint": "ffffffff"},
        {"figures": {"success_rate": 90.0}},
    ],
)
def test_what_is_no_baseline(flaw: dict[str, Any]) -> None:
    good, bad, head = _run(1), row(2, **({"branch": "main", "figures": {"success_rate": 100.0}} | flaw)), _run(3)
    assert _names(baseline_of(head, [good, bad, head], Point("before", None, head.time), NO_GIT).rows) == ["1.run"]


def _stored(number: int, throttle: tuple[str, ...] = (), **outcome_fields: Any) -> Row:
    """The row of a run of a hundred seconds, as the store makes it; its GPU was throttled in two of them."""
    samples = [
        GpuSample("http://gpu1:8188", "GPU-1", second + 1.0, 1.0, throttle=throttle if second in (40, 41) else ())
        for second in range(100)
    ]
    facts = {"run_id": f"run-{number}", "epoch": 1.7e9 + number, "gpu_usage": tuple(samples), "window": (0.0, 100.0)}
    load = load_of(outcome(**outcome_fields), **facts)
    return row_of(f"{number}.run", record_of(load, Provenance(branch="main")))


@pytest.mark.parametrize(
    ("bad", "counts"),
    [
        ({"throttle": ("sw_thermal",)}, False),
        ({"throttle": ("hw_slowdown", "sw_power_cap")}, False),
        ({"throttle": ("sw_power_cap",)}, True),
        ({"contended": True}, False),
        ({}, True),
    ],
)
def test_a_run_on_a_hot_card_or_in_company_is_no_baseline(bad: dict[str, Any], counts: bool) -> None:
    good, other, head = _stored(1), _stored(2, **bad), _stored(3)
    baseline = baseline_of(head, [good, other, head], Point("before", None, head.time), NO_GIT)
    assert _names(baseline.rows) == (["1.run", "2.run"] if counts else ["1.run"])


def test_a_moment_of_throttling_is_forgiven() -> None:
    run = _stored(1, ("sw_thermal",))
    assert run.figures["gpu.throttled.percent"] == 2.0
    for percent, kept in ((1.0, True), (1.5, False)):
        figures = run.figures | {"gpu.throttled.reasons.sw_thermal": percent}
        earlier, head = msgspec.structs.replace(run, figures=figures), _stored(2)
        assert bool(baseline_of(head, [earlier], Point("before", None, head.time), NO_GIT).rows) is kept


def test_slow_runs_and_runs_with_violated_slos_count() -> None:
    rows = [_run(1, slos=(0, 3)), _run(2)]
    assert len(baseline_of(rows[1], rows, Point("before", None, rows[1].time), NO_GIT).rows) == 1


def test_another_environment_is_told_not_taken() -> None:
    other, head = _run(1, fingerprint="ffffffff"), _run(2)
    baseline = baseline_of(head, [other, head], Point("before", None, head.time), NO_GIT)
    assert (baseline.rows, baseline.elsewhere) == ((), other)


def test_a_simulation_is_not_even_another_environment() -> None:
    simulated, head = _run(1, fingerprint="ffffffff", simulated=True), _run(2)
    assert baseline_of(head, [simulated, head], Point("before", None, head.time), NO_GIT).elsewhere is None


def test_only_the_newest_twenty() -> None:
    rows = [_run(number) for number in range(40)]
    baseline = baseline_of(rows[-1], rows, Point("before", None, rows[-1].time), NO_GIT)
    assert _names(baseline.rows) == [f"{number}.run" for number in range(19, 39)]


def test_a_shallow_clone_is_said_and_the_branch_taken(repository: Repository) -> None:
    first = repository.commit("one")
    second = repository.commit("two")
    shallow = repository.clone(repository.path.parent / "shallow", "--depth", "1")
    rows = [_run(1, commit=first), _run(2, commit=second, merge_base=first)]
    lineage = Lineage(Git(shallow.path))
    baseline = baseline_of(rows[1], rows, default_point(rows[1], lineage), lineage)
    assert _names(baseline.rows) == ["1.run"]
    assert "the clone is shallow (fetch-depth: 0 gets it all)" in baseline.notes[0]
