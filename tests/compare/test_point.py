"""A REF is a point in history, also in a nightly series, in which all runs are of one commit."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pytest_comfyload.compare.baseline_runs import SeriesRows, baseline_of, head_of, point_at
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.index import Row
from tests.history.records import row
from tests.history.repository import Repository

FIGURES = {"success_rate": 100.0, "generation_time.p50": 2.0}
DAY = 86400.0
FIRST = datetime(2026, 11, 15, 2, tzinfo=UTC).timestamp()


def _night(number: int, commit: str, **different: object) -> Row:
    time = FIRST + number * DAY
    return row(number, figures=FIGURES, branch="main", commit=commit, session=f"{number}", time=time, **different)


def _against(repository: Repository, ref: str, rows: list[Row], head: Row) -> list[str]:
    """Return the files of the baseline; the head's run is not in the store yet."""
    lineage = CommitGraph(Git(repository.path))
    return [
        each.file
        for each in baseline_of(head_of(head, [head]), SeriesRows(rows), point_at(ref, rows, lineage), lineage).rows
    ]


@pytest.mark.parametrize(
    ("ref", "last"),
    [
        ("latest", 9),
        ("latest~3", 6),
        ("main", 9),
        ("HEAD", 9),
        ("2026-11-20", 5),
        ("@2026-11-20", 5),
        ("2026-11-20T01:59", 4),
    ],
)
def test_in_a_nightly_series(repository: Repository, ref: str, last: int) -> None:
    commit = repository.commit("one")
    nights = [_night(number, commit) for number in range(11)]
    assert _against(repository, ref, nights[:10], nights[10]) == [f"{number}.run" for number in range(last + 1)]


def test_a_label_is_these_runs_alone(repository: Repository) -> None:
    commit = repository.commit("one")
    nights = [_night(number, commit, label="before the upgrade" if number in (3, 4) else None) for number in range(9)]
    assert _against(repository, "before the upgrade", nights[:8], nights[8]) == ["3.run", "4.run"]


def test_latest_is_of_the_runs_even_where_git_has_the_name(repository: Repository) -> None:
    old = repository.commit("one")
    repository.git("tag", "latest")
    new = repository.commit("two")
    nights = [_night(number, old if number < 3 else new) for number in range(8)]
    assert len(_against(repository, "latest", nights[:7], nights[7])) == 7
    assert len(_against(repository, "latest~2", nights[:7], nights[7])) == 5
