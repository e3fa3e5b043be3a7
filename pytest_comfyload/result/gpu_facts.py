"""What a GPU is, as its driver tells before a load: what does not change while the load runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GpuFacts"]


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """`server` and `gpu` as in its samples, `gpu` its UUID where it has one; None is what the source does not tell.

    memory: bytes. driver: the whole version, `550.54.15`. cuda: the newest version that this driver serves, `12.4`.
    power_limit: W. mig: whether the card is cut into slices.
    """

    server: str
    gpu: str
    name: str = ""
    memory: float | None = None
    driver: str | None = None
    cuda: str | None = None
    power_limit: float | None = None
    mig: bool | None = None
