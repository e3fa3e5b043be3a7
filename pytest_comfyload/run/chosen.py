"""The servers that a run goes to, out of those that were named, and which of them each part of the scenario uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["SelectedServers"]


@dataclass(frozen=True, slots=True)
class SelectedServers:
    """`of_parts` are places in `servers`, for each part of the scenario."""

    servers: tuple[ServerAddress, ...]
    of_parts: tuple[tuple[int, ...], ...]

    @classmethod
    def by(cls, scenario: Scenario, named: Sequence[ServerAddress]) -> SelectedServers:
        """Raises: UsageError where the scenario wants a server that was not named."""
        urls = [server.url for server in named]
        picked = [part.servers.of(urls) for _, part in scenario.parts]
        used = sorted(set().union(*picked))
        of_parts = tuple(tuple(used.index(place) for place in places) for places in picked)
        return cls(tuple(named[place] for place in used), of_parts)
