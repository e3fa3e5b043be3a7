"""The commands on a store, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pytest_comfyload.cli import app
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.history.store import Store
from pytest_comfyload.result.run_facts import ABHalf
from tests.history.records import golden, record
from tests.result.outcomes import load_of, outcome


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Create a store with three runs in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    store = Store.open(tmp_path / ".comfyload")
    for made in (golden(), record(1, title="test_one"), record(2, title="test_two", branch="topic", label="mine")):
        store.add(made)
    return store


def _comfyload(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def _said(*arguments: str) -> str:
    result = _comfyload(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def _refused(*arguments: str) -> str:
    result = _comfyload(*arguments)
    assert isinstance(result.exception, ComfyloadError)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_a_line_for_each_run_newest_first_below_its_commit(store: Store) -> None:
    head, commit, first, topic, second, main, third = _said("history").splitlines()
    assert head.split() == ["UTC", "generation", "p50", "total", "p95", "SLOs", "run", "test"]
    assert commit == "2027-01-15  0123456789*  main  v1.2, before the upgrade"
    assert first.split() == ["08:00:00", "2", "s", "∞", "1/1", "0123abcd", "test_slo.py::test_slo", "[a-5]",
        "(CONTAMINATED)"]  # fmt: skip
    assert topic.split()[2:] == ["topic", "mine"]
    assert second.split()[1:] == ["4", "s", "5.6", "s", "–", record(2).run_id[-8:], "test_two"]
    assert "main" in main
    assert third.split()[-1] == "test_one"


@pytest.mark.parametrize("columns", ["80", "120", "10"])
def test_the_list_fits_the_screen(store: Store, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    store.add(record(3, title="tests/test_portraits.py::TestPortraits::test_a_portrait_of_five_people_at_once"))
    monkeypatch.setenv("COLUMNS", columns)
    lines = _said("history").splitlines()
    assert all(len(line) <= max(80, int(columns)) for line in lines)
    begin = lines[0].index("test")
    assert "TestPortraits::test_a_portrait_of_five_people_at_once" in "".join(line[begin:] for line in lines)


def test_a_run_is_found_by_the_end_of_its_id(store: Store) -> None:
    store.add(record(3, run_id="20260131T000003-76543210"))
    assert len(_said("history", "76543210").splitlines()) == 3


def test_a_comparison_of_a_and_b_is_one_line(store: Store) -> None:
    for number in range(16):
        side: Any = "AB"[number % 2]
        load = load_of(
            outcome(generation=2.0 if side == "A" else 4.0),
            run_id=f"20260201T0000{number:02d}-0123abce",
            epoch=1.75e9 + number,
            title=f"ab, {side}",
            half=ABHalf("0" * 16, "ab", side, number // 2 + 1),
        )
        store.add(record_of(load, Provenance(branch="main")))
    lines = _said("history").splitlines()
    (line,) = [line for line in lines if "ab: " in line]
    assert line.endswith("ab: B ÷ A ×2 (2–2, 8 pairs) generation_time.p50")
    assert len(_said("history", "--limit", "1").splitlines()) == 4
    assert len(json.loads(_said("history", "--json", "--limit", "100"))["runs"]) == 19


@pytest.mark.parametrize(
    ("arguments", "tests"),
    [
        (["mine"], ["test_two"]),
        (["topic"], ["test_two"]),
        (["latest"], ["test_slo.py::test_slo", "test_two", "test_one"]),
        (["--branch", "main"], ["test_slo.py::test_slo", "test_one"]),
        (["--label", "mine"], ["test_two"]),
        (["--scenario", "one"], ["test_one"]),
        (["--limit", "1"], ["test_slo.py::test_slo"]),
    ],
)
def test_some_of_them_as_json(store: Store, arguments: list[str], tests: list[str]) -> None:
    data = json.loads(_said("history", "--json", *arguments))
    rows = data["runs"]
    assert data["schema"] == "comfyload.history/1"
    assert [row["test"] for row in rows] == tests


def test_what_is_left_out_is_said(store: Store) -> None:
    assert _said("history", "--limit", "2").splitlines()[-1] == "… and 1 older one (--limit)"


def test_a_store_above_is_found_and_none_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (Path.cwd() / "sub").mkdir()
    monkeypatch.chdir(Path.cwd() / "sub")
    assert len(json.loads(_said("history", "--json"))["runs"]) == 3
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    assert "give --store" in _refused("history")
    assert "no such folder" in _refused("history", "--store", "nowhere")


def test_an_empty_store(store: Store) -> None:
    for row in store.runs():
        store.remove(row)
    assert _said("history") == "no runs\n"


def test_a_torn_file_is_named_and_the_rest_is_listed(store: Store) -> None:
    name = store.files()[0]
    path = Path.cwd() / ".comfyload" / "runs" / name
    path.write_bytes(path.read_bytes()[:50])
    result = _comfyload("history", "--json")
    assert len(json.loads(result.stdout)["runs"]) == 2
    assert result.stderr.startswith(f"comfyload: skipped: {name} is damaged")


def test_an_unknown_ref(store: Store) -> None:
    assert _refused("history", "topik").startswith("no run is named 'topik'; there are: latest, topic, ")


def test_prune(store: Store) -> None:
    assert _refused("prune").startswith("prune: give --keep N")
    assert _refused("prune", "--older-than", "soon").startswith("--older-than='soon' is not a duration")
    assert _said("prune", "--keep", "0", "--dry-run") == f"would delete {record(1).run_id} test_one\n"
    assert len(store.runs()) == 3
    (Path.cwd() / ".comfyload" / "runs" / "x.part").touch()
    assert _said("prune", "--older-than", "1d", "--keep", "0") == f"deleted {record(1).run_id} test_one\n"
    assert [row.label for row in store.runs()] == ["before the upgrade", "mine"]
    assert not (Path.cwd() / ".comfyload" / "runs" / "x.part").exists()
    assert len(_said("prune", "--keep", "0", "--named").splitlines()) == 2
    assert store.runs() == []


def test_prune_goes_by_age(store: Store) -> None:
    assert _said("prune", "--older-than", "100000d") == ""
    assert len(store.runs()) == 3


def test_export_and_import_again(store: Store) -> None:
    _said("export", "--outcomes", "-o", "all.json")
    assert _said("import", "all.json", "--store", "other") == "3 runs are in other\n"
    assert _said("import", "all.json", "--store", "other") == "3 runs are in other\n"
    other = Store.open("other")
    assert [other.load(row) for row in other.runs()] == [store.load(row) for row in store.runs()]


def test_export_of_some(store: Store) -> None:
    assert [run["run_id"] for run in json.loads(_said("export", "mine"))["runs"]] == [record(2).run_id]
    assert len(_said("export", "--format", "csv", "--branch", "main").splitlines()) == 3


def test_pytest_benchmark_both_ways(store: Store) -> None:
    _said("export", "--format", "pytest-benchmark", "-o", "bench.json", "--scenario", "test_one")
    _said("import", "bench.json", "--store", "other")
    (row,) = Store.open("other").runs()
    assert row.test == "test_one"
    assert row.figures["generation_time.p50"] == pytest.approx(3.0)


def test_import_of_a_store(store: Store) -> None:
    assert _said("import", ".comfyload", "--store", "other") == "3 runs are in other\n"
    assert len(Store.open("other").runs()) == 3


def test_import_of_what_is_none(store: Store) -> None:
    Path("a.json").write_text("{}", encoding="utf-8")
    assert "neither an export" in _refused("import", "a.json")
    assert "no such file" in _refused("import", "b.json")
