"""No credential is printed or written, in any form, wherever a server repeats it.

One project has every kind of credential; its servers send all of them back in all forms. Every byte that pytest and the
commands print, and every file below the project, its home and its temporary folder, is searched afterwards.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.history.repository import Repository
from tests.hostile.echo_server import GRAPH, REFUSALS, echo_server
from tests.plugin.suite import ALONE

PROGRAMS = Path(sys.executable).parent
SECONDS = 90.0

# Each contains letters that occur nowhere else and that all encodings except Base64 leave unchanged.
SECRETS = {
    name: f"Zq{number}{letters}/+ &\"'<{letters[::-1]}"
    for number, (name, letters) in enumerate({
        "password": "Wvpassw", "bearer": "Wvbearr", "user token": "Wvusrtk", "query": "Wvquery", "cookie": "Wvcooki",
        "header": "Wvheadr", "extra data": "Wvextra", "paid key": "Wvpaidk", "input": "Wvinput", "option": "Wvoptio",
        "metrics": "Wvmetri", "file": "Wvfilek", "store": "Wvstore",
    }.items())
}  # fmt: skip

SUITE = """
import logging
import os

import pytest
from pytest_comfyload import load_scenario

MODES = {refusals!r}
SERVER = os.environ["ECHO"]
EXTRA = {{"style": {{"token": os.environ["EXTRA_DATA"]}}}}
INPUTS = {{"PaidNode.api_key": os.environ["AN_INPUT"]}}
QUICK = dict(iterations=8, warmup=0, max_send_lag="60s", timeout="5s", extra_data=EXTRA, inputs=INPUTS)


@load_scenario("workflow.json", servers=[SERVER + "/ok"], **QUICK)
class TestEnds:
    def test_all(self, load):
        errors, outcomes = [each.error for each in load.outcomes], load.outcomes
        print(errors, outcomes)
        for error in errors:
            logging.getLogger("mine").warning("%s", error)
        assert load.facts is None, f"{{load.facts}} {{load.outcomes}}"

    def test_slo(self, load):
        texts = [each.texts for each in load.outcomes]
        assert load.throughput > 1e9, texts

    def test_nodes(self, load, record_property):
        record_property("nodes", list(load.to_dict()["node_time"]))
        assert load.node_time["nothing"].p50 < 1


@pytest.mark.parametrize("mode", MODES)
def test_refusal(run_load, mode):
    run_load("workflow.json", servers=[f"{{SERVER}}/{{mode}}"], **QUICK)


def test_stats(comfyui):
    stats = comfyui.system_stats()
    print(stats)
    logging.getLogger("mine").error("%r", stats)
    assert not stats


def test_submit(comfyui):
    outcome = comfyui.submit("workflow.json", inputs=INPUTS, extra_data=EXTRA, servers=[SERVER + "/ok"])
    assert outcome is None


def test_gpu(gpu):
    with gpu.sampling() as usage:
        pass
    assert not usage.sources
"""


class Project:
    """A repository with a suite, in which all programs leave their files."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder / "project"
        self.printed: dict[str, bytes] = {}
        repository = Repository.begin(self.folder)
        (self.folder / "workflow.json").write_text(json.dumps(GRAPH), encoding="utf-8")
        (self.folder / "test_it.py").write_text(SUITE.format(refusals=REFUSALS), encoding="utf-8")
        (self.folder / "pytest.ini").write_text("[pytest]\nlog_level = DEBUG\n", encoding="utf-8")
        repository.commit(f"one with {SECRETS['password']}")
        given = folder / "given"
        for path in (folder / "home", folder / "tmp", given):
            path.mkdir()
        (given / "all").write_text(f"X-Note: {SECRETS['file']}\n", encoding="utf-8")
        (given / "one").write_text(f"Authorization: Bearer {SECRETS['bearer']}\n", encoding="utf-8")
        host = server.removeprefix("http://")
        self.pair = f"me:{quote(SECRETS['password'], safe='')}@"
        self.url = f"http://{self.pair}{host}/ok?token={quote(SECRETS['query'], safe='')}"
        refusing = [
            f"http://{quote(SECRETS['user token'], safe='')}@{host}/{mode}" for mode in REFUSALS if mode != "error"
        ]
        metrics = f"http://{self.pair}{host}/ok/metrics?sig={quote(SECRETS['metrics'], safe='')}"
        self.gpu = f"{server}/ok=metrics:{metrics}"
        self.options = [
            *(f"--comfyui-url={url}" for url in (self.url, *refusing, f"{server}/error")),
            f"--comfyui-header-file={given / 'all'}",
            f"--comfyui-header-file={server}/error={given / 'one'}",
            f"--comfyload-gpu={self.gpu}",
        ]
        inherited = ("COMFY", "PYTEST_", "GITHUB", "CI")
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(inherited)},
            "ECHO": server,
            "EXTRA_DATA": SECRETS["extra data"],
            "AN_INPUT": SECRETS["input"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "GITHUB_STEP_SUMMARY": str(folder / "project" / "step.md"),
            "COMFYUI_URL": self.url,
            "COMFYUI_API_KEY_COMFY_ORG": SECRETS["paid key"],
            "COMFYUI_HEADERS": f"X-Api-Key: {SECRETS['header']}\nCookie: session={quote(SECRETS['cookie'])}; a=b",
        }

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [str(PROGRAMS / command[0]), *command[1:]],
            cwd=self.folder,
            capture_output=True,
            timeout=SECONDS,
            env={**self.environ, **environ},
        )
        self.printed[" ".join(command[:3])] = done.stdout + done.stderr
        assert b"Traceback" not in done.stderr
        assert b"INTERNALERROR" not in done.stdout + done.stderr
        return done

    def leaks(self) -> list[str]:
        """Return what was found: where, which secret, and the text around it."""
        contents = [*self.printed.items(), *self._files()]
        assert sum(len(content) for _, content in contents) > 100_000
        return [leak for name, content in contents for leak in _leaks(name, content)]

    def _files(self) -> Iterator[tuple[str, bytes]]:
        # The .git folder and the inputs of pytest contain secrets that pytest-comfyload did not write.
        given = {".git", "given", "file", "pytest.ini"}
        for path in self.folder.parent.rglob("*"):
            if path.is_file() and given.isdisjoint(path.parts):
                content = path.read_bytes()
                yield str(path.relative_to(self.folder.parent)), content
                if content[:2] == b"\x1f\x8b":
                    yield f"{path.name}, unpacked", gzip.decompress(content)


