"""Failures of the machine do not affect the verdict: read-only folders, a full disk, no home, vanishing locks."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_comfyload.cli import main
from pytest_comfyload.history.record import Record
from pytest_comfyload.history.spool import read_spool, spool_folder, spool_folders
from pytest_comfyload.history.store import Store
from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.history.records import record
from tests.hostile.bad_files import spool_lines
from tests.plugin.suite import Suite

LOAD = """
@load_scenario("txt2img", users=2, iterations=3, fetch=False, warmup=0, max_send_lag="30s")
def test_load(load):
    assert load.success_rate == 100
    assert len(load.outcomes) == 6
"""
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems and changes users")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with SimulatorProcess(time_scale=100) as process:
        yield process.url


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for name in [name for name in os.environ if name.startswith(("COMFYUI_", "GITHUB_", "PYTEST_XDIST_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "400")
    return Suite(pytester)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which this test's processes create temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def mounted() -> Iterator[list[Path]]:
    """Paths that are unmounted after the test."""
    paths: list[Path] = []
    yield paths
    for path in paths:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(path: Path, options: str, mounted: list[Path]) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    mounted.append(path)


def _records(where: Path) -> list[Record]:
    store = Store.open(where)
    return [store.load(row) for row in store.runs()]


# --- a project that is not writable ---


@as_root
@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["plain", "xdist"])
def test_a_read_only_project(
    suite: Suite, server: str, temporary: Path, mounted: list[Path], tmp_path: Path, workers: list[str]
) -> None:
    project = suite.folder / "project"
    project.mkdir()
    _mount(project, "size=1m", mounted)
    (project / "pyproject.toml").write_text("[tool.pytest.ini_options]\n", encoding="utf-8")
    suite.write("project/test_it.py", LOAD)
    subprocess.run(["mount", "-o", "remount,ro", str(project)], check=True)
    arguments = ("project", "--comfyui-url", server, "-p", "no:cacheprovider", *workers)
    result = suite.run(*arguments)
    result.assert_outcomes(passed=1)
    (line,) = [line for line in result.outlines if line.startswith("not kept")]
    assert "Read-only file system" in line
    (spool,) = temporary.glob("comfyload-*-spool-*/*.jsonl")
    assert str(spool.parent) in line
    assert stat.S_IMODE(spool.parent.stat().st_mode) == 0o700
    # With a writable store, the next session moves the runs there.
    result = suite.run(*arguments, f"--comfyload-store={tmp_path}/kept")
    assert "2 runs stored" in result.stdout.str()
    assert [run.state for run in _records(tmp_path / "kept")] == ["valid", "valid"]


def test_nothing_can_be_written_anywhere(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict comes from memory, and the loss is reported."""
    (suite.folder / ".comfyload").write_text("a file", encoding="utf-8")
    suite.write("conftest.py", "import os\ndef refuse(*args, **kwargs): raise OSError(28, 'No space left on device')\n")
    with (suite.folder / "conftest.py").open("a", encoding="utf-8") as file:
        file.write("from pytest_comfyload.history import spool\nspool._temporary = refuse\n")
    suite.write("test_it.py", LOAD)
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=1)
    (line,) = [line for line in result.outlines if "could not be written" in line]
    assert "the run is complete in this session" in line


def test_a_temporary_folder_of_another_user_is_not_used(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / ".comfyload").touch()
    folder = spool_folder(tmp_path)
    assert folder.parent == temporary
    folder.chmod(0o777)
    assert spool_folders(tmp_path) == []
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert spool_folders(tmp_path) == []


# --- a full disk ---


