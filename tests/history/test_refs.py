"""A REF names the runs that a person means by it; a REF that names none is refused with the nearest names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.refs import select
from tests.history.records import row
from tests.history.repository import Repository

OLD, NEW, PULL = "aaaa1111" + "0" * 32, "aaaa2222" + "0" * 32, "beef3333" + "0" * 32
ROWS = [
    row(0, commit=OLD, branch="main", tag="v1.0"),
    row(1, commit=OLD, branch="main", tag="v1.0", test="test_other"),
    row(2, commit=NEW, branch="main", label="before the upgrade"),
    row(3, commit=NEW, branch="main", state="incomplete"),
    row(4, commit=PULL, head="cafe4444" + "0" * 32, branch="main", pull_request="7"),
    row(5, commit=PULL, branch="feature/x"),
]


def _numbers(ref: str, git: Git | None = None) -> list[int]:
    return [int(found.file.removesuffix(".run")) for found in select(ref, ROWS, git)]


@pytest.mark.parametrize(
    ("ref", "numbers"),
    [
        ("latest", [5, 1]),
        ("latest~0", [5, 1]),
        ("latest~1", [4]),
        ("latest~2", [2]),
        ("20260131T000003-0123abcd", [3]),
        ("20260131T000003", [3]),
        ("before the upgrade", [2]),
        ("v1.0", [1, 0]),
        ("main", [2, 1]),
        ("origin/main", [2, 1]),
        ("feature/x", [5]),
        (OLD, [1, 0]),
        ("aaaa1", [1, 0]),
        ("AAAA2", [3, 2]),
        ("cafe", [4]),
        ("beef", [5, 4]),
    ],
)
def test_a_ref_names(ref: str, numbers: list[int]) -> None:
    assert _numbers(ref) == numbers


def test_the_order_of_the_rows_is_no_matter() -> None:
    assert select("main", ROWS[::-1]) == select("main", ROWS)


@pytest.mark.parametrize("sign", ["@", ""])
@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])
def test_a_date_is_the_newest_run_until_its_end(form: str, sign: str) -> None:
    moment = datetime.fromtimestamp(ROWS[2].time, UTC)
    numbers = _numbers(sign + moment.strftime(form))
    assert numbers == ([2, 1] if "%S" in form else [5, 1])


def test_a_name_comes_before_a_date() -> None:
    named = [row(0, label="2026-01-31"), row(1)]
    assert [found.run_id for found in select("2026-01-31", named)] == [named[0].run_id]


def test_before_the_first_run_there_is_none() -> None:
    with pytest.raises(UsageError, match="no run is named '@2001-01-01'"):
        select("@2001-01-01", ROWS)


def test_git_says_which_commit_is_meant(repository: Repository) -> None:
    first = repository.commit("one")
    second = repository.commit("two")
    rows = [row(0, commit=first), row(1, commit=second)]
    git = Git(repository.path)
    assert [found.commit for found in select("HEAD~1", rows, git)] == [first]
    assert [found.commit for found in select("HEAD", rows, git)] == [second]
    repository.commit("three")
    with pytest.raises(UsageError, match=r"no run is named 'HEAD' \(commit [0-9a-f]{12}\); there are"):
        select("HEAD", rows, git)


@pytest.mark.parametrize(
    "ref", ["--all", "-n1", "", "HEAD@{upstream}", "nonsense", "latest~99", "latest~-1", "..", "abc"]
)
def test_what_names_none_is_refused(ref: str, repository: Repository) -> None:
    repository.commit("one")
    with pytest.raises(UsageError, match="no run is named"):
        select(ref, ROWS, Git(repository.path))


def test_the_nearest_names_come_first() -> None:
    with pytest.raises(UsageError) as refused:
        select("feature/y", ROWS)
    assert "there are: latest, feature/x, " in str(refused.value)


def test_a_prefix_of_several_commits_is_refused() -> None:
    with pytest.raises(UsageError, match="may be several commits: aaaa11110000, aaaa22220000"):
        select("aaaa", ROWS)


@pytest.mark.parametrize("ref", ["@yesterday", "@", "@2026-13-01", "@2026", "2026-13-01", "2026-1-31T"])
def test_what_is_no_date_says_how_to_write_one(ref: str) -> None:
    with pytest.raises(UsageError, match="write 2026-01-31"):
        select(ref, ROWS)


def test_an_empty_store_names_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the store has none"):
        select("main", [], Git(tmp_path))