def _needles() -> Iterable[tuple[str, bytes]]:
    """Yield parts of each secret, in lower case, that occur in all its forms: as text, and in Base64 at any offset."""
    for name, secret in SECRETS.items():
        letters = re.findall("[a-zA-Z0-9]{6,}", secret)
        yield from ((name, each.lower().encode()) for each in letters)
        for before in range(3):
            coded = base64.b64encode(b"x" * before + secret.encode()).decode()
            yield from ((name, each.lower().encode()) for each in re.findall("[a-zA-Z0-9]{8,}", coded[4:-4]))


NEEDLES = tuple(dict.fromkeys(_needles()))


def _leaks(where: str, content: bytes) -> Iterator[str]:
    lower = content.lower()
    for name, needle in NEEDLES:
        if (at := lower.find(needle)) >= 0:
            yield f"{where}: {name}: {content[max(0, at - 60) : at + 40]!r}"
            break


@pytest.fixture
def server() -> Iterator[str]:
    with echo_server() as url:
        yield url


@pytest.fixture
def project(tmp_path: Path, server: str) -> Project:
    return Project(tmp_path, server)


def test_a_session_and_the_commands_after_it(project: Project) -> None:
    pytest.importorskip("jinja2")
    files = ("junit.xml", "report.html", "summary.md", "log.txt", "step.md")
    written = ("--junitxml=junit.xml", "--comfyload-html=report.html", "--comfyload-markdown=summary.md")
    logged = ("--log-file=log.txt", "-o", "log_cli=true", "-o", "log_file_level=DEBUG")
    loud = ("-vv", "-rA", "-l", "--tb=long", "--comfyload-annotations=on")
    done = project.run("pytest", *ALONE, *loud, *logged, *written, *project.options)
    assert done.returncode == 1, done.stdout.decode()
    assert b"passed" not in done.stdout.splitlines()[-1]
    assert [name for name in files if (project.folder / name).stat().st_size < 500] == []
    statuses = {command[0]: project.run("comfyload", *command).returncode for command in _commands(project)}
    assert statuses == dict.fromkeys(statuses, 0) | {"ab": 2, "wait": 2, "recheck": 1}
    assert project.leaks() == []


def _commands(project: Project) -> Iterator[list[str]]:
    """Yield a command of each kind that reads runs or contacts a server."""
    yield ["history"]
    yield ["compare", "HEAD", "latest"]
    yield ["export", "--outcomes", "--output=runs.json"]
    yield ["report"]
    yield ["import", "runs.json", "--store=other"]
    yield ["prune", "--keep=1"]
    yield ["recheck", "latest"]
    yield ["wait", project.url]
    yield ["record-nodes", project.url.replace("/ok", "/nodes")]
    yield ["ab", "workflow.json", "--a=PaidNode.api_key=x", "--b=PaidNode.api_key=y", "--comfyui-url", project.url,
           "--pairs=2", "--iterations=1", "--json"]  # fmt: skip


def test_workers_and_settings_of_the_ini_file(project: Project) -> None:
    """This session has other kinds of credentials: a token, an input given as an option, a store with a password."""
    ini = f"[pytest]\ncomfyui_url = {project.url}\ncomfyload_gpu = {project.gpu}\n"
    (project.folder / "pytest.ini").write_text(ini, encoding="utf-8")
    option = f"--comfyui-input=PaidNode.api_key={SECRETS['option']}"
    chosen = ("-n2", "-l", "-k", "Ends or stats or submit or gpu", "--junitxml=junit.xml", option)
    environ = {"COMFYUI_HEADERS": f"Authorization: Bearer {SECRETS['bearer']}", "COMFYUI_URL": ""}
    done = project.run("pytest", *ALONE, *chosen, **environ)
    assert done.returncode == 1, done.stdout.decode()
    assert b"6 failed" in done.stdout
    store = f"ftp://me:{quote(SECRETS['store'], safe='')}@127.0.0.1:1/store?token={quote(SECRETS['store'], safe='')}"
    assert project.run("comfyload", "history", "--store", store).returncode == 2
    assert project.leaks() == []
