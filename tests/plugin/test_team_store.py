"""A store shared by a team, on actual servers: SFTP by OpenSSH, and S3 by moto."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_comfyload.launch.process import free_port
from tests.plugin.suite import Suite
from tests.sshd import await_port, new_ssh_server

WRITERS, EACH = 3, 2
# Each writer is a process of its own, as people's sessions are.
WRITER = """
import sys
from pytest_comfyload.history.store import Store
from tests.history.records import record

store = Store.open(sys.argv[1])
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    store.add(record(number))
    store.runs()
"""
READER = """
import json, sys
from pytest_comfyload.history.store import Store

store = Store.open(sys.argv[1])
print(json.dumps([[store.load(row).facts.run_id for row in store.runs()], store.skipped, store.files()]))
"""


@dataclass(frozen=True)
class Team:
    """The URL of a store, and its server, which has not been started yet."""

    url: str
    running: Callable[[], AbstractContextManager[None]]

    def run_ids(self) -> list[str]:
        """Return the ids of the runs, after checking that each run can be read."""
        command = [sys.executable, "-W", "ignore", "-c", READER, self.url]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=_ROOT)
        run_ids, skipped, files = json.loads(said.stdout)
        assert skipped == []
        assert len(files) == len(run_ids)
        return list(run_ids)


_ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sftp", "s3"])
def team(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    return {"sftp": _sftp, "s3": _s3}[request.param](tmp_path, monkeypatch)


def _sftp(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    pytest.importorskip("paramiko")
    (folder / "ssh").mkdir()
    server = new_ssh_server(folder / "ssh")
    monkeypatch.setenv("FSSPEC_SFTP_KEY_FILENAME", str(server.key))
    return Team(f"sftp://{server.user}@127.0.0.1:{server.port}{folder}/team/store", server.running)


def _s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    port = free_port()
    own = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in {**own, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)

    @contextlib.contextmanager
    def running() -> Iterator[None]:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", f"{port}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                await_port(port)
                make = "import s3fs; s3fs.S3FileSystem().mkdir('team')"
                subprocess.run([sys.executable, "-W", "ignore", "-c", make], check=True, timeout=120)
                yield
            finally:
                process.kill()

    return Team("s3://team/store", running)


def test_nothing_of_several_writers_at_once_is_lost(team: Team) -> None:
    with team.running():
        shares = [(f"{EACH * number}", f"{EACH * (number + 1)}") for number in range(WRITERS)]
        command = [sys.executable, "-W", "ignore", "-c", WRITER, team.url]
        writers = [subprocess.Popen([*command, *share], cwd=_ROOT) for share in shares]
        assert [writer.wait(120) for writer in writers] == [0] * WRITERS
        assert len(set(team.run_ids())) == WRITERS * EACH


def test_what_cannot_be_delivered_stays_here_and_is_delivered_by_the_next_session(team: Team, suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        @load_scenario("txt2img", users=1, iterations=2, fetch=False, max_send_lag="30s", warmup=0)
        def test_it(load):
            assert load.success_rate == 100
        """,
    )
    arguments = ("-W", "ignore", "--comfyload-time-scale=100", f"--comfyload-store={team.url}")
    result = suite.run(*arguments)
    result.assert_outcomes(passed=1)
    (said,) = [line for line in result.outlines if line.startswith("not kept: ")]
    assert "the next session tries again" in said
    (spool,) = (suite.folder / ".comfyload" / "spool").glob("*.jsonl")
    with team.running():
        suite.run(*arguments).assert_outcomes(passed=1)
        assert spool.stem in team.run_ids()
        assert len(team.run_ids()) == 2
    assert list((suite.folder / ".comfyload" / "spool").glob("*.jsonl")) == []
