"""State that outlives a prompt: the memory and activity of the GPU, the node cache, the files, the noise generator."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_comfyload.simulator.gpu_model import GpuActivity
from pytest_comfyload.simulator.guesses import guessed_work
from pytest_comfyload.simulator.library import UPLOAD_INPUTS, Library, Prompt, is_prompt
from pytest_comfyload.simulator.node_cache import Cached, node_cache, node_keys
from pytest_comfyload.simulator.nodes import CLASSES, OUT_OF_MEMORY, work_of
from pytest_comfyload.simulator.pictures import Pictures
from pytest_comfyload.simulator.settings import MeasuredPrompt, SimulatorSettings
from pytest_comfyload.simulator.timing import GPUS, noise
from pytest_comfyload.simulator.virtual_clock import Log, VirtualClock
from pytest_comfyload.simulator.vram import SimulatedVram, Weights
from pytest_comfyload.simulator.work import Call, NodeFailure, NodeWork, Picture

__all__ = ["CONTEXT", "SimulatedMachine"]

CONTEXT = 500 * 1024**2
"""Bytes of VRAM that CUDA and the desktop take before any model is loaded."""
HOW_TO_STATE_TIMES = "set them with --node-time CLASS=SECONDS, or take them from a run with --calibrate RUN"
_TILED_SLOWDOWN = 3
_TILED_BYTES = 400_000_000
_MB = 1024 * 1024
_PROGRAMS = 16 * 1024**3
"""Bytes of RAM that the system and other programs take; on a small machine, half of its RAM."""
_BYTES_PER_PIXEL = {"IMAGE": 12, "MASK": 4, "LATENT": 1}
"""Size of tensors by type; a latent has 16 channels and an eighth of the picture's width and height."""


