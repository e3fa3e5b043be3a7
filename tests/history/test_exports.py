"""Exports can be imported again, and are read by the programs that they are meant for."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.exports import as_csv, as_json, from_json, parsed
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.pytest_benchmark import as_benchmark, from_benchmark, is_benchmark
from pytest_comfyload.history.record import record_of
from pytest_comfyload.history.store import Store
from pytest_comfyload.result.outcome import OutcomeStatus
from tests.history.records import COMMIT, golden, record
from tests.result.outcomes import failure, load_of, outcome


def test_json_with_every_prompt_is_the_same_again() -> None:
    text = as_json([golden(), record(3)], outcomes=True)
    assert from_json(parsed(text.encode(), "a.json"), "a.json") == [golden(), record(3)]


def test_json_without_prompts_keeps_the_figures_even_infinite_ones() -> None:
    made = record_of(load_of(outcome(), failure(OutcomeStatus.OOM)), Provenance())
    text = as_json([made], outcomes=False)
    assert "Infinity" in text
    json.loads(text, parse_constant=pytest.fail)
    (again,) = from_json(parsed(text.encode(), "a.json"), "a.json")
    assert again == msgspec.structs.replace(made, outcomes=())
    without = from_json(parsed(as_json([golden()], outcomes=False).encode(), "a.json"), "a.json")
    assert without == [msgspec.structs.replace(golden(), outcomes=(), pictures=())]
    assert again.figures["total_time"]["p99"] == math.inf


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "neither an export"),
        ({}, "neither an export"),
        ({"comfyload": 99, "runs": []}, "schema 99"),
        ({"comfyload": 1}, "damaged"),
        ({"comfyload": 1, "runs": 3}, "damaged"),
        ({"comfyload": 1, "runs": [3]}, "damaged"),
        ({"comfyload": 1, "runs": [{"figures": {}}]}, "damaged"),
    ],
)
def test_what_is_no_export_is_refused(content: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"a.json .*{message}"):
        from_json(content, "a.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match=r"a\.json is not JSON"):
        parsed(content, "a.json")


def test_csv_has_a_line_for_each_run(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.add(golden())
    store.add(record(3, branch="=HYPERLINK(1)"))
    second, first = csv.DictReader(io.StringIO(as_csv(store.runs())))
    assert (second["run_id"], second["commit"], second["slos"]) == (golden().run_id, COMMIT, "1")
    assert float(second["generation_time.p50"]) == pytest.approx(2)
    assert float(first["generation_time.p50"]) == pytest.approx(5)
    assert first["branch"] == "'=HYPERLINK(1)"


# --- pytest-benchmark ---


def test_a_benchmark_for_each_time() -> None:
    content = json.loads(as_benchmark([record(3, title="t.py::test_it", parameters="a")]))
    assert is_benchmark(content)
    names = [benchmark["fullname"] for benchmark in content["benchmarks"]]
    assert names == ["t.py::test_it[a]::generation_time", "t.py::test_it[a]::total_time"]
    stats = content["benchmarks"][0]["stats"]
    assert stats["rounds"] == 1
    assert stats["median"] == stats["mean"] == pytest.approx(5.0)
    assert content["commit_info"]["id"] == COMMIT


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 12, 15])
def test_the_statistics_are_those_of_pytest_benchmark(n: int) -> None:
    stats = pytest.importorskip("pytest_benchmark.stats")
    load = load_of(*(outcome(float(k), generation=1 + (k * 7 % 11) ** 2 / 10) for k in range(n)))
    content = json.loads(as_benchmark([record_of(load, Provenance(commit=COMMIT))]))
    ours = content["benchmarks"][0]["stats"]
    theirs = stats.Stats()
    for value in ours["data"]:
        theirs.update(value)
    expected = {name: getattr(theirs, name) for name in stats.Stats.fields}
    got = {name: ours[name] for name in expected}
    outliers = got.pop("outliers"), expected.pop("outliers")
    assert outliers[0] == outliers[1]
    assert got == pytest.approx(expected)


def test_pytest_benchmark_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    for number in (1, 2):
        path = tmp_path / f"000{number}_run.json"
        path.write_text(as_benchmark([record(number, title="t.py::test_it")]), encoding="utf-8")
    compared = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", *map(str, sorted(tmp_path.glob("*.json")))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert compared.returncode == 0, compared.stderr
    assert "test_it::generation_time" in compared.stdout


def test_runs_of_several_commits_are_no_file_of_pytest_benchmark() -> None:
    with pytest.raises(UsageError, match="one commit, not of 2"):
        as_benchmark([record(1), record(2, commit="f" * 40)])


def test_what_was_exported_for_pytest_benchmark_comes_back_as_a_run() -> None:
    (again,) = from_benchmark(json.loads(as_benchmark([record(3, title="t.py::test_it")])), "a.json")
    assert (again.facts.title, again.provenance.commit, again.provenance.branch) == ("t.py::test_it", COMMIT, "main")
    assert again.time == pytest.approx(record(3).time)
    for metric in ("generation_time", "total_time"):
        assert again.figures[metric]["p50"] == pytest.approx(record(3).figures[metric]["p50"])


def test_a_benchmark_of_somebody_else() -> None:
    content = {
        "commit_info": {"id": COMMIT, "branch": "(detached head)", "time": "2026-01-31T12:00:00+01:00", "dirty": True},
        "benchmarks": [
            {"fullname": "t.py::test_sort[5]", "stats": {"min": 1, "max": 3, "mean": 2, "median": 2, "rounds": 3}}
        ],
        "datetime": "2026-01-31T12:00:00.123456",
    }
    once, again = (from_benchmark(content, "a.json") for _ in range(2))
    assert once == again
    (run,) = once
    assert (run.facts.title, run.provenance.branch, run.provenance.dirty) == ("t.py::test_sort[5]", None, True)
    assert run.figures["total_time"] == {"n": 3, "mean": 2, "min": 1, "max": 3, "p50": 2}


@pytest.mark.parametrize(
    "content",
    [{"benchmarks": []}, {"benchmarks": [3], "datetime": "2026-01-31"}, {"benchmarks": [{}], "datetime": "2026-01-31"},
     {"benchmarks": [], "datetime": "yesterday"}, {"benchmarks": [], "datetime": "2026-01-31", "commit_info": 3}],
)  # fmt: skip
def test_what_is_no_file_of_pytest_benchmark_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"a\.json is not JSON of pytest-benchmark"):
        from_benchmark(content, "a.json")
