"""What outlives a prompt: the GPU with what it holds, the node cache, the files, and the generator of noise."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from pytest_comfyload.simulator.cache import NodeCache, node_keys
from pytest_comfyload.simulator.clock import VirtualClock
from pytest_comfyload.simulator.library import Library, Prompt
from pytest_comfyload.simulator.log import Log
from pytest_comfyload.simulator.nodes import OUT_OF_MEMORY, work_of
from pytest_comfyload.simulator.pictures import Pictures
from pytest_comfyload.simulator.settings import Settings
from pytest_comfyload.simulator.timing import GPUS, noise
from pytest_comfyload.simulator.weights import Vram, Weights
from pytest_comfyload.simulator.work import Call, NodeFailure, Work

__all__ = ["Machine"]

_TILED_SLOWDOWN = 3
_TILED_BYTES = 400_000_000
_MB = 1024 * 1024
_UPLOAD_READERS = ("LoadImage", "LoadImageMask")


class Machine:
    """One simulated computer with one GPU."""

    def __init__(self, settings: Settings, clock: VirtualClock, pictures: Pictures | None = None) -> None:
        self._rng = random.Random(settings.seed)
        self.gpu = GPUS[settings.gpu]
        self.vram = Vram(self.gpu.vram)
        self.cache = NodeCache()
        self.pictures = pictures or Pictures(settings.keep_pictures, random.Random(settings.seed))
        self.log = Log(clock)
        self.library = Library(settings, self.pictures)
        self.working = 0
        """Bytes of VRAM that the running node uses beside the weights."""

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
        self.working = work.working
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
