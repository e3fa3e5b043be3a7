"""A target is a server that a contract test runs against: the same test, the simulator and the real ComfyUI."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """Which of the two it is ("simulator" or "real"), where it listens, and a checkpoint that it can load."""

    name: str
    url: str
    checkpoint: str
