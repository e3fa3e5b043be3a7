"""The compiled stand-in for NVIDIA's library, and a separate process in which the real binding finds it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

__all__ = ["StubProcess", "build", "opens", "stub_process"]

P = ParamSpec("P")
T = TypeVar("T")

SONAME = "libnvidia-ml.so.1"
_SOURCE = Path(__file__).with_name("nvml.c")


def build(folder: Path, without: Sequence[str] = ()) -> Path:
    """Build the library in `folder`, as an old driver without the functions in `without`."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in for NVIDIA's library")
    flags = ["-O2", "-shared", "-fPIC", "-pthread", f"-Wl,-soname,{SONAME}"]
    if without:
        hidden = folder / "hidden.map"
        hidden.write_text(f"{{ local: {' '.join(f'{name};' for name in without)} }};")
        flags.append(f"-Wl,--version-script={hidden}")
    subprocess.run([compiler, *flags, "-o", folder / SONAME, _SOURCE], check=True, capture_output=True)
    return folder / SONAME


class StubProcess:
    """Calls functions in a process whose NVIDIA library is the stand-in, following `script`."""

    def __init__(self, pool: ProcessPoolExecutor, script: Path) -> None:
        self._pool = pool
        self._script = script

    def script(self, *lines: str) -> None:
        """Replace the script of the library; its format is described in nvml.c."""
        self._script.write_text("\n".join(lines))
        stamp = time.time_ns()
        os.utime(self._script, ns=(stamp, stamp))

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._pool.submit(function, *args, **kwargs).result(timeout=60)


@contextmanager
def stub_process(folder: Path) -> Iterator[StubProcess]:
    """Start the process with the library in `folder`."""
    script = folder / "script"
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("LD_LIBRARY_PATH"))))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", path)
        patch.setenv("NVML_STUB_SCRIPT", str(script))
        stub = StubProcess(pool, script)
        stub.script()
        stub(os.getpid)
        patch.undo()
        yield stub


def opens() -> tuple[int, int]:
    """Return the open counts of the library and of its event sets; called in the process of the stand-in."""
    library = ctypes.CDLL(SONAME)
    return library.stub_opens(), library.stub_event_sets()
