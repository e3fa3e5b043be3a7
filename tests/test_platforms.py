"""What the package needs from a system: it can be imported, and runs a load, without POSIX-only features."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.launch import ComfyInstall, ComfyProcess

# The dependencies check `sys.platform` themselves, so they are imported before anything is removed.
WITHOUT_POSIX = """
import asyncio, importlib, os, pkgutil, signal, sys

def import_all():
    import pytest_comfyload
    for module in pkgutil.walk_packages(pytest_comfyload.__path__, "pytest_comfyload."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

import_all()
for name in [name for name in sys.modules if name.partition(".")[0] == "pytest_comfyload"]:
    del sys.modules[name]

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def no_handlers(*args):
    raise NotImplementedError

sys.meta_path.insert(0, Absent)
for name in MODULES:
    sys.modules.pop(name, None)
for name in "fork forkpty getegid geteuid getgid getpgid getuid killpg setsid sysconf uname wait4".split():
    delattr(os, name)
for name in "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2".split():
    delattr(signal, name)
asyncio.SelectorEventLoop.add_signal_handler = no_handlers
import_all()
"""
SUITE = """
from pytest_comfyload import load_scenario

@load_scenario("txt2img", users=2, iterations=2, max_send_lag="30s")
def test_it(load):
    assert load.success_rate == 100
"""


@pytest.mark.flaky(reruns=1)
def test_a_load_runs_without_what_only_posix_has(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE, encoding="utf-8")
    run = 'import pytest; sys.exit(pytest.main(["-p", "no:benchmark", "--comfyload-time-scale=40", "-p", "no:xdist"]))'
    command = [sys.executable, "-c", WITHOUT_POSIX + run]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_server_is_not_launched_where_its_children_cannot_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.killpg")
    process = ComfyProcess(ComfyInstall(Path(sys.executable), tmp_path / "main.py"), tmp_path, log=tmp_path / "log")
    with pytest.raises(UsageError, match="cannot be launched on Windows"):
        process.start()