class SimulatedMachine:
    """One simulated computer with one GPU; `before` is the same computer before a restart of its server."""

    def __init__(
        self, settings: SimulatorSettings, clock: VirtualClock, before: SimulatedMachine | None = None
    ) -> None:
        self._rng = random.Random(settings.seed)
        self.version = settings.version
        gpu = GPUS[settings.gpu]
        self.gpu = gpu.overheating() if "overheat" in settings.faults else gpu
        self.vram = SimulatedVram(self.gpu.usable - CONTEXT)
        self.activity: GpuActivity = before.activity if before else GpuActivity(self.gpu.board, clock.now())
        self.cache = node_cache(settings.cache_mode)
        self.ram = int(settings.ram * 1024**3)
        self._headroom = min(settings.version.ram_headroom, self.ram)
        self.pictures: Pictures = before.pictures if before else _pictures(settings)
        self.log = Log(clock)
        self.library = Library(settings, self.pictures)
        self.guessed_times: list[str] = []
        """Classes in the prompts so far whose times are guessed."""
        self.on_guess: Callable[[str], None] = lambda text: None
        self._node_times = settings.node_times
        self._measured: dict[frozenset[tuple[str, int]], list[MeasuredPrompt]] = {}
        for each in settings.measured:
            self._measured.setdefault(_counts({name: len(times) for name, times in each.nodes.items()}), []).append(
                each
            )
        self._drawn: MeasuredPrompt | None = None
        self._left: dict[str, Iterator[float]] = {}
        self._strict = settings.strict

    def begin(self, now: float) -> None:
        """Record that a prompt has started."""
        self.vram.begin(now)

    def draw(self, classes: Sequence[str]) -> float:
        """Draw a measured prompt that ran nodes of these classes, if any; return its seconds outside nodes."""
        alike = self._measured.get(_counts(Counter(classes)))
        self._drawn = self._rng.choice(alike) if alike else None
        self._left = {name: iter(times) for name, times in self._drawn.nodes.items()} if self._drawn else {}
        return self._drawn.other if self._drawn else 0.0

    def rest(self, now: float) -> None:
        """Record that the prompt has ended."""
        self.vram.rest(now)
        self.activity.rest()

    @property
    def ram_free(self) -> int:
        """Bytes of RAM that neither programs nor cached results occupy."""
        return max(0, self.ram - min(_PROGRAMS, self.ram // 2) - self.cache.size)

    def keep(self, class_type: str, key: str, work: NodeWork, ui: dict[str, Any] | None) -> Cached:
        """Cache the result of a node, and evict other results if RAM is short."""
        made = Cached(work.outputs, ui, _ram_of(self.library.outputs(class_type), work))
        self.cache.put(key, made)
        self.cache.relieve(self._headroom - self.ram_free)
        return made

    def keys(self, prompt: Prompt) -> dict[str, str]:
        """Return the cache key of each node of a prompt."""
        return node_keys(prompt, self._changed)

    def work(self, class_type: str, inputs: dict[str, Any], key: str) -> NodeWork:
        """Return the work of a node with these inputs on this machine. Raises: NodeFailure."""
        call = Call(inputs, key, self.gpu, self.pictures.input_size)
        if class_type in CLASSES:
            work = work_of(class_type, call)
        else:
            work = guessed_work(class_type, call, self.library.outputs(class_type), self.library.is_output(class_type))
        measured = next(self._left.get(class_type, iter(())), None)
        if measured is not None:
            return replace(work, seconds=measured, noisy=False)
        seconds = self._node_times.get(class_type)
        return work if seconds is None else replace(work, seconds=seconds)

    def learn(self, prompt: Any) -> None:
        """Learn what a prompt names, unless the server is strict, and report the classes whose times are guessed."""
        if not self._strict:
            self.library.learn(prompt)
        classes = {node.get("class_type") for node in prompt.values()} if is_prompt(prompt) else set()
        new = [name for name in classes if name in self.library and not self._has_time(name)]
        # Classes that produce or deliver pictures come first: the others take hardly any time.
        new = sorted(set(new) - set(self.guessed_times), key=lambda name: (not self._makes_pictures(name), name))
        if new:
            self.guessed_times += new
            guessed = f"times of {', '.join(new)} are guessed; {HOW_TO_STATE_TIMES}"
            self.log.write(f"{guessed}\n")
            self.on_guess(guessed)

    def _makes_pictures(self, class_type: str) -> bool:
        makes = set(_BYTES_PER_PIXEL).intersection(map(str, self.library.outputs(class_type)))
        return bool(makes) or self.library.is_output(class_type)

    def _has_time(self, class_type: str) -> bool:
        return class_type in CLASSES or class_type in self._node_times

    def timed(self, work: NodeWork) -> tuple[float, float]:
        """Load what the work needs into VRAM; return the seconds until the work itself begins and until it ends.

        Raises NodeFailure if it does not fit into VRAM and cannot be done in tiles.
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

    def _timed(self, work: NodeWork) -> tuple[float, float]:
        loading = self.gpu.load(sum(self._load(weights, work.working) for weights in work.needs))
        offloaded = sum(self.vram.offloaded(weights) for weights in work.needs)
        streaming = self.gpu.load(offloaded) * max(1, work.steps)
        if self._drawn and self._drawn.cold:
            # The measured times include it.
            loading = streaming = 0.0
        self.vram.work(work.working)
        factor = noise(self._rng) if work.noisy else 1.0
        return loading * factor, (loading + work.seconds + streaming) * factor

    def _load(self, weights: Weights, working: int) -> int:
        """Load weights onto the card and log it; return the number of bytes that were moved."""
        moved = self.vram.hold(weights, working)
        if moved:
            usable = (self.vram.total - self.vram.used + moved) / _MB
            whole = not self.vram.offloaded(weights)
            how = "completely" if whole else "partially"
            loaded = f"loaded {how}; {usable:.2f} MB usable, {moved / _MB:.2f} MB loaded, full load: {whole}\n"
            self.log.write(f"Requested to load {weights.model_class}\n")
            self.log.write(loaded)
        return moved

    def _changed(self, class_type: str, inputs: dict[str, Any]) -> str:
        """Return the digest of the file that a loader reads, since its result depends on that too; empty for others."""
        name = inputs.get(UPLOAD_INPUTS.get(class_type, ""))
        return self.pictures.input_digest(name) if isinstance(name, str) else ""


def _counts(classes: Mapping[str, int]) -> frozenset[tuple[str, int]]:
    return frozenset(classes.items())


def _ram_of(types: Sequence[str], work: NodeWork) -> int:
    """Return the bytes of RAM that the outputs of a node occupy: tensors, and weights if the node read them."""
    size = sum(output.size for output in work.outputs if isinstance(output, Weights)) if work.read else 0
    for kind, output in zip(types, work.outputs, strict=False):
        if isinstance(output, Picture):
            size += _BYTES_PER_PIXEL.get(kind, 0) * output.pixels * output.images
    return size


def _pictures(settings: SimulatorSettings) -> Pictures:
    return Pictures(settings.keep_pictures, random.Random(settings.seed))
