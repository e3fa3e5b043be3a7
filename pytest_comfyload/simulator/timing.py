"""Duration of each kind of work on each GPU, in seconds without noise; sizes are in pixels of the picture."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from pytest_comfyload.simulator.gpu_model import Board
from pytest_comfyload.simulator.vram import Family

__all__ = ["GPUS", "Gpu", "noise"]

_MEGAPIXEL = 1024 * 1024
_MIB = 1024**2
_GIB = 1024**3
_DISK_BYTES_PER_SECOND = 2.0e9
_PNG_SECONDS_PER_MEGAPIXEL = 0.15
_RESIZE_SECONDS_PER_MEGAPIXEL = 0.02
_CONTROLNET_SHARE = 0.35
_LAUNCH_SECONDS = 0.01
_NOISE_SIGMA = 0.025


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU model; `vram` is the memory on the card in bytes.

    `step` is the time of one SDXL sampling step on one megapixel, `pixels` that of decoding one megapixel with the VAE,
    and `text` that of encoding a text for SDXL, all in seconds.
    """

    title: str
    vram: int
    board: Board
    step: float
    pixels: float
    text: float
    bus_bytes_per_second: float

    @property
    def usable(self) -> int:
        """Bytes of VRAM available to programs, which is all that torch knows of."""
        return self.vram - self.board.reserved

    def overheating(self) -> Gpu:
        """Return this GPU with failed cooling: at half its clock, so that all computation takes twice as long."""
        board = self.board.overheating()
        return replace(self, board=board, step=2 * self.step, pixels=2 * self.pixels, text=2 * self.text)

    def sampling_step(self, family: Family, pixels: int, batch: int, controlnets: int = 0) -> float:
        """Return the seconds of one step of the sampler for the whole batch."""
        computing = self.step * pixels / _MEGAPIXEL * batch * family.sampling
        return _LAUNCH_SECONDS + computing * (1 + _CONTROLNET_SHARE * controlnets)

    def decode(self, pixels: int, batch: int) -> float:
        """Return the seconds of decoding latents to pictures; encoding takes the same time."""
        return self.pixels * pixels / _MEGAPIXEL * batch

    def encode_text(self, family: Family) -> float:
        return _LAUNCH_SECONDS + self.text * family.sampling

    def upscale(self, pixels: int, batch: int) -> float:
        """Return the seconds of a 4× upscale model on pictures of `pixels` pixels."""
        return 4 * self.pixels * pixels / _MEGAPIXEL * batch

    def load(self, size: int) -> float:
        """Return the seconds of copying weights from memory onto the GPU."""
        return size / self.bus_bytes_per_second

    @staticmethod
    def read(size: int) -> float:
        """Return the seconds of reading a model file from disk into memory."""
        return size / _DISK_BYTES_PER_SECOND

    @staticmethod
    def write_png(pixels: int, batch: int) -> float:
        """Return the seconds of compressing and writing pictures, which the CPU does."""
        return _PNG_SECONDS_PER_MEGAPIXEL * pixels / _MEGAPIXEL * batch

    @staticmethod
    def resize(pixels: int, batch: int) -> float:
        return _RESIZE_SECONDS_PER_MEGAPIXEL * pixels / _MEGAPIXEL * batch


_RTX3060 = Board(power_limit=170, idle_power=13, hot=68, clock=1852, idle_clock=210, reserved=240 * _MIB)
_RTX3090 = Board(power_limit=350, idle_power=25, hot=72, clock=1740, idle_clock=210, reserved=317 * _MIB)
_RTX4090 = Board(power_limit=450, idle_power=20, hot=68, clock=2610, idle_clock=210, reserved=347 * _MIB)
_A100 = Board(power_limit=400, idle_power=60, hot=62, clock=1410, idle_clock=210, reserved=619 * _MIB)
_H100 = Board(power_limit=700, idle_power=70, hot=65, clock=1980, idle_clock=345, reserved=551 * _MIB)

GPUS = {
    "rtx3060": Gpu(
        "NVIDIA GeForce RTX 3060", 12 * _GIB, _RTX3060, step=1.90, pixels=1.9, text=0.20, bus_bytes_per_second=6e9
    ),
    "rtx3090": Gpu(
        "NVIDIA GeForce RTX 3090", 24 * _GIB, _RTX3090, step=0.88, pixels=1.0, text=0.10, bus_bytes_per_second=10e9
    ),
    "rtx4090": Gpu(
        "NVIDIA GeForce RTX 4090", 24 * _GIB, _RTX4090, step=0.42, pixels=0.5, text=0.06, bus_bytes_per_second=12e9
    ),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 80 * _GIB, _A100, step=0.24, pixels=0.4, text=0.05, bus_bytes_per_second=14e9),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 80 * _GIB, _H100, step=0.13, pixels=0.2, text=0.03, bus_bytes_per_second=20e9),
}


def noise(rng: random.Random) -> float:
    """Return the factor by which one execution of a node deviates from the model: lognormal, 2.5 %."""
    return rng.lognormvariate(0.0, _NOISE_SIGMA)
