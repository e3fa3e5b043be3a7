"""Load results in pytest-benchmark's own session: saved, compared, gated, with and without workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.suite import Suite

pytest.importorskip("pytest_benchmark")

LOAD = """
@load_scenario("txt2img", users=2, iterations=2, fetch=False, max_send_lag="30s", id="portrait")
def test_it(load):
    assert load.success_rate == 100
"""
ENTRIES = ["generation_time", "generation_time.p95", "total_time", "total_time.p95"]


@dataclass
class Mirrored:
    """A suite that runs with pytest-benchmark on the shared simulator."""

    suite: Suite
    always: list[str]

    @property
    def folder(self) -> Path:
        return self.suite.folder

    def run(self, *arguments: str) -> pytest.RunResult:
        others = ("anyio", "hypothesispytest", "timeout")
        alone = [word for name in others for word in ("-p", f"no:{name}")]
        return self.suite.pytester.runpytest_subprocess(*alone, *self.always, *arguments, timeout=60)

    def saved(self) -> list[dict[str, Any]]:
        (path,) = self.folder.glob(".benchmarks/*/*.json")
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return entries


@pytest.fixture
def loaded(suite: Suite, server: str, workers: list[str]) -> Mirrored:
    suite.write("test_it.py", LOAD)
    return Mirrored(suite, ["--comfyui-url", server, *workers])


def test_autosave_then_compare_shows_load_results(loaded: Mirrored) -> None:
    loaded.run("--benchmark-autosave").assert_outcomes(passed=1)
    saved = loaded.saved()
    assert [each["fullname"].rpartition("::")[2] for each in saved] == ENTRIES
    generation = saved[0]["stats"]
    assert generation["rounds"] == 4
    assert generation["min"] > 0
    assert saved[0]["extra_info"]["comfyload.state"] == "valid"
    shown = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare"], cwd=loaded.folder, capture_output=True, text=True
    )
    assert "::generation_time" in shown.stdout
    assert shown.returncode == 0


def test_json_holds_every_sample(loaded: Mirrored) -> None:
    loaded.run("--benchmark-json=it.json").assert_outcomes(passed=1)
    content = json.loads((loaded.folder / "it.json").read_text(encoding="utf-8"))
    assert len(content["benchmarks"][0]["stats"]["data"]) == 4


def test_a_gate_of_its_own_stops_a_slowdown(loaded: Mirrored) -> None:
    loaded.run("--benchmark-autosave").assert_outcomes(passed=1)
    (path,) = loaded.folder.glob(".benchmarks/*/*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    for each in content["benchmarks"]:
        each["stats"] = {name: _halved(value) for name, value in each["stats"].items()}
    path.write_text(json.dumps(content), encoding="utf-8")
    result = loaded.run("--benchmark-compare", "--benchmark-compare-fail=median:10%")
    assert result.ret != 0
    assert "Performance has regressed" in result.stdout.str() + result.stderr.str()
    assert loaded.run("--benchmark-compare", "--benchmark-compare-fail=median:300%").ret == 0


def test_what_has_no_saved_partner_is_named(loaded: Mirrored) -> None:
    loaded.run("--benchmark-autosave").assert_outcomes(passed=1)
    loaded.suite.write("test_it.py", LOAD.replace("portrait", "landscape"))
    loaded.run("--benchmark-compare").stdout.fnmatch_lines(
        ["*--benchmark-compare has nothing saved to compare with landscape (SIMULATED)::generation_time"]
    )


def test_a_single_value_is_kept_out_where_spreads_are_judged(loaded: Mirrored) -> None:
    loaded.run("--benchmark-autosave").assert_outcomes(passed=1)
    loaded.run("--benchmark-compare", "--benchmark-compare-fail=stddev:100000%", "--benchmark-json=it.json")
    content = json.loads((loaded.folder / "it.json").read_text(encoding="utf-8"))
    assert [each["fullname"].rpartition("::")[2] for each in content["benchmarks"]] == ["generation_time", "total_time"]


def test_a_simulation_has_a_name_of_its_own(loaded: Mirrored) -> None:
    loaded.run("--benchmark-autosave")
    assert {each["fullname"].rpartition("::")[0] for each in loaded.saved()} == {"portrait (SIMULATED)"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--benchmark-autosave", "--comfyload-benchmark-mirror=off"],
        ["--benchmark-autosave", "--benchmark-disable"],
        ["-p", "no:benchmark"],
    ],
)
def test_unasked_nothing_is_mirrored(loaded: Mirrored, arguments: list[str]) -> None:
    result = loaded.run(*arguments)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*::generation_time*")
    assert not list(loaded.folder.glob(".benchmarks/*/*.json"))


def test_on_shows_the_table_without_saving(loaded: Mirrored) -> None:
    loaded.run("--comfyload-benchmark-mirror=on").stdout.fnmatch_lines(["*portrait (SIMULATED)::generation_time*"])


def test_an_invalid_run_is_not_mirrored(loaded: Mirrored) -> None:
    loaded.suite.write(
        "test_it.py", LOAD.replace("id=", 'inputs={"KSampler.seed": 7}, prompts=["one"], vary_text=False, id=')
    )
    loaded.run("--benchmark-json=it.json").assert_outcomes(errors=1)
    assert not (loaded.folder / "it.json").exists()


# The first release of each supported series; the newest series is the one installed.
@pytest.mark.parametrize(
    "version",
    [
        "4.0.0",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("5.0.1", "5.1.0", "5.2.3")),
    ],
)
def test_the_contract_with_other_versions(
    loaded: Mirrored, version: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin relies on pytest-benchmark's internals; they are checked here, version by version."""
    folder = tmp_path_factory.mktemp(f"benchmark-{version}")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    installed = subprocess.run([*command, f"pytest-benchmark=={version}"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"pip cannot fetch pytest-benchmark {version}: {installed.stderr.strip().splitlines()[-1]}")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    loaded.run("--benchmark-autosave").stdout.fnmatch_lines([f"*benchmark: {version} *"])
    assert [each["fullname"].rpartition("::")[2] for each in loaded.saved()] == ENTRIES
    compared = loaded.run("--benchmark-compare").stdout
    compared.fnmatch_lines_random(["portrait (SIMULATED)::generation_time (0001*", "*::generation_time (NOW)*"])


def test_another_mode_is_refused(suite: Suite) -> None:
    result = suite.run("--comfyload-benchmark-mirror=yes")
    result.stderr.fnmatch_lines(["*--comfyload-benchmark-mirror 'yes': legal: auto, on, off"])


def _halved(value: Any) -> Any:
    return value / 2 if isinstance(value, float) else value
