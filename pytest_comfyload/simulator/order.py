"""Decides which node runs next, exactly as ComfyUI does: what a user sees soonest goes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pytest_comfyload.simulator.library import Prompt
from pytest_comfyload.simulator.work import is_link

__all__ = ["ExecutionOrder"]


class ExecutionOrder:
    """Hands out the nodes that outputs need, each after all that it waits for.

    Cached nodes are not walked through, except outputs themselves. Among ready nodes the one found first goes first,
    but output nodes go before those, and nodes one or two links before an output before the rest.
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
        """The node to run now, or None when all have run."""
        ready = [node for node, sources in self._waits_for.items() if not sources]
        return min(ready, key=self._distance) if ready else None

    def done(self, node: str) -> None:
        """Tell that `node` has run."""
        del self._waits_for[node]
        for reader in self._feeds.get(node, ()):
            self._waits_for[reader].discard(node)

    def _add(self, prompt: Prompt, output: str, is_cached: Callable[[str], bool]) -> None:
        """Depth first from an output, last input first."""
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
        """Links to the nearest output below: 0, 1, 2, or 3 for everything farther."""
        level = [node]
        for distance in range(3):
            if any(self._is_output(found) for found in level):
                return distance
            level = [reader for found in level for reader in self._feeds.get(found, ())]
        return 3


def _sources(prompt: Prompt, node: str) -> list[str]:
    return [value[0] for value in prompt[node]["inputs"].values() if is_link(value) and value[0] in prompt]
