"""Simulator in a separate process, which never outlives the process that started it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_comfyload.errors import GeneratorError
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.simulator.settings import Calibration, SimulatorSettings

__all__ = ["SimulatorProcess"]

_PACKAGE_ROOT = Path(__file__).parents[2]
_STOP_SECONDS = 5.0


class SimulatorProcess:
    """A running simulator at `url`; use it as a context manager, or call `stop`.

    The keyword arguments are those of `SimulatorSettings`.

    Raises:
        UsageError: An argument is invalid.
        GeneratorError: The child is not ready within `timeout` seconds.
    """

    def __init__(self, *, timeout: float = 30.0, **settings: Any) -> None:
        made = SimulatorSettings(**settings)
        self._child: subprocess.Popen[str] = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pytest_comfyload.simulator",
                "--port",
                "0",
                "--exit-with-parent",
                "--calibration-on-stdin",
                *_flags(made),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(_import_path())},
        )
        self._tell(Calibration(made.node_times, made.measured, made.gaps))
        self.url = self._announced_url(timeout)

    @property
    def pid(self) -> int:
        return self._child.pid

    def stop(self) -> None:
        """Terminate the child, and kill it if it does not exit; a no-op if it has exited."""
        self._child.terminate()
        try:
            self._child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> SimulatorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _tell(self, calibration: Calibration) -> None:
        """Send the child what is too long for a command line."""
        assert self._child.stdin
        with contextlib.suppress(BrokenPipeError):  # a child that has exited says why on its stderr
            self._child.stdin.write(calibration.to_json() + "\n")
            self._child.stdin.flush()

    def _announced_url(self, timeout: float) -> str:
        """Return the last word of the line that the child prints once it is listening. Raises: GeneratorError."""
        assert self._child.stdout
        watchdog = threading.Timer(timeout, self._child.kill)
        watchdog.start()
        line = self._child.stdout.readline()
        watchdog.cancel()
        if not line:
            self.stop()
            raise GeneratorError(
                f"the simulator did not start within {format_value(timeout, 's')}; its stderr says why"
            )
        return str(line.split()[-1])


def _flags(settings: SimulatorSettings) -> list[str]:
    flags = {
        "--gpu": settings.gpu,
        "--devices": settings.devices,
        "--time-scale": settings.time_scale,
        "--seed": settings.seed,
        "--preview-method": settings.preview_method,
        "--keep-pictures": settings.keep_pictures,
        "--comfyui-version": settings.comfyui_version,
        "--cache": settings.cache,
        "--ram": settings.ram,
        "--object-info": settings.object_info,
    }
    switches = {
        "--probe-nodes": settings.probe_nodes,
        "--no-stock-models": not settings.stock_models,
        "--strict": settings.strict,
    }
    return [
        *(f"{flag}={value}" for flag, value in flags.items()),
        *(flag for flag, on in switches.items() if on),
        *(f"--fault={name}" if value is True else f"--fault={name}={value}" for name, value in settings.faults.items()),
        *(f"--model={folder}/{file}" for folder, files in settings.models.items() for file in files),
        *(f"--custom-node={name}@{commit}" for name, commit in settings.custom_nodes.items()),
    ]


def _import_path() -> list[str]:
    """Return the import path on which the child finds this package, regardless of its working directory."""
    return [str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
