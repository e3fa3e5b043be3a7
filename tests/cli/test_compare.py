"""`comfyload compare` and `comfyload accept`, as a person types them in a repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from pytest_comfyload.cli import app
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.history.store import Store
from pytest_comfyload.result.run_facts import ABHalf
from tests.history.repository import Repository
from tests.result.outcomes import load_of, outcome


class Bench:
    """A repository with a store, and runs added to it."""

    def __init__(self, path: Path) -> None:
        self.repository = Repository.begin(path)
        self.store = Store.open(path / ".comfyload")
        self._runs = 0

    def keep(self, generation: float, steps: int = 20, **different: Any) -> None:
        """Store a run of the current commit."""
        self._runs += 1
        label, parameters = different.pop("label", None), different.pop("parameters", "")
        session = different.pop("session", f"session {self._runs}")
        commit = self.repository.git("rev-parse", "HEAD")
        load = load_of(
            *[outcome(at, generation=generation) for at in (0.0, 10.0, 20.0)],
            run_id=f"20260131T{self._runs:06d}-0123abcd",
            epoch=1.7e9 + self._runs,
            title="test_slo.py::test_it",
            parameters=parameters,
            subject={"KSampler.steps": steps},
        )
        come = Provenance(commit=commit, branch="main", label=label, session=session)
        self.store.add(msgspec.structs.replace(record_of(load, come), **different))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Store ten runs at a base commit, and three at the next one that take 50 % longer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    made = Bench(tmp_path)
    made.repository.commit("base")
    for number in range(10):
        made.keep(2.0 + 0.01 * (number % 3))
    made.repository.commit("more steps")
    for _ in range(3):
        made.keep(3.0, steps=30, session="head")
    return made


def _comfyload(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def _json(*arguments: str) -> Any:
    return json.loads(_comfyload(*arguments, "--json").stdout)


def test_a_regression_is_named_with_its_cause(bench: Bench) -> None:
    result = _comfyload("compare", "HEAD~1", "HEAD")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("regressed     test_slo.py::test_it: generation_time.p50 +49.3 % (3 runs); limit 5 %")
    assert "  changed: KSampler.steps 20 → 30" in lines
    assert "  against HEAD~1" in lines


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["HEAD~1", "HEAD", "--fail-on-regression"], 1),
        (["HEAD~1", "HEAD"], 0),
        # The first commit has no baseline.
        (["HEAD~1", "HEAD~1", "--fail-on-regression"], 1),
        (["HEAD~1", "HEAD~1", "--fail-on-regression", "--allow-no-baseline"], 0),
        (["HEAD~1", "HEAD", "--fail-on-regression", "--min-effect", "80"], 0),
        (["HEAD~1", "--fail-on-regression"], 1),
        (["HEAD~1", "HEAD", "--fail-on-missing"], 0),
    ],
)
def test_the_exit_status(bench: Bench, arguments: list[str], status: int) -> None:
    assert _comfyload("compare", *arguments).exit_code == status


def test_a_test_without_a_run_is_missing(bench: Bench) -> None:
    bench.repository.commit("it is gone")
    bench.keep(2.0, parameters="another")
    result = _comfyload("compare", "HEAD~1", "HEAD", "--fail-on-missing")
    assert result.exit_code == 1
    assert "missing       test_slo.py::test_it: no run at HEAD" in result.stdout


def test_labelled_runs_are_held_against_each_other(bench: Bench) -> None:
    for _ in range(10):
        bench.keep(2.0, label="before the driver")
    bench.keep(2.0, label="after")
    result = _comfyload("compare", "before the driver", "after")
    assert result.stdout.startswith("unchanged")
    assert "against label before the driver" in result.stdout


def test_an_accepted_regression_passes(bench: Bench) -> None:
    accepted = _comfyload("accept", "HEAD", "--reason", "better pictures")
    assert accepted.exit_code == 0, accepted.output
    assert "is accepted: comfyload-accepted.toml says so; commit it" in accepted.stdout
    result = _comfyload("compare", "HEAD~1", "HEAD", "--fail-on-regression")
    assert (result.exit_code, "Accepted: better pictures" in result.stdout) == (0, True)


def test_a_nightly_change_is_accepted_by_its_run(bench: Bench) -> None:
    first = sorted(bench.store.runs(), key=lambda row: row.time)[-3]
    accepted = _comfyload("accept", "--run", first.run_id, "--reason", "a new driver")
    assert accepted.exit_code == 0, accepted.output
    assert "the change since 2023-11-14T22:13:31Z is accepted: comfyload-accepted.toml says so" in accepted.stdout
    result = _comfyload("compare", "HEAD~1", "HEAD", "--fail-on-regression")
    assert (result.exit_code, "Accepted: a new driver" in result.stdout) == (0, True)


def test_one_run_is_suspected_and_fails_nothing(bench: Bench) -> None:
    bench.repository.commit("once")
    bench.keep(3.0, steps=30)
    result = _comfyload("compare", "HEAD~2", "HEAD", "--fail-on-regression")
    assert result.exit_code == 0
    assert result.stdout.startswith("suspected")


def test_parameters_across(bench: Bench) -> None:
    bench.keep(2.0, parameters="fp16")
    bench.keep(1.0, parameters="fp8")
    result = _comfyload("compare", "HEAD", "HEAD", "--across", "params")
    assert result.stdout.splitlines()[0] == "test_slo.py::test_it"
    assert "  fp8            1 s  ×0.333  n=3" in result.stdout
    data = _json("compare", "HEAD", "HEAD", "--across", "params")
    assert (data["schema"], data["across"]) == ("comfyload.compare/1", "params")
    assert [(side["what"], side["value"]) for side in data["sides"] if side["what"] == "fp8"] == [("fp8", 1.0)]


def test_halves_of_an_ab_comparison_have_no_verdict_of_their_own(bench: Bench) -> None:
    for side in ("A", "B"):
        load = load_of(
            outcome(), title=f"ab, {side}", half=ABHalf("0" * 16, "ab", side, 1), run_id=f"20260201T00000{side}"
        )
        bench.store.add(record_of(load, Provenance(commit=bench.repository.git("rev-parse", "HEAD"), branch="main")))
    (found,) = _json("compare", "HEAD~1", "HEAD")["comparisons"]
    assert found["test"] == "test_slo.py::test_it"


def test_at_eighty_columns_no_name_and_no_figure_is_broken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = _comfyload("compare", "HEAD~1", "HEAD").stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    monkeypatch.setenv("COLUMNS", "400")
    wide = _comfyload("compare", "HEAD~1", "HEAD").stdout
    assert " ".join(" ".join(lines).split()) == " ".join(wide.split())


def test_for_programs(bench: Bench) -> None:
    result = _comfyload("compare", "HEAD~1", "HEAD", "--json", "--fail-on-regression")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert {name: data[name] for name in ("schema", "base", "head", "fails", "missing", "notes")} == {
        "schema": "comfyload.compare/1", "base": "HEAD~1", "head": "HEAD", "fails": True, "missing": [], "notes": [],
    }  # fmt: skip
    (found,) = data["comparisons"]
    assert (found["test"], found["verdict"], found["after"]) == ("test_slo.py::test_it", "regressed", 3.0)
    assert found["changed"] == ["KSampler.steps 20 → 30"]
    assert len(found["runs"]) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["compare", "nowhere"], "no run is named 'nowhere'"),
        (["compare", "HEAD~1", "nowhere"], "no run is named 'nowhere'"),
        (["compare", "HEAD~1", "HEAD", "--metric", "p95"], "no metric 'p95' can be compared"),
        (["compare", "HEAD~1", "HEAD", "--min-effect", "-1"], "min_effect=-1.0: give a change above 0"),
        (
            ["compare", "HEAD~1", "HEAD", "--min-effect", "5", "--metric", "queue_time.p50"],
            "--min-effect is in percent, and queue_time.p50, which can be 0, is compared by difference",
        ),
        (["accept", "nowhere", "--reason", "a"], "'nowhere' is not a commit that git knows here"),
        (["accept", "HEAD", "--reason", " "], "--reason is empty"),
        (["accept", "--reason", "a"], "name one of: the commit, --run ID, --date DAY"),
        (["accept", "HEAD", "--date", "2026-01-31", "--reason", "a"], "name one of"),
        (["accept", "--date", "tuesday", "--reason", "a"], "--date 'tuesday' is not a date; write 2026-01-31"),
        (["accept", "--run", "x", "--reason", "a"], "no run 'x' in the store"),
    ],
)
def test_what_cannot_be_meant_is_one_line(bench: Bench, arguments: list[str], complaint: str) -> None:
    error = _comfyload(*arguments).exception
    assert isinstance(error, ComfyloadError)
    assert str(error).startswith(complaint)
    assert "\n" not in str(error)
