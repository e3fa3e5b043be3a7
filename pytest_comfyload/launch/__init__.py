"""Starts and stops real ComfyUI processes, and knows when one is ready: when a prompt has really executed."""

from __future__ import annotations

from pytest_comfyload.launch.process import ComfyInstall, ComfyProcess
from pytest_comfyload.launch.readiness import wait_until_ready

__all__ = ["ComfyInstall", "ComfyProcess", "wait_until_ready"]
