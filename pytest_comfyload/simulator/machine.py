"""What outlives a prompt: the GPU with what it holds and did, the node cache, the files, the generator of noise."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from pytest_comfyload.simulator.cache import NodeCache, node_keys
from pytest_comfyload.simulator.clock import VirtualClock
from pytest_comfyload.simulator.gpu_activity import GpuActivity
from pytest_comfyload.simulator.library import Library, Prompt
from pytest_comfyload.simulator.log import Log
from pytest_comfyload.simulator.nodes import OUT_OF_MEMORY, work_of
from pytest_comfyload.simulator.pictures import Pictures
from pytest_comfyload.simulator.settings import Settings
from pytest_comfyload.simulator.timing import GPUS, noise
from pytest_comfyload.simulator.vram import Vram
from pytest_comfyload.simulator.weights import Weights
from pytest_comfyload.simulator.work import Call, NodeFailure, Work

__all__ = ["CONTEXT", "Machine"]

CONTEXT = 500 * 1024**2
"""Bytes of VRAM that CUDA and the desktop take before any model is loaded."""
_TILED_SLOWDOWN = 3
_TILED_BYTES = 400_000_000
_MB = 1024 * 1024
_UPLOAD_READERS = ("LoadImage", "LoadImageMask")


class Machine:
    """One simulated computer with one GPU; `before` is the same one before a restart of its server."""

    def __init__(self, settings: Settings, clock: VirtualClock, before: Machine | None = None) -> None:
        self._rng = random.Random(settings.seed)
        self.gpu = GPUS[settings.gpu]
        self.vram = Vram(self.gpu.usable - CONTEXT)
        self.activity: GpuActivity = before.activity if before else GpuActivity(self.gpu.board, clock.now())
        self.cache = NodeCache()
        self.pictures: Pictures = before.pictures if before else _pictures(settings)
        self.log = Log(clock)
        self.library = Library(settings, self.pictures)

    def begin(self, now: float) -> None:
        """A prompt starts."""
        self.vram.begin(now)

    def rest(self, now: float) -> None:
        """The prompt has ended."""
        self.vram.rest(now)
        self.activity.rest()

    def keys(self, prompt: Prompt) -> dict[str, str]:
        """The cache key of each node of a prompt."""
        return node_keys(prompt, self._changed)

    def work(self, class_type: str, inputs: dict[str, Any], key: str) -> Work:
        """What a node does here and now. Raises NodeFailure."""
        return work_of(class_type, Call(inputs, key, self.gpu, self.pictures.input_size))

    def timed(self, work: Work) -> tuple[float, float]:
        """Seconds until the work proper begins and ends; loads what it needs into VRAM.

        Raises NodeFailure when that does not fit and cannot be done in tiles.
        """
        if work.read:
            self.vram.drop(work.read)
        try:
            return self._timed(work)
        except MemoryError:
            if work.tiled is None:
                raise NodeFailure("torch.OutOfMemoryError", OUT_OF_MEMORY) from None
            self.log.write(work.tiled)
            return self._timed(replace(work, seconds=work.seconds * _TILED_SLOWDOWN, working=_TILED_BYTES))

    def _timed(self, work: Work) -> tuple[float, float]:
        loading = self.gpu.load(sum(self._load(weights, work.working) for weights in work.needs))
        self.vram.work(work.working)
        factor = noise(self._rng) if work.noisy else 1.0
        return loading * factor, (loading + work.seconds) * factor

    def _load(self, weights: Weights, working: int) -> int:
        """The number of bytes moved onto the card, of which the log tells."""
        moved = self.vram.hold(weights, working)
        if moved:
            usable = (self.vram.total - self.vram.used + moved) / _MB
            loaded = f"loaded completely; {usable:.2f} MB usable, {moved / _MB:.2f} MB loaded, full load: True\n"
            self.log.write(f"Requested to load {weights.model_class}\n")
            self.log.write(loaded)
        return moved

    def _changed(self, class_type: str, inputs: dict[str, Any]) -> str:
        """A loader's result depends on the content of its file too."""
        name = inputs.get("image")
        return self.pictures.input_digest(name) if class_type in _UPLOAD_READERS and isinstance(name, str) else ""


def _pictures(settings: Settings) -> Pictures:
    return Pictures(settings.keep_pictures, random.Random(settings.seed))
