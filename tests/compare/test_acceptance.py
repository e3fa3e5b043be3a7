"""The file of accepted changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_comfyload.compare.acceptance import FILE, Acceptance, accepted_at, add_acceptance, read_acceptances
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.sessions import Session
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.git import Git
from tests.history.records import row
from tests.history.repository import Repository

COMMIT = "0123456789ab"


def test_without_a_file_nothing_is_accepted(tmp_path: Path) -> None:
    assert read_acceptances(tmp_path) == ()


def test_what_is_added_is_read_and_what_was_there_stays(tmp_path: Path) -> None:
    path = add_acceptance(tmp_path, Acceptance(COMMIT, "better pictures", date="2026-01-31"))
    path.write_text("# by hand\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    add_acceptance(tmp_path, Acceptance("fedcba987654", "noise", "rejected", "test_slo.py::test_it[a b]"))
    assert path.read_text(encoding="utf-8").startswith("# by hand\n")
    assert read_acceptances(tmp_path) == (
        Acceptance(COMMIT, "better pictures", date="2026-01-31"),
        Acceptance("fedcba987654", "noise", "rejected", "test_slo.py::test_it[a b]"),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(reason=st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_reason_comes_back(tmp_path: Path, reason: str) -> None:
    (tmp_path / FILE).unlink(missing_ok=True)
    add_acceptance(tmp_path, Acceptance(COMMIT, reason))
    assert read_acceptances(tmp_path)[0].reason == reason


def test_twice_is_refused(tmp_path: Path) -> None:
    add_acceptance(tmp_path, Acceptance(COMMIT, "better pictures"))
    with pytest.raises(UsageError, match="accepted already: better pictures"):
        add_acceptance(tmp_path, Acceptance(COMMIT, "no", "rejected"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[[change]", "cannot be read"),
        ("[other]\n", r"\[\[change\]\] tables only"),
        ("change = 3", r"\[\[change\]\] tables only"),
        ('[[change]]\ncommit = 3\nreason = "a"', "every value is a text"),
        ('[[change]]\ncommit = "0123456"\nreasn = "a"', "unknown key 'reasn'; legal: commit, date"),
        ('[[change]]\ncommit = "012"\nreason = "a"', "7 characters"),
        ('[[change]]\ncommit = "0123456"', "a reason"),
        ('[[change]]\nsince = "yesterday"\nreason = "a"', "since = .yesterday. is not a time"),
        ('[[change]]\ncommit = "0123456"\nreason = "a"\ndecision = "yes"', "legal: accepted, rejected"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=complaint):
        read_acceptances(tmp_path)


def test_a_commit_may_be_short_and_a_test_left_out() -> None:
    acceptance = Acceptance(COMMIT, "a")
    assert acceptance.concerns(COMMIT + "cdef", "any")
    assert not acceptance.concerns(None, "any")
    assert not Acceptance(COMMIT, "a", test="one").concerns(COMMIT, "other")


def test_a_time_is_in_utc_unless_it_says_otherwise() -> None:
    for since in ("2026-01-31", "2026-01-31T00:00:00Z", "2026-01-31T01:00:00+01:00"):
        assert Acceptance("", "a", since=since).begins == 1769817600.0


def _session(commit: str | None, number: int = 0) -> Session:
    return Session((row(number, commit=commit),))


def test_a_decision_that_was_squashed_counts_from_the_commit_that_brought_it(repository: Repository) -> None:
    """A squash merge gives the accepted commit another hash."""
    before = repository.commit("before")
    repository.git("switch", "-q", "-c", "feature")
    slower = repository.commit("slower")
    add_acceptance(repository.path, Acceptance(slower[:12], "better pictures"))
    repository.git("add", FILE)
    repository.git("commit", "-q", "-m", "accept it")
    on_branch = repository.git("rev-parse", "HEAD")
    repository.git("switch", "-q", "main")
    between = repository.commit("between")
    repository.git("merge", "-q", "--squash", "-X", "theirs", "feature")
    repository.git("commit", "-q", "-m", "slower (#1)")
    squashed, after = repository.git("rev-parse", "HEAD"), repository.commit("after")
    decisions, lineage = read_acceptances(repository.path), CommitGraph(Git(repository.path))
    history = [_session(before, 1), _session(between, 2), _session(squashed, 3)]
    assert accepted_at(_session(on_branch, 4), history[:1], decisions, lineage) == (decisions[0], 0)
    assert accepted_at(_session(between, 4), history[:1], decisions, lineage) == (None, 0)
    assert accepted_at(_session(squashed, 4), history[:2], decisions, lineage) == (decisions[0], 0)
    assert accepted_at(_session(after, 4), history, decisions, lineage) == (None, 2)


def test_without_git_the_runs_tell_where_the_accepted_commit_is() -> None:
    history = [_session("a" * 40, 1), _session(COMMIT + "c" * 28, 2)]
    decisions = [Acceptance(COMMIT, "better pictures")]
    assert accepted_at(_session("b" * 40, 3), history, decisions, CommitGraph()) == (None, 1)
    assert accepted_at(_session(COMMIT + "c" * 28, 2), history[:1], decisions, CommitGraph()) == (decisions[0], 0)
    assert accepted_at(_session("b" * 40, 3), history[:1], decisions, CommitGraph()) == (None, 0)


def test_a_time_divides_the_sessions_of_one_commit() -> None:
    history = [_session(COMMIT, number) for number in (0, 86400)]
    decisions = [Acceptance("", "a new driver", since="2023-11-15T12:00:00Z")]  # row(0) began on the 14th
    assert accepted_at(_session(COMMIT, 2 * 86400), history, decisions, CommitGraph()) == (None, 1)
    assert accepted_at(_session(COMMIT, 86400), history[:1], decisions, CommitGraph()) == (decisions[0], 0)
    assert accepted_at(_session(COMMIT, 5), history[:1], decisions, CommitGraph()) == (None, 0)
