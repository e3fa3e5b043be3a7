"""Text from servers, commits and stored runs cannot control a terminal, command a CI service, or disguise anything.

A run in which every text is hostile is shown by every command, and a suite uses a server that answers with such texts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from pytest_comfyload.history.record_file import decode
from tests.history.records import golden
from tests.history.repository import Repository
from tests.hostile.bad_files import packed
from tests.hostile.echo_server import GRAPH, echo_server
from tests.plugin.suite import ALONE

PROGRAMS = Path(sys.executable).parent
COMMANDS = "\n::set-output name=a::b\n##vso[task.setvariable variable=x]y ##[error]no ##teamcity[buildStop]"
CONTROLS = "\x1b]0;title\x07\x1b[31mred\x1b[0m \u202ebidi\u2066 \x9b2J \x7f"
HOSTILE = f"<b onload=alert(1)>&'\"|`{CONTROLS}{COMMANDS}\r"
# Names of files and branches cannot contain all of them.
NAME = "h\x1b[31m\u202e##[x]"

# Fields that the format itself checks or uses as keys.
_CHECKED = {
    "run_id", "prompt_id", "fingerprint", "commit", "parents", "merge_base", "head", "state", "status", "media_type",
    "why", "cache_class", "verdict", "op", "executors", "balance", "gate", "gates", "url", "server", "client_id",
    "metric", "unit", "written_bound",
}  # fmt: skip


def hostile_run(number: int, commit: str) -> bytes:
    """Return a run file in which every text is hostile."""
    plain: Any = msgspec.msgpack.decode(msgspec.msgpack.encode(golden()))
    made = _hostile(plain)
    made["run_id"] = made["facts"]["run_id"] = made["figures"]["run_id"] = f"20260131T00000{number}-0123abcd"
    made["provenance"]["commit"], made["time"] = commit, 1.7e9 + number
    content = packed(made)
    decode(content)
    return content


def _hostile(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        renamed = name in ("node_time", "subject", "seeds", "inputs", "nodes", "executions")
        return {HOSTILE + key if renamed else key: _hostile(each, key) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hostile(each, name if isinstance(each, str) else "") for each in value]
    return HOSTILE + value if isinstance(value, str) and name not in _CHECKED else value


def _faults(text: str, longest: int = 6000) -> list[str]:
    """Return what a terminal or a CI service would interpret."""
    found = [f"{each!r} in {_around(text, at)}" for at, each in enumerate(text) if not _is_plain(each)]
    commands = re.finditer(r"^\s*::(?!error file=)[^\n]*|##(?:vso|teamcity)?\[", text, re.MULTILINE | re.IGNORECASE)
    found += [f"{each[0]!r} in {_around(text, each.start())}" for each in commands]
    return found + [f"a line of {len(line)}" for line in text.split("\n") if len(line) > longest]


def _is_plain(character: str) -> bool:
    return character.isprintable() or character in "\n\u200b"


def _around(text: str, at: int) -> str:
    return repr(text[max(0, at - 40) : at + 40])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    repository = Repository.begin(tmp_path / "project")
    commit = repository.commit(HOSTILE.replace("\n", " ") + "A" * 10_000)
    repository.git("checkout", "-q", "-b", "b\u202e-##vso-$(id)")
    runs = tmp_path / "project" / ".comfyload" / "runs"
    runs.mkdir(parents=True)
    for number in (1, 2, 3):
        name = f"20260131T00000{number}-0123abcd_{commit[:12]}_00000000.run"
        (runs / name).write_bytes(hostile_run(number, commit))
    return tmp_path / "project"


def _run(project: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("COMFY", "PYTEST_", "GITHUB"))
    }
    done = subprocess.run(
        [str(PROGRAMS / command[0]), *command[1:]],
        cwd=project,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env={**inherited, **environ},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    "command",
    ["history", "history --json", "compare HEAD latest", "export", "export --outcomes", "export --format=csv",
     "export --format=pytest-benchmark"],
)  # fmt: skip
def test_commands(project: Path, command: str) -> None:
    done = _run(project, "comfyload", *command.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert _faults(done.stdout, 10**6 if "export" in command else 6000) == []
    assert _faults(done.stderr) == []


def test_an_export_still_says_the_same(project: Path) -> None:
    exported = json.loads(_run(project, "comfyload", "export", "--outcomes").stdout)
    assert exported["runs"][0]["facts"]["notes"] == [f"{HOSTILE}a note"]


def test_report(project: Path) -> None:
    pytest.importorskip("jinja2")
    assert _run(project, "comfyload", "report").returncode == 0
    pages = [path for path in (project / ".comfyload" / "report").rglob("*") if path.suffix in (".html", ".json")]
    assert len(pages) > 1
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<b onload" not in text
        assert re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text) == []


SUITE = f"""
from pytest_comfyload import load_scenario

@load_scenario({f"{NAME}.json"!r}, iterations=4, warmup=0, max_send_lag="60s", timeout="5s", id={HOSTILE!r})
def test_slo(load):
    assert load.throughput > 1e9

@load_scenario({f"{NAME}.json"!r}, iterations=1, warmup=0, max_send_lag="60s")
def test_nodes(load):
    assert load.success_rate == 200

def test_submit(run_load):
    run_load({f"{NAME}-missing.json"!r})
"""


def test_a_session(project: Path) -> None:
    """Its server includes hostile texts in each of its responses."""
    pytest.importorskip("jinja2")
    (project / f"{NAME}.json").write_text(json.dumps(GRAPH), encoding="utf-8")
    (project / "test_it.py").write_text(SUITE, encoding="utf-8")
    written = ("--junitxml=junit.xml", "--comfyload-html=report.html", "--comfyload-markdown=summary.md")
    logged = ("--log-file=log.txt", "--log-file-level=DEBUG", "--tb=short", "--comfyload-annotations=on")
    with echo_server(HOSTILE) as server:
        url = f"--comfyui-url={server}/ok"
        done = _run(project, "pytest", *ALONE, *written, *logged, url, GITHUB_STEP_SUMMARY=str(project / "step.md"))
    assert done.returncode == 1, done.stdout
    assert "::error file=" in done.stdout
    assert _faults(done.stdout) == []
    for name in ("summary.md", "step.md", "log.txt"):
        text = (project / name).read_text(encoding="utf-8")
        assert len(text) > 500
        assert (name, _faults(text)) == (name, [])
    junit = ElementTree.parse(project / "junit.xml")
    ours = [each.get("value", "") for each in junit.iter("property")]
    assert len(ours) > 5
    assert [fault for text in ours for fault in _faults(text)] == []
    assert "<b onload" not in (project / "report.html").read_text(encoding="utf-8")
