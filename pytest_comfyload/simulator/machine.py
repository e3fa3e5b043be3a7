"""What outlives a prompt: the GPU with what it holds, the node cache, the files, and the generator of noise."""

from __future__ import annotations

import random
from typing import Any

from pytest_comfyload.simulator.cache import NodeCache, node_keys
from pytest_comfyload.simulator.library import Library, Prompt
from pytest_comfyload.simulator.nodes import work_of
from pytest_comfyload.simulator.pictures import Pictures
from pytest_comfyload.simulator.settings import Settings
from pytest_comfyload.simulator.timing import GPUS, noise
from pytest_comfyload.simulator.weights import Vram
from pytest_comfyload.simulator.work import Call, Work

__all__ = ["Machine"]

_UPLOAD_READERS = ("LoadImage", "LoadImageMask")


class Machine:
    """One simulated computer with one GPU."""

    def __init__(self, settings: Settings) -> None:
        self._rng = random.Random(settings.seed)
        self.gpu = GPUS[settings.gpu]
        self.vram = Vram(self.gpu.vram)
        self.cache = NodeCache()
        self.pictures = Pictures(settings.keep_pictures, random.Random(settings.seed))
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
        """Seconds until the work proper begins and ends; loads what it needs into VRAM."""
        if work.read:
            self.vram.drop(work.read)
        self.working = work.working
        loading = self.gpu.load(sum(self.vram.hold(weights, work.working) for weights in work.needs))
        factor = noise(self._rng) if work.noisy else 1.0
        return loading * factor, (loading + work.seconds) * factor

    def _changed(self, class_type: str, inputs: dict[str, Any]) -> str:
        """A loader's result depends on the content of its file too."""
        name = inputs.get("image")
        return self.pictures.input_digest(name) if class_type in _UPLOAD_READERS and isinstance(name, str) else ""
