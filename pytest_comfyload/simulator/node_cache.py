"""ComfyUI's node caches, and the order in which nodes are executed."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.simulator.library import Prompt
from pytest_comfyload.simulator.settings import CacheMode
from pytest_comfyload.simulator.vram import Weights
from pytest_comfyload.simulator.work import is_link

__all__ = ["Cached", "ExecutionOrder", "NodeCache", "node_cache", "node_keys"]

_MOST_PROMPTS = 10_000
_OLD_PROMPT_FACTOR = 1.3
"""Factor by which the eviction score of a result rises with each prompt that has not used it."""


@dataclass(frozen=True, slots=True)
class Cached:
    """Result of a node: its output values, what it showed the user, if anything, and its size in bytes of RAM."""

    outputs: tuple[Any, ...]
    ui: dict[str, Any] | None
    size: int = 0


def node_keys(prompt: Prompt, changed: Callable[[str, dict[str, Any]], str]) -> dict[str, str]:
    """Return the cache key of every node: a digest of its class, its literals and the keys of the nodes it links to.

    `changed(class_type, inputs)` returns what else the result depends on, such as the content of an uploaded file.
    """
    keys: dict[str, str] = {}
    for node_id in prompt:
        _key(prompt, node_id, changed, keys)
    return keys


def _key(prompt: Prompt, node_id: str, changed: Callable[[str, dict[str, Any]], str], keys: dict[str, str]) -> str:
    if node_id not in keys:
        keys[node_id] = "cycle"
        node = prompt[node_id]
        inputs = {
            name: ["link", _key(prompt, value[0], changed, keys), value[1]]
            if is_link(value) and value[0] in prompt
            else ["literal", value]
            for name, value in node.get("inputs", {}).items()
        }
        essence = [node["class_type"], changed(node["class_type"], node.get("inputs", {})), inputs]
        keys[node_id] = hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()
    return keys[node_id]


class NodeCache:
    """Results by key; `size` is the bytes of RAM that they occupy. This base class keeps none (`--cache-none`)."""

    def __init__(self) -> None:
        self.size = 0
        self._results: dict[str, Cached] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._results

    def begin(self, keys: dict[str, str]) -> None:
        """Begin a prompt with these keys by node id: evict what this mode does not keep for it."""

    def get(self, key: str) -> Cached | None:
        return self._results.get(key)

    def put(self, key: str, result: Cached) -> None:
        """Store a result of the running prompt, if this mode keeps any."""

    def relieve(self, excess: int) -> None:
        """Evict results of earlier prompts until `excess` bytes have been freed."""

    def clear(self) -> None:
        self._forget(list(self._results))

    def _forget(self, keys: list[str]) -> None:
        for key in keys:
            self.size -= self._results.pop(key).size


class _ClassicCache(NodeCache):
    """Cache that keeps the results of one prompt: the next one evicts all those for which it has no key."""

    def begin(self, keys: dict[str, str]) -> None:
        wanted = set(keys.values())
        self._forget([key for key in self._results if key not in wanted])

    def put(self, key: str, result: Cached) -> None:
        if key in self._results:
            self._forget([key])
        self._results[key] = result
        self.size += result.size


class _LruCache(_ClassicCache):
    """Cache that evicts whole prompts, oldest first, while it has over `most` results; never the prompt that begins."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self._most = most
        self._used: dict[str, int] = {}
        """Number of the last prompt that had this key, in ascending order."""
        self._generation = self._oldest = 0
        self._running: frozenset[str] = frozenset()

    def begin(self, keys: dict[str, str]) -> None:
        for key in self._running:
            # Its node failed, or the prompt was interrupted before the node ran.
            if key not in self._results:
                self._used.pop(key, None)
        self._generation += 1
        self._running = frozenset(keys.values())
        for key in self._running:
            self._used.pop(key, None)
            self._used[key] = self._generation
        while len(self._results) > self._most and self._oldest < self._generation:
            self._forget_before(self._oldest + 1)

    def _forget_before(self, prompt: int) -> None:
        """Evict what neither the prompt with this number nor a later one has used."""
        self._oldest = max(self._oldest, prompt)
        self._forget(list(itertools.takewhile(lambda key: self._used[key] < prompt, self._used)))

    def _forget(self, keys: list[str]) -> None:
        super()._forget(keys)
        for key in keys:
            if key not in self._running:
                del self._used[key]


