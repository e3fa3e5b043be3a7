"""Real ComfyUI processes: start them, stop them, and wait until one is ready, that is, has executed a prompt."""

from __future__ import annotations

from pytest_comfyload.launch.process import ComfyInstall, ComfyProcess
from pytest_comfyload.launch.readiness import wait_until_ready

__all__ = ["ComfyInstall", "ComfyProcess", "wait_until_ready"]
