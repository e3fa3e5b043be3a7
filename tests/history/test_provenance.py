"""The provenance of a run comes from git and the CI; what they do not know is unknown, and a note says why."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from pytest_comfyload.history.ci import Ci, ci_of
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.provenance import provenance_of
from tests.history.repository import Repository


def test_a_commit_on_a_branch(repository: Repository) -> None:
    first = repository.commit("one")
    repository.git("checkout", "-q", "-b", "feature/x")
    second = repository.commit("Faster: \x1b[31m größer")
    repository.git("tag", "v2")
    come = provenance_of(repository.path, "a label", {})
    assert (come.commit, come.parents, come.branch, come.tag, come.label) == (
        second, (first,), "feature/x", "v2", "a label",
    )  # fmt: skip
    assert (come.title, come.author, come.date) == ("Faster: \x1b[31m größer", "Ada", 1.7e9)
    assert (come.base, come.merge_base) == ("main", first)
    assert (come.dirty, come.ci, come.notes, come.repository) == (False, None, (), None)


def test_the_machine(repository: Repository) -> None:
    machine = provenance_of(repository.path, environ={}).machine
    assert machine is not None
    assert machine.processor
    assert machine.cores
    assert len(machine.host) == 12


def test_dirty_is_what_differs_from_the_commit(repository: Repository) -> None:
    repository.commit("one")
    (repository.path / "untracked").touch()
    assert provenance_of(repository.path, environ={}).dirty is False
    (repository.path / "file").write_text("changed", encoding="utf-8")
    assert provenance_of(repository.path, environ={}).dirty is True


def test_a_folder_below_the_root_of_the_repository(repository: Repository) -> None:
    commit = repository.commit("one")
    (repository.path / "sub").mkdir()
    assert provenance_of(repository.path / "sub", environ={}).commit == commit


def test_a_detached_head_has_no_branch_but_the_one_that_ci_names(repository: Repository) -> None:
    commit = repository.commit("one")
    repository.git("checkout", "-q", "--detach")
    assert provenance_of(repository.path, environ={}).branch is None
    come = provenance_of(repository.path, environ={"GITLAB_CI": "true", "CI_COMMIT_BRANCH": "topic"})
    assert (come.commit, come.branch) == (commit, "topic")


def test_a_shallow_clone_is_explained(repository: Repository, tmp_path: Path) -> None:
    repository.commit("one")
    repository.git("checkout", "-q", "-b", "topic")
    repository.commit("two")
    repository.git("checkout", "-q", "main")
    repository.commit("three")
    clone = repository.clone(tmp_path / "clone", "--depth=1", "--no-single-branch")
    clone.git("checkout", "-q", "topic")
    come = provenance_of(clone.path, environ={})
    assert (come.branch, come.base, come.merge_base) == ("topic", "main", None)
    (note,) = come.notes
    assert "the clone is shallow" in note
    assert "run: git fetch --unshallow" in note


def test_a_merge_base_with_the_branch_that_a_pull_request_goes_to(repository: Repository, tmp_path: Path) -> None:
    repository.commit("one")
    repository.git("checkout", "-q", "-b", "release")
    base = repository.commit("two")
    repository.git("checkout", "-q", "-b", "topic")
    repository.commit("three")
    clone = repository.clone(tmp_path / "clone")
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_BASE_REF": "release"}
    come = provenance_of(clone.path, environ=environ)
    assert (come.base, come.merge_base) == ("release", base)


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        ("https://me:hunter2@github.com/o/r.git", "https://github.com/o/r"),
        ("https://hunter2@github.com/o/r", "https://github.com/o/r"),
        ("git@github.com:o/r.git", "https://github.com/o/r"),
        ("ssh://git@github.com/o/r.git", "https://github.com/o/r"),
    ],
)
def test_the_repository_is_named_without_credentials(repository: Repository, remote: str, shown: str) -> None:
    repository.commit("one")
    repository.git("remote", "add", "origin", remote)
    come = provenance_of(repository.path, environ={})
    assert come.repository == shown
    assert b"hunter2" not in msgspec.json.encode(come)


def test_no_repository(tmp_path: Path) -> None:
    come = provenance_of(tmp_path, environ={})
    assert (come.commit, come.branch, come.dirty) == (None, None, None)
    (note,) = come.notes
    assert note == f"{tmp_path} is not in a git repository, so the commit is unknown; run: git init, and commit"


def test_a_repository_of_another_user(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.commit("one")
    below = repository.path / "below"
    below.mkdir()
    # The variable that git's own tests use.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    come = provenance_of(below, environ={})
    assert come.commit is None
    (note,) = come.notes
    assert note.startswith("git refuses the repository, since another user owns it")
    assert note.endswith(f"; run: git config --global --add safe.directory {repository.path}")


def test_a_repository_without_commits(repository: Repository) -> None:
    assert provenance_of(repository.path, environ={}).notes == ("the repository has no commit yet; commit the tests",)


def test_no_git(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.commit("one")
    monkeypatch.setenv("PATH", str(repository.path))
    come = provenance_of(repository.path, environ={})
    assert come.commit is None
    assert come.notes == ("git is not installed, so the commit is unknown; install git",)


def test_a_git_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 60\n", encoding="utf-8")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Git(tmp_path, timeout=0.2).ask("log") is None


def test_ancestors(repository: Repository) -> None:
    commits = [repository.commit(title) for title in ("one", "two", "three")]
    git = Git(repository.path)
    assert git.ancestors(commits[1]) == [commits[1], commits[0]]
    assert git.ancestors(commits[2], most=1) == [commits[2]]
    assert git.ancestors("f" * 40) == []
    assert git.commit("HEAD~2") == commits[0]
    assert git.commit("--all") is None


# --- CI ---


def test_outside_of_ci() -> None:
    assert ci_of({}) is None
    assert ci_of({"CI": "false", "GITHUB_ACTIONS": ""}) is None


def test_ci_of_another_kind() -> None:
    assert ci_of({"CI": "1"}) == Ci("unknown")


GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "o/r",
    "GITHUB_RUN_ID": "17",
    "GITHUB_RUN_ATTEMPT": "2",
}


def test_a_push_on_github() -> None:
    url = "https://github.com/o/r/actions/runs/17"
    assert ci_of({**GITHUB, "GITHUB_REF": "refs/heads/feature/x"}) == Ci("GitHub", url, "17/2", "feature/x")
    assert ci_of({**GITHUB, "GITHUB_REF": "refs/tags/v1"}) == Ci("GitHub", url, "17/2", tag="v1")


def test_a_pull_request_on_github(tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7, "head": {"sha": "c" * 40}}}), encoding="utf-8")
    environ = {
        **GITHUB,
        "GITHUB_REF": "refs/pull/7/merge",
        "GITHUB_HEAD_REF": "topic",
        "GITHUB_BASE_REF": "main",
        "GITHUB_EVENT_PATH": str(event),
    }
    url = "https://github.com/o/r/actions/runs/17"
    assert ci_of(environ) == Ci("GitHub", url, "17/2", "topic", "main", "7", "c" * 40)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pull_request": 3}', '{"pull_request": {"head": []}}'])
def test_a_strange_event_is_no_matter(tmp_path: Path, content: str) -> None:
    event = tmp_path / "event.json"
    event.write_text(content, encoding="utf-8")
    told = ci_of({**GITHUB, "GITHUB_REF": "refs/pull/7/merge", "GITHUB_EVENT_PATH": str(event)})
    assert told is not None
    assert (told.pull_request, told.head) == ("7", None)


@pytest.mark.parametrize(
    ("environ", "ci"),
    [
        (
            {
                "GITLAB_CI": "true",
                "CI_JOB_URL": "https://me:hunter2@gitlab.com/j/1",
                "CI_JOB_ID": "1",
                "CI_MERGE_REQUEST_IID": "5",
                "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "topic",
                "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
            },
            Ci("GitLab", "https://gitlab.com/j/1", "1", "topic", "main", "5"),
        ),
        (
            {"JENKINS_URL": "http://j", "BUILD_URL": "http://j/1", "BUILD_NUMBER": "1", "GIT_BRANCH": "origin/main"},
            Ci("Jenkins", "http://j/1", "1", "main"),
        ),
        (
            {"JENKINS_URL": "http://j", "CHANGE_ID": "5", "CHANGE_BRANCH": "topic", "CHANGE_TARGET": "main"},
            Ci("Jenkins", branch="topic", base="main", pull_request="5"),
        ),
        (
            {"BUILDKITE": "true", "BUILDKITE_BRANCH": "topic", "BUILDKITE_PULL_REQUEST": "false"},
            Ci("Buildkite", branch="topic"),
        ),
    ],
)  # fmt: skip
def test_other_systems(environ: dict[str, str], ci: Ci) -> None:
    assert ci_of(environ) == ci
