"""Locks on the servers of a run, so that no other run of this user on this machine uses them at the same time.

Each server has two locks. The first is held as long as a run uses the server. The second, its turnstile, is held only
while a run chooses its servers: a run that needs several keeps those it has already locked, and later runs queue behind
it. Runs that have no server in common never wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import BadFile, StoreError
from pytest_comfyload.history.files import read_untrusted, shown
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.user_paths import private_folder

__all__ = ["SelectedServers", "reserved"]

# Wall seconds between two attempts to acquire a lock that another run holds, and before the wait is reported.
PERIOD = 0.05
PATIENCE = 1.0
# Largest size in bytes of a file that says which run has locked a server.
MOST_HOLDER = 4096


@dataclass(frozen=True, slots=True)
class SelectedServers:
    """The selected servers. `of_parts` has, for each part of the scenario, the places of its servers in `servers`."""

    servers: tuple[ServerAddress, ...]
    of_parts: tuple[tuple[int, ...], ...]

    @classmethod
    def by(
        cls, scenario: Scenario, named: Sequence[ServerAddress], free: Sequence[int] | None = None
    ) -> SelectedServers:
        """Select the scenario's servers.

        If the scenario takes a number of servers, these are the first of the places `free`, or of all places.

        Raises: UsageError if the scenario needs a server that was not named.
        """
        urls = [server.url for server in named]
        picked = [part.servers.of(urls, free) for _, part in scenario.parts]
        used = sorted(set().union(*picked))
        of_parts = tuple(tuple(used.index(place) for place in places) for places in picked)
        return cls(tuple(named[place] for place in used), of_parts)


@contextlib.asynccontextmanager
async def reserved(
    scenario: Scenario,
    named: Sequence[ServerAddress],
    workers: Sequence[ServerAddress] = (),
    *,
    title: str = "",
    among: Collection[str] = (),
    search_from: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> AsyncIterator[SelectedServers]:
    """Lock the scenario's servers and the workers behind them against other runs of this user on this machine.

    A scenario that takes a number of servers gets those that become free first.

    Args:
        scenario: The scenario.
        named: The servers that it chooses from.
        workers: The workers behind them.
        title: The title of the run, shown to others that wait for it.
        among: URLs of the servers to choose from if the scenario takes a number of servers; all if these are too few.
        search_from: The place among `named` where the search for a free server starts.
        say: Called with a line when the run has to wait, or a server cannot be locked.

    Raises:
        UsageError: The scenario needs a server that was not named.
    """
    SelectedServers.by(scenario, named)
    urls = [server.url for server in named]
    choices = [part.servers for _, part in scenario.parts]
    needed = {urls[place] for choice in choices if choice.first is None for place in choice.of(urls)}
    needed |= {worker.url for worker in workers}
    count = max(choice.first or 0 for choice in choices)
    candidates = [urls[(search_from + number) % len(urls)] for number in range(len(urls) if count else 0)]
    preferred = [url for url in candidates if url in among]
    with contextlib.ExitStack() as stack:
        locks = _Locks(stack, title, say)
        chosen = await _chosen(needed, preferred if len(preferred) >= count else candidates, count, locks)
        yield SelectedServers.by(scenario, named, sorted(map(urls.index, chosen)))


async def _chosen(needed: Collection[str], candidates: Sequence[str], count: int, locks: _Locks) -> list[str]:
    """Lock the needed servers and the first `count` free candidates, and return the latter."""
    chosen: dict[str, None] = {}

    def choose() -> bool:
        for url in candidates:
            if len(chosen) < count and locks.hold(url):
                chosen[url] = None
        return len(chosen) >= count

    everything = sorted({*needed, *candidates})
    with contextlib.ExitStack() as turnstiles:
        # Turnstiles are locked in a fixed order, so that two runs cannot deadlock.
        for url in everything:
            await locks.wait(partial(locks.lock, url, turnstiles), everything)
        for url in sorted(needed):
            await locks.wait(partial(locks.hold, url), [url])
        await locks.wait(choose, candidates)
    return list(chosen)


@dataclass(slots=True)
class _Locks:
    """The locks of one run. `stack` releases those of servers."""

    stack: contextlib.ExitStack
    title: str
    say: Callable[[str], None]
    held: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)
    told: bool = False

    async def wait(self, attempt: Callable[[], bool], urls: Sequence[str]) -> None:
        """Repeat an attempt until it succeeds, and report once which runs it is waiting for."""
        while not attempt():
            if not self.told and time.monotonic() - self.began > PATIENCE:
                self.told = True
                holders = "; ".join(f"{url}: {_holder(url)}" for url in urls if url not in self.held)
                self.say(f"comfyload: {self.title or 'the load'} waits for {holders}")
            await asyncio.sleep(PERIOD)

    def hold(self, url: str) -> bool:
        """Lock a server unless it is locked already, and return whether this run has the lock."""
        if url not in self.held and self.lock(url, self.stack, ".lock"):
            self.held.add(url)
            self._sign(url)
        return url in self.held

    def lock(self, url: str, stack: contextlib.ExitStack, suffix: str = ".turnstile") -> bool:
        """Acquire a lock until `stack` is closed. False if another run has it; True even if locking is impossible."""
        from filelock import FileLock, Timeout

        try:
            stack.enter_context(FileLock(_path(url, suffix), mode=0o600).acquire(blocking=False))
        except Timeout:
            return False
        except OSError as error:
            if suffix == ".lock":
                self.say(
                    f"comfyload: {url} cannot be locked ({error.strerror or error}): loads of other sessions on this "
                    "machine will not wait for this one; set TMPDIR to a folder that can be written"
                )
        return True

    def _sign(self, url: str) -> None:
        """Write down who has locked the server.

        A file left behind by a killed run is never read, because its lock is free.
        """
        with contextlib.suppress(OSError):
            path = _path(url, ".holder")
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            path.write_text(f"{self.title or 'a load'} (process {os.getpid()}) since {since}", encoding="utf-8")
            self.stack.callback(path.unlink, missing_ok=True)


def _holder(url: str) -> str:
    """Return who has locked a server: `held by tests/test_it.py::test_it (process 4711) since 2026-01-31 12:00:00`."""
    with contextlib.suppress(BadFile, StoreError, OSError):
        return "held by " + shown(read_untrusted(_path(url, ".holder"), MOST_HOLDER).decode(errors="replace"), 300)
    return "another load chooses its servers"


def _path(url: str, suffix: str) -> Path:
    """Return the path of a server's lock or holder file. Raises: OSError."""
    return private_folder("locks", make=True) / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}{suffix}"
