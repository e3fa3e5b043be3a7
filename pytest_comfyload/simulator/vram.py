"""What a GPU's memory holds: weights until others need the place, the running node's working set, and torch's cache."""

from __future__ import annotations

import math

from pytest_comfyload.simulator.weights import Weights

__all__ = ["Vram"]

_CACHE_SECONDS = 10.0
"""ComfyUI empties torch's cache between prompts, but not more often than this."""


class Vram:
    """The `total` bytes that torch can have. Torch takes from the driver what is in use and gives it back late:
    `reserved` is what the driver sees, `used` what is really in use, as /system_stats tells it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.working = 0
        """Bytes that the running node uses beside the weights."""
        self._held: dict[tuple[str, str, tuple[str, ...]], int] = {}
        self._reserved = 0
        self._rested_at = self._emptied_at = -math.inf

    @property
    def weights(self) -> int:
        """Bytes of weights held."""
        return sum(self._held.values())

    @property
    def used(self) -> int:
        return self.weights + self.working

    def reserved(self, now: float) -> int:
        """Bytes taken from the driver at this moment; never less than `used`."""
        due = max(self._rested_at, self._emptied_at + _CACHE_SECONDS)
        if now >= due and self._reserved > self.used:
            self._reserved = 0
            self._emptied_at = due
        self._reserved = max(self._reserved, self.used)
        return self._reserved

    def hold(self, weights: Weights, working: int = 0) -> int:
        """Make sure the weights are held beside `working` bytes; the number of bytes that had to be moved.

        Of weights that are too large, only a part is held, as ComfyUI does. Raises MemoryError when the card is too
        small for the working set, even with everything else gone.
        """
        key = (weights.file, weights.part, weights.patches)
        held = self._held.pop(key, 0)
        while self._held and self.weights + weights.size + working > self.total:
            del self._held[next(iter(self._held))]
            self._reserved = 0
        if working > self.total:
            self._reserved = self.total
            raise MemoryError
        self._held[key] = min(weights.size, self.total - working)
        return max(0, self._held[key] - held)

    def offloaded(self, weights: Weights) -> int:
        """Bytes of these weights that the card had no room for, which come over the bus whenever they are used."""
        return weights.size - self._held.get((weights.file, weights.part, weights.patches), 0)

    def work(self, working: int) -> None:
        """A node uses so many bytes beside the weights from now on."""
        self.working = working
        self._reserved = max(self._reserved, self.used)

    def begin(self, now: float) -> None:
        """A prompt starts: until it ends, torch keeps its cache."""
        self.reserved(now)
        self._rested_at = math.inf

    def rest(self, now: float) -> None:
        """A prompt has ended."""
        self.working = 0
        self._rested_at = now

    def drop(self, file: str) -> None:
        """Forget all parts of a file, as happens when it is read anew."""
        self._held = {key: size for key, size in self._held.items() if key[0] != file}

    def clear(self) -> None:
        """Unload everything and give it back."""
        self._held.clear()
        self.working = self._reserved = 0