@as_root
def test_a_disk_that_gets_full_in_the_middle_of_a_run(suite: Suite, server: str, mounted: list[Path]) -> None:
    suite.write("test_it.py", LOAD)
    (suite.folder / ".comfyload" / "spool").mkdir(parents=True)
    _mount(suite.folder / ".comfyload", "size=16k", mounted)
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=1)
    (line,) = [line for line in result.outlines if "could not be written" in line]
    assert "No space left on device" in line
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_what_did_not_fit_is_missing_from_an_incomplete_run(
    suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(
        "conftest.py",
        """
        import os
        from pytest_comfyload.history import spool

        class Full:
            def __init__(self, file):
                self.file, self.left = file, 4000

            def write(self, content):
                if len(content) > self.left:
                    raise OSError(28, "No space left on device")
                self.left -= len(content)
                return self.file.write(content)

            def close(self):
                self.file.close()

        begin = spool._begin
        spool._begin = lambda path, header: Full(begin(path, header))
        """,
    )
    suite.write("test_it.py", LOAD)
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=1)
    assert len([line for line in result.outlines if "could not be written" in line]) == 1
    (run,) = _records(suite.folder / ".comfyload")
    assert run.state == "incomplete"
    assert 0 < len(run.outcomes) < 6


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_spool_without_room_raises_nothing(tmp_path: Path, room: int) -> None:
    """This runs in a process of its own, with a limit on the size of its files."""
    code = """
import resource, sys
from pathlib import Path
from pytest_comfyload.history.spool import Spool
from tests.result.outcomes import load_of, outcome
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with Spool(Path(sys.argv[1]), "run-1", {}) as spool:
    for _ in range(5):
        spool.append(outcome())
    spool.end(load_of(*[outcome()] * 5))
print(spool.lost)
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() not in ("", "None")
    for path in tmp_path.iterdir():
        assert len(list(read_spool(path))) < 5


# --- processes that exit without a message ---

LONG = """
import os, threading

@load_scenario("txt2img", users=4, inputs={"KSampler.steps": 10000}, fetch=False, warmup=0, timeout="10h")
@pytest.mark.timeout(4, method="thread")
def test_long(load):
    pass
"""
ENDS = {
    "pytest-timeout": "",
    "SIGKILL": "threading.Timer(4, os.kill, (os.getpid(), 9)).start()",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_without_a_word(pytester: pytest.Pytester, suite: Suite, end: str) -> None:
    """Its prompts stay queued; the next session reports them, and the next load deletes them if told to."""
    with SimulatorProcess(time_scale=20) as process:
        suite.write("test_it.py", LONG + ENDS[end] + "\n")
        begun = pytester.runpytest_subprocess("-p", "no:benchmark", "--comfyui-url", process.url, timeout=60)
        assert begun.ret in (1, -9)
        assert "comfyload ==" not in begun.stdout.str()
        (suite.folder / "test_it.py").write_text("def test_plain(): pass\n", encoding="utf-8")
        (line,) = [line for line in suite.run().outlines if "was killed" in line]
        assert line.startswith("test_it.py::test_long: an earlier session was killed after 0 of 4 prompts; run ")
        assert f"may still be in the queue of {process.url}" in line
        assert "--comfyload-delete-leftovers" in line
        suite.write("test_it.py", LOAD)
        result = suite.run("--comfyui-url", process.url, "--comfyload-delete-leftovers")
    result.assert_outcomes(passed=1)
    assert f"{process.url} still held 4 prompts of earlier runs, deleted now" in result.stdout.str()
    assert "was killed" not in result.stdout.str()


# --- homes, locks, permissions ---


def test_no_home(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    suite.write("test_it.py", LOAD)
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=1)
    assert len(_records(suite.folder / ".comfyload")) == 1


_NO_HOME = "no home directory of ~nobody-here is known; set HOME or write the whole path"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--comfyload-store=~nobody-here/runs"],
        ["--comfyload-markdown=~nobody-here/summary.md"],
        ["--comfyload-html=~nobody-here/report.html"],
        ["--comfyload-object-info=~nobody-here/nodes.json"],
        ["--comfyui-url=http://127.0.0.1:9", "--comfyui-header-file=~nobody-here/headers"],
    ],
    ids=" ".join,
)
def test_a_tilde_without_a_home(suite: Suite, arguments: list[str]) -> None:
    """`~` alone behaves the same in a container whose user has no entry in the user database."""
    result = suite.run_here(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert line.endswith(_NO_HOME)


@pytest.mark.parametrize(
    ("arguments", "prefix"), [(["history", "--store"], "comfyload: "), (["simulate", "--object-info"], "")]
)
def test_a_command_s_tilde_without_a_home(
    arguments: list[str], prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["comfyload", *arguments, "~nobody-here/x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (2, f"{prefix}~nobody-here/x: {_NO_HOME}\n")


def test_locks_that_are_removed_in_the_middle_of_a_load(suite: Suite, server: str, temporary: Path) -> None:
    suite.write(
        "test_it.py",
        """
        import os, pathlib, tempfile

        @load_scenario("txt2img", fetch=False, warmup=0, max_send_lag="30s")
        def test_load(load):
            spools = pathlib.Path(".comfyload/spool")
            for lock in (*spools.glob("*.lock"), *pathlib.Path(tempfile.gettempdir()).glob("comfyload-*-locks/*.lock")):
                lock.unlink()
            assert load.success_rate == 100
        """,
    )
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=1)
    assert "1 run stored" in result.stdout.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


REMOVING = """
import pathlib, shutil, tempfile, time

