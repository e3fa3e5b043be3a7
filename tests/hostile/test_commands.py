"""Each command on a store with every bad file at once works as it does without them, and names each file once."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.history.exports import as_json
from pytest_comfyload.history.index import FILE
from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.history.records import record
from tests.history.repository import Repository
from tests.hostile.bad_files import FUTURE, RUN_FILES, SPOOLS, good_run
from tests.plugin.suite import ALONE

PROGRAMS = Path(sys.executable).parent
SECONDS, MOST_MEMORY = 60.0, 3 << 30
ROOT_READS = {"unreadable"} if os.geteuid() == 0 else set()

LOAD = """
from pytest_comfyload import load_scenario

@load_scenario("txt2img", fetch=False, warmup=0, max_send_lag="30s")
def test_load(load):
    assert load.success_rate == 100
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with SimulatorProcess(time_scale=100) as process:
        yield process.url


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two good runs in a repository of their own."""
    repository = Repository.begin(tmp_path / "project")
    repository.commit("one")
    runs = tmp_path / "project" / ".comfyload" / "runs"
    runs.mkdir(parents=True)
    for number in (1, 2):
        (runs / f"20260131T00000{number}-0123abcd_0123456789ab_00000000.run").write_bytes(good_run(number))
    return tmp_path / "project"


def _make_bad_runs(project: Path) -> list[str]:
    """Create a run file of each bad kind and a bad index; return their names."""
    names = []
    for number, (kind, make) in enumerate(RUN_FILES.items()):
        if kind not in ROOT_READS:
            names.append(f"bad{number:03}.run")
            make(project / ".comfyload" / "runs" / names[-1])
    (project / ".comfyload" / FILE).write_bytes(b"rubbish")
    return [*names, FILE]


def _make_bad_spools(project: Path) -> list[str]:
    names = []
    (project / ".comfyload" / "spool").mkdir()
    for number, (kind, make) in enumerate(SPOOLS.items()):
        if kind not in ROOT_READS:
            names.append(f"bad{number:03}.jsonl")
            make(project / ".comfyload" / "spool" / names[-1])
    return names


def _run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))

    begun = time.monotonic()
    done = subprocess.run(
        [str(PROGRAMS / command[0]), *command[1:]],
        cwd=project,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        preexec_fn=limit,
        env={
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("COMFY", "PYTEST_", "GITHUB"))
            },
            "COLUMNS": "400",  # the test searches for whole lines
        },
    )
    assert time.monotonic() - begun < SECONDS
    assert "Traceback" not in done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr
    return done


def _named(text: str, names: list[str]) -> dict[str, int]:
    return {name: len(re.findall(rf"^.*\b{re.escape(name)}[ :].*$", text, re.MULTILINE)) for name in names}


def _quarantine(project: Path) -> list[str]:
    return sorted(path.name for path in (project / ".comfyload" / "quarantine").iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["history"],
        ["compare", "latest~1", "latest"],
        ["report"],
        ["export", "--outcomes"],
        ["export", "--format=csv"],
        ["export", "--format=pytest-benchmark"],
        ["prune", "--keep", "1", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_command_on_runs(project: Path, command: list[str]) -> None:
    alone = _run(project, "comfyload", *command)
    bad = _make_bad_runs(project)
    (project / ".comfyload" / "runs" / "later.run").write_bytes(FUTURE)
    done = _run(project, "comfyload", *command)
    assert (done.returncode, done.stdout) == (alone.returncode, alone.stdout)
    assert _named(done.stderr, [*bad, "later.run"]) == dict.fromkeys([*bad, "later.run"], 1)
    assert _quarantine(project) == sorted(bad)


def test_what_was_set_aside_is_not_named_again(project: Path) -> None:
    _make_bad_runs(project)
    assert _run(project, "comfyload", "history").stderr
    assert not _run(project, "comfyload", "history").stderr


def test_import_of_a_store_leaves_it_as_it_is(project: Path) -> None:
    bad = _make_bad_runs(project)
    done = _run(project, "comfyload", "import", ".comfyload", "--store", "other")
    assert (done.returncode, done.stdout) == (0, "2 runs are in other\n")
    assert _named(done.stderr, bad) == dict.fromkeys(bad, 1)
    assert not (project / ".comfyload" / "quarantine").exists()


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("fingerprint",), "x/../../../outside"),
        (("provenance", "commit"), "a/../../outside"),
        (("run_id",), "../outside"),
        (("time",), 1e300),
        (("figures", "prompts"), "many"),
        (("outcomes", 0, "seeds"), {"a": 10**30}),
    ],
)
def test_an_import_is_checked_whole_before_anything_is_taken(
    project: Path, keys: tuple[str | int, ...], value: object
) -> None:
    """A crafted run cannot make its file name point outside of the store."""
    content = json.loads(as_json([record(3), record(4)], outcomes=True))
    place: Any = content["runs"][1]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (project / "a.json").write_text(json.dumps(content), encoding="utf-8")
    before = sorted(project.parent.rglob("*"))
    done = _run(project, "comfyload", "import", "a.json", "--store", "inner/store")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("comfyload: a.json is damaged: ")
    assert sorted(project.parent.rglob("*")) == before


def test_accept(project: Path) -> None:
    _make_bad_runs(project)
    _make_bad_spools(project)
    assert _run(project, "comfyload", "accept", "HEAD", "--reason", "better").returncode == 0


def test_a_session_without_a_load(project: Path) -> None:
    (project / "test_it.py").write_text("def test_plain(): pass\n", encoding="utf-8")
    spools = _make_bad_spools(project)
    done = _run(project, "pytest", *ALONE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 passed" in done.stdout
    assert _named(done.stdout, spools) == dict.fromkeys(spools, 1)
    assert _quarantine(project) == sorted(spools)
    again = _run(project, "pytest", *ALONE)
    assert "comfyload ==" not in again.stdout


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["plain", "xdist"])
def test_a_session_with_a_load(project: Path, server: str, workers: list[str]) -> None:
    (project / "test_it.py").write_text(LOAD, encoding="utf-8")
    bad = [*_make_bad_spools(project), *_make_bad_runs(project)]
    done = _run(project, "pytest", *ALONE, *workers, "--comfyui-url", server)
    assert done.returncode == 0, done.stdout
    assert "1 run stored in .comfyload" in done.stdout
    assert _named(done.stdout, bad) == dict.fromkeys(bad, 1)
    assert _quarantine(project) == sorted(bad)


def test_ab(project: Path, server: str) -> None:
    bad = _make_bad_spools(project)
    sides = ("--a", "KSampler.steps=2", "--b", "KSampler.steps=3", "--pairs", "2", "--iterations", "1")
    done = _run(project, "comfyload", "ab", "txt2img", *sides, "--comfyui-url", server)
    # Too few pairs are inconclusive; on a busy machine a run may be invalid.
    assert done.returncode in (3, 2), done.stderr
    assert "4 runs stored in" in done.stderr
    assert _named(done.stderr, bad) == dict.fromkeys(bad, 1)


@pytest.mark.parametrize("where", ["ftp://127.0.0.1:1/store", "ftp://nowhere.invalid/store", "nosuch://bucket/store"])
def test_a_store_that_cannot_be_reached(project: Path, where: str) -> None:
    pytest.importorskip("fsspec")
    done = _run(project, "comfyload", "history", "--store", where)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert where in done.stderr


def test_a_session_whose_store_cannot_be_reached(project: Path, server: str) -> None:
    pytest.importorskip("fsspec")
    (project / "test_it.py").write_text(LOAD, encoding="utf-8")
    done = _run(project, "pytest", *ALONE, "--comfyui-url", server, "--comfyload-store=ftp://127.0.0.1:1/store")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("not kept")]
    assert "ftp://127.0.0.1:1/store" in line
    assert line.endswith("; the next session tries again")
    (project / "test_it.py").write_text("def test_plain(): pass\n", encoding="utf-8")
    assert "1 run stored" in _run(project, "pytest", *ALONE).stdout


# --- runs that were damaged after they were listed ---


@pytest.fixture(scope="module")
def two_sessions(tmp_path_factory: pytest.TempPathFactory, server: str) -> Path:
    """A project with one run in each of two sessions; the newer run was damaged without the index noticing."""
    repository = Repository.begin(tmp_path_factory.mktemp("sessions") / "project")
    project = repository.path
    (project / "test_it.py").write_text(LOAD, encoding="utf-8")
    repository.commit("one")
    for _ in range(2):
        assert "stored in .comfyload" in _run(project, "pytest", *ALONE, "--comfyui-url", server).stdout
    _run(project, "comfyload", "history")
    damaged = max((project / ".comfyload" / "runs").iterdir())
    damaged.write_bytes(bytes(damaged.stat().st_size))
    return project


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["comfyload", "recheck", "latest", "test_it.py::test_load", *ALONE], 0),
        (["pytest", *ALONE, "--comfyload-recheck=latest"], 0),
        (["pytest", *ALONE, "--comfyload-calibrate=latest"], 0),
        (["comfyload", "accept", "HEAD", "--reason", "better"], 0),
        (["comfyload", "compare", "latest~1", "latest"], 2),
    ],
    ids=lambda value: " ".join(value).replace(" ".join(ALONE), "") if isinstance(value, list) else "",
)
def test_a_command_on_a_run_that_was_damaged_since(
    two_sessions: Path, tmp_path: Path, command: list[str], status: int
) -> None:
    project = tmp_path / "project"
    shutil.copytree(two_sessions, project)
    damaged = max((project / ".comfyload" / "runs").iterdir()).name
    done = _run(project, *command)
    text = done.stdout + done.stderr
    assert done.returncode == status, text
    if command[1] != "accept":
        assert _named(text, [damaged]) == {damaged: 1}
        assert _quarantine(project) == [damaged]
