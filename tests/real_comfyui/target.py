"""The target of contract tests: the simulator or a real ComfyUI, against which the same tests run."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """A server: its kind ("simulator" or "real"), its URL, and a checkpoint that it can load."""

    name: str
    url: str
    checkpoint: str