@load_scenario("txt2img", users=2, iterations=3, fetch=False, warmup=0, max_send_lag="30s")
class TestLoad:
    @pytest.mark.parametrize("number", range(4))
    def test_it(self, load, number):
        shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)
        time.sleep(0.1)
        assert load.success_rate == 100
"""


@pytest.mark.parametrize("workers", [[], ["-n2", "--dist=load"]], ids=["plain", "xdist"])
def test_a_temporary_folder_that_is_removed_in_the_middle(
    suite: Suite, server: str, temporary: Path, workers: list[str]
) -> None:
    """This includes all locks, and the files through which xdist's workers communicate."""
    suite.write("test_it.py", REMOVING)
    result = suite.run("--comfyui-url", server, *workers)
    result.assert_outcomes(passed=4)
    assert len(_records(suite.folder / ".comfyload")) in (1, 2)
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["plain", "xdist"])
def test_no_temporary_folder_at_all(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write("test_it.py", LOAD)
    (suite.folder / "conftest.py").write_text(
        """
import tempfile

def refuse(*args, **kwargs):
    raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

tempfile.gettempdir = tempfile.mkdtemp = refuse
""",
        encoding="utf-8",
    )
    result = suite.run("-s", "--comfyui-url", server, *workers)
    result.assert_outcomes(passed=1)
    assert len(_records(suite.folder / ".comfyload")) == 1
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    if workers:
        assert "note: the load could not be shared with other workers (Not a directory)" in text
    else:
        (line,) = [line for line in result.outlines if "cannot be locked" in line]
        assert line.startswith(f"comfyload: {server} cannot be locked (No usable temporary directory found")
        assert line.endswith("set TMPDIR to a folder that can be written")


@as_root
def test_results_that_do_not_fit_into_the_temporary_folder(
    suite: Suite, server: str, temporary: Path, mounted: list[Path]
) -> None:
    """Each worker then runs the load separately."""
    _mount(temporary, "size=16k", mounted)
    suite.write("test_it.py", REMOVING.replace("shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)", "pass"))
    with (suite.folder / "test_it.py").open("a", encoding="utf-8") as file:
        file.write(f"try: pathlib.Path({str(temporary)!r}, 'ballast').write_bytes(bytes(1 << 16))\n")
        file.write("except OSError: pass\n")
    result = suite.run("--comfyui-url", server, "-n2", "--dist=load")
    result.assert_outcomes(passed=4)
    assert "note: the load could not be shared with other workers (No space left on device)" in result.stdout.str()
    assert len(_records(suite.folder / ".comfyload")) == 2


def test_what_is_kept_is_its_owners(suite: Suite, server: str) -> None:
    umask = os.umask(0o022)
    try:
        suite.write("test_it.py", LOAD)
        suite.run("--comfyui-url", server, "--comfyload-store", "none").assert_outcomes(passed=1)
        suite.run("--comfyui-url", server).assert_outcomes(passed=1)
    finally:
        os.umask(umask)
    found = [suite.folder / ".comfyload", *(suite.folder / ".comfyload").rglob("*")]
    modes = {path.relative_to(suite.folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in found}
    assert {mode for name, mode in modes.items() if (suite.folder / name).is_dir()} == {0o700}
    assert {mode for name, mode in modes.items() if (suite.folder / name).is_file()} == {0o600}
    assert any(name.endswith(".run") for name in modes)
    assert any(name.endswith(".jsonl") for name in modes)


@pytest.mark.parametrize(("mode", "folders", "files"), [(0o2750, 0o2750, 0o640), (0o755, 0o700, 0o600)])
def test_a_store_is_shared_where_its_folder_says_so(tmp_path: Path, mode: int, folders: int, files: int) -> None:
    """The set-group-id bit decides; the usual permissions of a new folder do not matter."""
    folder = tmp_path / "store"
    folder.mkdir()
    folder.chmod(mode)
    store = Store.open(folder)
    name = store.add(record(0))
    store.runs()
    assert stat.S_IMODE((folder / "runs").stat().st_mode) == folders
    assert stat.S_IMODE((folder / "runs" / name).stat().st_mode) == files
    assert stat.S_IMODE((folder / "index.msgpack").stat().st_mode) == files


@as_root
def test_files_of_another_user_are_named_and_stay(tmp_path: Path) -> None:
    """In a shared store these may be another user's runs; in a shared project, another user's spools."""
    tmp_path.chmod(0o777)
    store = Store.open(tmp_path / ".comfyload")
    mine, theirs = store.add(record(1)), store.add(record(2))
    spool = spool_folder(tmp_path) / "theirs.jsonl"
    spool.write_bytes(b"\n".join(spool_lines()))
    (tmp_path / ".comfyload" / "runs" / theirs).chmod(0)
    spool.chmod(0)
    for path in (tmp_path / ".comfyload", *(tmp_path / ".comfyload").iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (tmp_path / ".comfyload" / "runs" / mine).chmod(0o644)
    (tmp_path / ".comfyload" / "index.msgpack").unlink(missing_ok=True)
    code = """
import os, sys
from pathlib import Path
from pytest_comfyload.history.adoption import adoptable
from pytest_comfyload.history.store import Store
os.setuid(int(sys.argv[2]))
folder = Path(sys.argv[1]) / ".comfyload"
store = Store.open(folder)
print([row.file for row in store.runs()], store.set_aside(), adoptable(folder / "spool", "x", print))
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(NOBODY)]
    for parent in tmp_path.parents:
        if parent != Path("/tmp") and str(parent).startswith("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{[mine]} ['{theirs} cannot be read (Permission denied)'] []\n", done.stderr
    assert spool.exists()
    assert (tmp_path / ".comfyload" / "runs" / theirs).exists()


@as_root
def test_an_unreadable_file_of_this_user_is_set_aside(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = """
import os, sys
from pathlib import Path
from pytest_comfyload.history.store import Store
from tests.history.records import record
os.setuid(int(sys.argv[2]))
store = Store.open(sys.argv[1])
name = store.add(record(1))
(Path(sys.argv[1]) / "runs" / name).chmod(0)
print(store.runs(), len(store.set_aside()), os.listdir(Path(sys.argv[1]) / "quarantine") == [name])
"""
    for parent in tmp_path.parents:
        if parent != Path("/tmp") and str(parent).startswith("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    command = [sys.executable, "-c", code, str(tmp_path / "store"), str(NOBODY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert done.stdout == "[] 1 True\n", done.stderr


# --- process limits, clocks, terminals ---


@pytest.mark.parametrize("begin", [-86_400, 32_503_680_000])
def test_a_clock_before_1970_or_in_the_year_3000(suite: Suite, server: str, begin: int) -> None:
    (suite.folder / "conftest.py").write_text(
        f"import time\nnow = time.time\nbegun = now()\ntime.time = lambda: {begin} + now() - begun\n", encoding="utf-8"
    )
    suite.write("test_it.py", LOAD)
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=1)
    note = "note: this machine's clock is before 1970 or after 2286, so that the run cannot be kept; set the clock"
    assert any(line.lstrip().startswith(note) for line in result.outlines)
    assert len([line for line in result.outlines if line.startswith("not kept")]) == 1
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("started", [0, 1], ids=["none", "one"])
def test_threads_that_cannot_be_started(suite: Suite, server: str, started: int) -> None:
    """Without a thread of its own, a load cannot run; without one for decoding, it decodes images in its own."""
    (suite.folder / "conftest.py").write_text(
        f"""
import threading

left, start = [None] * {started}, threading.Thread.start

def start_some(self):
    if not left:
        raise RuntimeError("can't start new thread")
    left.pop()
    start(self)

def pytest_runtest_setup():
    threading.Thread.start = start_some
""",
        encoding="utf-8",
    )
    suite.write("test_it.py", LOAD.replace("fetch=False, ", ""))
    result = suite.run("--comfyui-url", server)
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    if started:
        result.assert_outcomes(passed=1)
    else:
        result.assert_outcomes(errors=1)
        assert "no more threads can be started on this machine; raise the limit (`ulimit -u`)" in result.stdout.str()


def test_more_users_than_files_may_be_opened(suite: Suite, server: str) -> None:
    suite.write("test_it.py", LOAD.replace("users=2, iterations=3", "users=200"))
    with (suite.folder / "conftest.py").open("a", encoding="utf-8") as file:
        file.write("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n")
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(errors=1)
    (line,) = [line for line in result.outlines if "too many open files" in line and not line.startswith("ERROR")]
    assert line.startswith(f"{server}: cannot connect: too many open files")
    assert "(`ulimit -n`)" in line


def _comfyload(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'comfyload'; from pytest_comfyload.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, timeout=60, check=False
    )


def test_a_terminal_without_unicode(suite: Suite, server: str) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "1"}
    Store.open(suite.folder / ".comfyload").add(record(0))
    done = _comfyload("history", cwd=suite.folder, **plain)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


def test_a_current_folder_that_was_deleted(tmp_path: Path) -> None:
    code = """
import os, sys
from pytest_comfyload.cli import main
os.rmdir(os.getcwd())
sys.argv = ["comfyload", "history"]
main()
"""
    folder = tmp_path / "gone"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=60)
    message = "comfyload: the current folder has been deleted; change to one that exists\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


# --- bugs of ours ---


def test_a_fault_at_the_end_of_a_session_is_a_line(suite: Suite, server: str) -> None:
    suite.write(
        "conftest.py",
        """
        from pytest_comfyload.history import adoption
        from pytest_comfyload.plugin.ci_output import CiOutput
        from pytest_comfyload.plugin.session import LoadSession
        from pytest_comfyload.plugin.archive import SummaryCollector
        from pytest_comfyload.report import terminal

        def fail(*args, **kwargs):
            raise ZeroDivisionError("a fault of ours")

        adoption.adopt_all = CiOutput._written = SummaryCollector._mirror = fail
        terminal.summary_lines = LoadSession.close = fail
        """,
    )
    suite.write("test_it.py", LOAD)
    result = suite.run("--comfyui-url", server)
    assert result.ret == 0
    text = f"{result.stdout}\n{result.stderr}"
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if "ZeroDivisionError: a fault of ours" in line]
    assert all(line.startswith("warning: ") and "-p no:comfyload" in line for line in lines)
    # The warning of _mirror would be part of the summary.
    assert len(lines) == 4


def test_a_fault_of_ours_takes_no_exit_status_from_failing_tests(suite: Suite, server: str) -> None:
    suite.write(
        "conftest.py",
        """
        from pytest_comfyload.history import adoption

        def fail(*args, **kwargs):
            raise ZeroDivisionError("a fault of ours")

        adoption.adopt_all = fail
        """,
    )
    suite.write("test_it.py", LOAD.replace("== 100", "< 50"))
    assert suite.run("--comfyui-url", server).ret == 1
