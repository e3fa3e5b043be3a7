"""The file with what people have said of changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_comfyload.compare.acceptance import FILE, Acceptance, add_acceptance, read_acceptances
from pytest_comfyload.errors import UsageError

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
