"""Each repository has one store, which pytest and every command find from anywhere in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.location import STORE, home_of, project_of, shown_from, store_at, unused_stores
from tests.history.repository import Repository


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_a_project_is_the_top_of_the_repository(tmp_path: Path) -> None:
    deep = _folder(tmp_path / "repository" / "tests" / "load")
    top = tmp_path / "repository"
    (top / "tests" / "pyproject.toml").touch()
    (top / ".git").mkdir()
    assert project_of(deep, deep) == project_of(deep, tmp_path) == top
    assert store_at(deep) == store_at(top) == str(top / STORE)


def test_a_submodule_is_a_repository_of_its_own(tmp_path: Path) -> None:
    node = _folder(tmp_path / "comfyui" / "custom_nodes" / "node")
    (tmp_path / "comfyui" / ".git").mkdir()
    (node / ".git").write_text("gitdir: ../../.git/modules/node\n", encoding="utf-8")
    assert project_of(node, node) == home_of(node) == node


def test_outside_a_repository_it_is_where_the_project_or_a_store_is_else_where_the_command_was_given(
    tmp_path: Path,
) -> None:
    suite = _folder(tmp_path / "node" / "tests")
    (suite / "pytest.ini").touch()
    assert project_of(suite, tmp_path / "node") == tmp_path / "node"
    assert project_of(suite, tmp_path / "other") == suite
    project_of.cache_clear()
    (tmp_path / "node" / "pyproject.toml").touch()
    assert project_of(suite, suite) == tmp_path / "node"
    project_of.cache_clear()
    _folder(suite / STORE / "runs")
    assert project_of(suite, tmp_path / "node") == suite


def test_a_linked_worktree_shares_the_store_of_the_main_one(tmp_path: Path) -> None:
    main = Repository.begin(tmp_path / "main")
    main.commit("first")
    linked = tmp_path / "linked"
    main.git("worktree", "add", "-q", str(linked))
    assert project_of(linked, linked) == linked
    assert home_of(linked) == main.path
    assert store_at(linked) == str(main.path / STORE)
    # A store that an older version has filled stays in use.
    _folder(linked / STORE / "runs")
    assert home_of(linked) == linked


def test_worktrees_of_a_bare_repository_have_stores_of_their_own(tmp_path: Path) -> None:
    main = Repository.begin(tmp_path / "main")
    main.commit("first")
    bare = main.clone(tmp_path / "bare.git", "--bare")
    linked = tmp_path / "linked"
    bare.git("worktree", "add", "-q", str(linked))
    assert home_of(linked) == linked


@pytest.mark.parametrize("content", [b"", b"gitdir: /nowhere\n", b"gitdir: \0\n", b"\xff\xfe", b"x" * 10_000])
def test_a_broken_pointer_to_a_repository_means_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".git").write_bytes(content)
    assert home_of(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\ncomfyload_store = {}\n"),
        ("setup.cfg", "[tool:pytest]\ncomfyload_store = {}\n"),
        ("pytest.toml", '[pytest]\ncomfyload_store = "{}"\n'),
        ("pyproject.toml", '[tool.pytest.ini_options]\ncomfyload_store = "{}"\n'),
    ],
)
def test_pytests_configuration_names_the_store(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / ".git").mkdir()
    suite = _folder(tmp_path / "tests")
    (tmp_path / name).write_text(text.format("kept"), encoding="utf-8")
    assert store_at(suite) == store_at(tmp_path) == str(tmp_path / "kept")
    (tmp_path / name).write_text(text.format("s3://bucket/runs"), encoding="utf-8")
    assert store_at(suite) == "s3://bucket/runs"
    (tmp_path / name).write_text(text.format(STORE), encoding="utf-8")
    assert store_at(suite) == str(tmp_path / STORE)


def test_a_suite_below_names_the_store_where_nothing_above_configures_pytest(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    for name in ("tests", "tests/load"):
        suite = _folder(tmp_path / name)
        (suite / "pytest.ini").write_text("[pytest]\ncomfyload_store = s3://bucket/runs\n", encoding="utf-8")
    assert store_at(tmp_path) == "s3://bucket/runs"
    (suite / "pytest.ini").write_text("[pytest]\ncomfyload_store = kept\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"several stores: s3://bucket/runs in .*kept in .*; give --store"):
        store_at(tmp_path)
    assert store_at(suite) == str(suite / "kept")


@pytest.mark.parametrize("text", ["[pytest", "[pytest]\ncomfyload_store", "comfyload_store = x", ""])
def test_a_broken_configuration_names_none(tmp_path: Path, text: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "pytest.ini").write_text(text, encoding="utf-8")
    assert store_at(tmp_path) == str(tmp_path / STORE)


def test_stores_of_older_versions_are_named(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    suite = _folder(tmp_path / "tests" / "load")
    _folder(tmp_path / "tests" / STORE / "runs")
    _folder(suite / STORE / "report")
    assert unused_stores(suite, store_at(suite)) == [tmp_path / "tests" / STORE]
    assert unused_stores(tmp_path, store_at(tmp_path)) == []


def test_a_place_is_shown_as_a_user_there_writes_it(tmp_path: Path) -> None:
    assert shown_from(str(tmp_path / STORE), tmp_path) == STORE
    assert shown_from(str(tmp_path / STORE), tmp_path / "tests") == str(tmp_path / STORE)
    assert shown_from("s3://bucket/runs", tmp_path) == "s3://bucket/runs"
