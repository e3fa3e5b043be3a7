"""Which earlier runs count as the baseline, in real repositories and without git."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.compare.baseline_runs import (
    BaselineRef,
    BaselineSessions,
    SeriesRows,
    baseline_of,
    default_point,
    head_of,
)
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.sessions import Session, sessions_of
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.index import Row, row_of
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.result.telemetry import GpuSample
from tests.history.records import row
from tests.history.repository import Repository
from tests.result.outcomes import load_of, outcome

NO_GIT = CommitGraph()


def _run(number: int, **different: Any) -> Row:
    return row(number, figures={"success_rate": 100.0, "generation_time.p50": 2.0}, branch="main", **different)


def _names(rows: Sequence[Row]) -> list[str]:
    return [each.file for each in rows]


def _before(
    head: Row, rows: Sequence[Row], lineage: CommitGraph = NO_GIT, point: BaselineRef | None = None
) -> BaselineSessions:
    session = head_of(head, rows)
    return baseline_of(session, SeriesRows(rows), point or default_point(session, lineage, session.began), lineage)


def test_on_the_base_branch_it_is_the_commits_before(repository: Repository) -> None:
    first, second, third = (repository.commit(title) for title in ("one", "two", "three"))
    rows = [_run(1, commit=first), _run(2, commit=second)]
    rows += [_run(number, commit=third, session="now") for number in (3, 4)]
    baseline = _before(rows[3], rows, CommitGraph(Git(repository.path)))
    assert _names(baseline.rows) == ["1.run", "2.run"]
    assert baseline.point.name == f"the commit before, {second[:10]}"
    assert _names(head_of(rows[3], rows).rows) == ["3.run", "4.run"]


def test_sessions_are_ordered_by_ancestry_and_then_by_time(repository: Repository) -> None:
    first, second, third = (repository.commit(title) for title in ("one", "two", "three"))
    rows = [_run(1, commit=second), _run(2, commit=first), _run(3, commit=second), _run(4, commit=third)]
    assert _names(_before(rows[3], rows, CommitGraph(Git(repository.path))).rows) == ["2.run", "1.run", "3.run"]


@pytest.mark.parametrize(
    ("hours", "pull_request", "counts"), [(13, None, True), (11, None, False), (13, "7", False), (11, "7", False)]
)
def test_sessions_of_the_same_commit_count_on_the_base_branch_after_half_a_day(
    repository: Repository, hours: float, pull_request: str | None, counts: bool
) -> None:
    """A failed job that is repeated is not its own baseline; a nightly series is."""
    commit = repository.commit("one")
    night = _run(1, commit=commit, pull_request=pull_request)
    tonight = msgspec.structs.replace(night, run_id="tonight", file="2.run", time=night.time + hours * 3600)
    baseline = _before(tonight, [night, tonight], CommitGraph(Git(repository.path)))
    assert _names(baseline.rows) == (["1.run"] if counts else [])
    if counts:
        assert baseline.point.name == "earlier sessions of this commit"
    elif pull_request is None:
        assert baseline.notes == ("runs left out: 1 of this commit within 12 hours",)


def test_runs_of_one_session_are_one_value() -> None:
    rows = [_run(1, session="a"), _run(2, session="a"), _run(3, session="b"), _run(4, session="c")]
    sessions = _before(rows[3], rows).sessions
    assert [_names(each.rows) for each in sessions] == [["1.run", "2.run"], ["3.run"]]


def test_a_session_of_a_label_is_not_tonight() -> None:
    """Labels select what to compare with; the head has only the runs of its own session."""
    rows = [_run(number, label="nightly", session=f"night {number}") for number in range(5)]
    assert _names(head_of(rows[4], rows).rows) == ["4.run"]


@given(st.data())
def test_the_baseline_is_what_was_before_whichever_head_asks(data: st.DataObject) -> None:
    """Grouped rows serve every head and select what a scan of all rows would; times repeat and sessions mix."""
    few = {"commit": st.sampled_from(["a1", "b2", "c3", None]), "session": st.sampled_from(["x", "y", None])}
    few |= {"inputs": st.sampled_from(["i", "j"]), "branch": st.sampled_from(["main", "feature"])}
    drawn = data.draw(st.lists(st.tuples(st.integers(0, 20), st.fixed_dictionaries(few)), min_size=1, max_size=14))
    rows = [row(number, **{**_FIGURES, **told, "time": 1e4 * time}) for number, (time, told) in enumerate(drawn)]
    grouped = SeriesRows(rows)
    for newest in rows:
        head = Session((newest,))
        point = BaselineRef("here", newest.commit, newest.time)
        baseline = baseline_of(head, grouped, point, NO_GIT)
        every = sessions_of(each for each in rows if _is_before(each, head))
        alike = [each for each in every if each.inputs == newest.inputs]
        expected = every if len(alike) < 3 else alike
        assert [_names(each.rows) for each in baseline.history] == [_names(each.rows) for each in expected]


_FIGURES = {"figures": {"success_rate": 100.0, "generation_time.p50": 2.0}}


def _is_before(row: Row, head: Session) -> bool:
    newest = head.newest
    own = row.run_id == newest.run_id or (row.session is not None and row.session == newest.session)
    again = row.commit is not None and row.commit == newest.commit and row.time >= head.began - 12 * 3600
    return row.time < newest.time and row.branch == newest.branch and not own and not again


def test_other_inputs_are_left_out_where_three_sessions_are_alike() -> None:
    rows = [_run(number, inputs="other" if number in (1, 4) else "ours") for number in range(6)]
    baseline = _before(rows[5], rows)
    assert _names(baseline.rows) == ["0.run", "2.run", "3.run"]
    assert (_names([each.newest for each in baseline.unlike]), baseline.mixed) == (["1.run", "4.run"], False)


def test_other_inputs_are_taken_where_fewer_are_alike() -> None:
    rows = [_run(number, inputs="ours" if number in (1, 4) else "other") for number in range(5)]
    baseline = _before(rows[4], rows)
    assert (len(baseline.rows), len(baseline.unlike), baseline.mixed) == (4, 3, True)


def test_what_is_left_out_is_counted() -> None:
    rows = [_run(0), _run(1, dirty=True), _run(2, state="invalid"), _run(3, state="invalid"), _run(4)]
    rows += [_run(5, fingerprint="ffffffff"), row(6, branch="main", figures={"success_rate": 80.0}), _run(7)]
    baseline = _before(rows[7], rows)
    assert baseline.notes == (
        "runs left out: 1 with uncommitted changes, 2 invalid, 1 in another environment, 1 with more than 5 % failures",
    )


def test_on_a_branch_it_is_the_base_branch_as_far_as_the_merge_base(repository: Repository) -> None:
    before = repository.commit("before")
    repository.git("checkout", "-q", "-b", "feature")
    own = repository.commit("own")
    head = repository.commit("head")
    repository.git("checkout", "-q", "main")
    after = repository.commit("after")
    rows = [_run(1, commit=before), _run(2, commit=own), _run(3, commit=after), _run(4, commit=head, merge_base=before)]
    lineage = CommitGraph(Git(repository.path))
    baseline = _before(rows[3], rows, lineage)
    assert _names(baseline.rows) == ["1.run"]
    assert baseline.notes == ()


def test_uncommitted_changes_are_held_against_what_they_change(repository: Repository) -> None:
    first, second = repository.commit("one"), repository.commit("two")
    rows = [_run(1, commit=first), _run(2, commit=second), _run(3, commit=second, dirty=True)]
    lineage = CommitGraph(Git(repository.path))
    assert _names(_before(rows[2], rows, lineage).rows) == ["1.run", "2.run"]
    assert _names(head_of(rows[2], rows).rows) == ["3.run"]


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
    assert _names(_before(head, [good, bad, head]).rows) == ["1.run"]


def _stored(number: int, throttle: tuple[str, ...] = (), **outcome_fields: Any) -> Row:
    """Return the row that the store makes of a run of 100 s, in two of which the GPU has these throttle reasons."""
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
    baseline = _before(head, [good, other, head])
    assert _names(baseline.rows) == (["1.run", "2.run"] if counts else ["1.run"])


def test_a_moment_of_throttling_is_forgiven() -> None:
    run = _stored(1, ("sw_thermal",))
    assert run.figures["gpu.throttled.percent"] == 2.0
    for percent, kept in ((1.0, True), (1.5, False)):
        figures = run.figures | {"gpu.throttled.reasons.sw_thermal": percent}
        earlier, head = msgspec.structs.replace(run, figures=figures), _stored(2)
        assert bool(_before(head, [earlier]).rows) is kept


def test_slow_runs_and_runs_with_violated_slos_count() -> None:
    rows = [_run(1, slos=(0, 3)), _run(2)]
    assert len(_before(rows[1], rows).rows) == 1


def test_another_environment_is_told_not_taken() -> None:
    other, head = _run(1, fingerprint="ffffffff"), _run(2)
    baseline = _before(head, [other, head])
    assert (baseline.rows, baseline.elsewhere) == ((), other)


def test_a_simulation_is_not_even_another_environment() -> None:
    simulated, head = _run(1, fingerprint="ffffffff", simulated=True), _run(2)
    assert _before(head, [simulated, head]).elsewhere is None


def test_only_the_newest_twenty() -> None:
    rows = [_run(number) for number in range(40)]
    baseline = _before(rows[-1], rows)
    assert _names(baseline.rows) == [f"{number}.run" for number in range(19, 39)]


def test_a_shallow_clone_is_said_and_the_branch_taken(repository: Repository) -> None:
    first = repository.commit("one")
    second = repository.commit("two")
    shallow = repository.clone(repository.path.parent / "shallow", "--depth", "1")
    rows = [_run(1, commit=first), _run(2, commit=second, merge_base=first)]
    lineage = CommitGraph(Git(shallow.path))
    baseline = _before(rows[1], rows, lineage)
    assert _names(baseline.rows) == ["1.run"]
    assert "the clone is shallow; fetch-depth: 0 gets it all" in baseline.notes[0]