class _RamCache(_LruCache):
    """Cache that keeps everything until RAM is short; then models of earlier prompts go first, then old, large results.

    That RAM is simulated. To bound the RAM of this process too, results that the last 10,000 prompts have not used are
    evicted.
    """

    def __init__(self) -> None:
        super().__init__(math.inf)

    def begin(self, keys: dict[str, str]) -> None:
        super().begin(keys)
        self._forget_before(self._generation - _MOST_PROMPTS + 1)

    def relieve(self, excess: int) -> None:
        if excess <= 0:
            return
        inactive = [key for key in self._results if self._used[key] < self._generation]
        for key in sorted(inactive, key=self._score, reverse=True):
            if excess > 0:
                excess -= self._results[key].size
                self._forget([key])

    def _score(self, key: str) -> tuple[bool, float]:
        result = self._results[key]
        has_model = any(isinstance(output, Weights) for output in result.outputs)
        # The logarithm, because the power itself would overflow after a few thousand prompts.
        size = math.log(result.size) if result.size else -math.inf
        return has_model, size + math.log(_OLD_PROMPT_FACTOR) * (self._generation - self._used[key])


def node_cache(mode: CacheMode) -> NodeCache:
    """Return an empty cache of this mode."""
    match mode.kind:
        case "classic":
            return _ClassicCache()
        case "lru":
            return _LruCache(mode.most)
        case "ram":
            return _RamCache()
        case _:
            return NodeCache()


class ExecutionOrder:
    """The order in which the nodes that outputs need are executed, each after its dependencies.

    Cached nodes and what only they need are left out, except outputs themselves. Among the nodes that are ready, output
    nodes come first, then nodes one link and two links before an output, then the rest; ties are resolved in favour of
    the node that was found first.
    """

    def __init__(
        self,
        prompt: Prompt,
        outputs: Iterable[str],
        is_cached: Callable[[str], bool],
        is_output: Callable[[str], bool],
    ) -> None:
        self._is_output = is_output
        self._waits_for: dict[str, set[str]] = {}
        self._feeds: dict[str, list[str]] = {}
        for output in outputs:
            self._add(prompt, output, is_cached)

    def next(self) -> str | None:
        """Return the node to run now, or None if all have run."""
        ready = [node for node, sources in self._waits_for.items() if not sources]
        return min(ready, key=self._distance) if ready else None

    def done(self, node: str) -> None:
        """Record that `node` has run."""
        del self._waits_for[node]
        for reader in self._feeds.get(node, ()):
            self._waits_for[reader].discard(node)

    def _add(self, prompt: Prompt, output: str, is_cached: Callable[[str], bool]) -> None:
        """Add an output and what it needs, depth first, last input first."""
        stack = [output]
        while stack:
            node = stack.pop()
            if node in self._waits_for:
                continue
            sources = [source for source in _sources(prompt, node) if not is_cached(source)]
            self._waits_for[node] = set(sources)
            for source in sources:
                self._feeds.setdefault(source, []).append(node)
            stack += sources

    def _distance(self, node: str) -> int:
        """Return the number of links to the nearest output downstream: 0, 1 or 2; 3 for any larger number."""
        level = [node]
        for distance in range(3):
            if any(self._is_output(found) for found in level):
                return distance
            level = [reader for found in level for reader in self._feeds.get(found, ())]
        return 3


def _sources(prompt: Prompt, node: str) -> list[str]:
    return [value[0] for value in prompt[node]["inputs"].values() if is_link(value) and value[0] in prompt]
