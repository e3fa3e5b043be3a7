"""A run's name, store and commit come from the repository of its test file, however pytest was started."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pytest_comfyload.cli import app
from pytest_comfyload.history.store import Store
from tests.history.repository import Repository
from tests.plugin.suite import Suite

# Import numpy first: pytester drops the modules that a test imports, and numpy cannot be imported twice.
pytest.importorskip("numpy")
LOAD = '@load_scenario("txt2img", fetch=False, warmup=0, max_send_lag="30s")\ndef test_it(load):\n    pass\n'


def _repository(suite: Suite, name: str) -> tuple[Repository, str]:
    """Create a repository with a load test in `tests`, and return it with the hash of its commit."""
    repository = Repository.begin(suite.folder / name)
    (repository.path / "tests").mkdir()
    suite.write(f"{name}/tests/test_{name}.py", LOAD)
    (repository.path / ".gitignore").write_text("*\n!tests\n!file\n", encoding="utf-8")
    repository.git("add", "tests", "-f")
    return repository, repository.commit(name)


def test_every_spelling_and_folder_makes_one_series(
    suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository, commit = _repository(suite, "one")
    store = tmp_path / "store"
    store.mkdir()
    common = ("-p", "no:cacheprovider", "--comfyui-url", server)
    for folder, *arguments in (
        (repository.path, "tests/test_one.py", f"--comfyload-store={store}"),
        (repository.path, "tests/test_one.py", "--comfyload-store", str(store)),
        (repository.path / "tests", "--comfyload-store", str(store)),
        (tmp_path, str(repository.path / "tests" / "test_one.py"), f"--comfyload-store={store}"),
    ):
        monkeypatch.chdir(folder)
        suite.run(*common, *arguments).assert_outcomes(passed=1)
    rows = Store.open(store).runs()
    assert [(row.test, row.commit) for row in rows] == [("tests/test_one.py::test_it", commit)] * 4
    assert [path.parent for path in suite.folder.rglob(".comfyload")] == [repository.path]


def test_each_of_two_repositories_has_its_own(suite: Suite, server: str, workers: list[str]) -> None:
    found = {name: _repository(suite, name) for name in ("one", "two")}
    result = suite.run("--comfyui-url", server, "one/tests", "two/tests", *workers)
    result.assert_outcomes(passed=2)
    for name, (repository, commit) in found.items():
        (row,) = Store.open(repository.path / ".comfyload").runs()
        assert (row.test, row.commit) == (f"tests/test_{name}.py::test_it", commit)
    result.stdout.fnmatch_lines_random(["1 run stored in one/.comfyload;*", "1 run stored in two/.comfyload;*"])


def test_a_store_in_an_ini_file_is_relative_to_it(suite: Suite, server: str) -> None:
    repository, _ = _repository(suite, "one")
    (repository.path / "tests" / "pytest.ini").write_text("[pytest]\ncomfyload_store = kept\n", encoding="utf-8")
    suite.run("--comfyui-url", server, "one/tests").assert_outcomes(passed=1)
    assert len(Store.open(repository.path / "tests" / "kept").runs()) == 1


def test_commands_read_what_pytest_has_kept_from_every_folder(
    suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pytest and the commands agree, with a configuration in the suite's folder and from a folder without a store."""
    repository, _ = _repository(suite, "one")
    top, tests = repository.path, repository.path / "tests"
    (tests / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    monkeypatch.chdir(tests)
    suite.run("--comfyui-url", server).stdout.fnmatch_lines([f"1 run stored in {top / '.comfyload'};*"])
    report = CliRunner().invoke(app, ["report"])
    assert (report.exit_code, report.stdout) == (0, f"written: {top / '.comfyload' / 'report' / 'index.html'}\n")
    assert CliRunner().invoke(app, ["import", "../.comfyload"]).stdout == f"1 run is in {top / '.comfyload'}\n"
    for folder in (top, tests):
        monkeypatch.chdir(folder)
        listed = CliRunner().invoke(app, ["history"])
        assert "test_one.py::test_it" in listed.stdout
        assert listed.stderr == ("" if folder == top else f"comfyload: the store is {top / '.comfyload'}\n")
    assert [path.parent for path in suite.folder.rglob(".comfyload")] == [top]


def test_runs_in_a_linked_worktree_outlive_it(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, commit = _repository(suite, "one")
    linked = suite.folder / "linked"
    repository.git("worktree", "add", "-q", str(linked))
    monkeypatch.chdir(linked)
    suite.run("--comfyui-url", server, "tests").assert_outcomes(passed=1)
    repository.git("worktree", "remove", "--force", str(linked))
    (row,) = Store.open(repository.path / ".comfyload").runs()
    assert (row.test, row.commit, row.branch) == ("tests/test_one.py::test_it", commit, "linked")
    assert list((repository.path / ".comfyload" / "spool").glob("*.jsonl")) == []


def test_a_spelling_that_loses_the_configuration_is_refused(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository, _ = _repository(suite, "one")
    ini = repository.path / "pytest.ini"
    ini.write_text("[pytest]\ncomfyload_require_server = true\n", encoding="utf-8")
    monkeypatch.chdir(repository.path)
    result = suite.run_here("--comfyload-store", str(tmp_path))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*reads no configuration instead of {ini}; write --comfyload-store={tmp_path}"])
    suite.run_here("--co", "-q", f"--comfyload-store={tmp_path}").assert_outcomes()
