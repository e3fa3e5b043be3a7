"""Reruns of a plan, computed as numpy columns: Lindley's recursion as running sums and maxima.

They draw the same numbers in the same order as `runs_of` without numpy, so that a run has the same interval with and
without it.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pytest_comfyload.metrics.intervals import nearest_rank
from pytest_comfyload.metrics.load_plan import Arrivals, Plan, Pools, Service, Times, Users, play
from pytest_comfyload.metrics.queueing import Dispatch

__all__ = ["ArrayReruns", "count_within", "served", "statistics_of", "waits_of"]

_Column: TypeAlias = NDArray[np.float64]
_Numbers: TypeAlias = NDArray[np.int64]

# Passes over a closed load; if the server is rarely idle, each settles nearly all of it.
MOST_PASSES = 8
_CHUNK = 4096


class ArrayReruns:
    """Successive reruns of a plan on one server, or of arrivals that go to several servers in turn."""

    def __init__(self, plan: Plan, pools: Pools, rng: random.Random, servers: int = 1) -> None:
        self._plan, self._pools, self._servers = plan, pools, servers
        self._uniforms = _Uniforms(rng)
        self._kinds: _Numbers = np.array(pools.kinds, dtype=np.int64)
        # By kind and, within a kind, by server.
        strata = [pool for row in pools.rows for pool in row[:servers]]
        sizes = [len(pool) for pool in strata]
        self._size: _Numbers = np.array(sizes, dtype=np.int64)
        self._first: _Numbers = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        services = np.array([service for pool in strata for service in pool], dtype=np.float64)
        self._occupied, self._generation, self._outside = np.ascontiguousarray(services.T)
        if isinstance(plan, Arrivals):
            self._at = np.array(plan.at, dtype=np.float64)
            self._numbers: _Numbers = np.arange(len(plan.at), dtype=np.int64)
            if servers > 1:
                self._kinds = self._kinds[self._numbers % len(self._kinds)] * servers + self._numbers % servers
        else:
            self._pauses = np.array(plan.pauses or (plan.think_time,), dtype=np.float64)
        # Used if passes do not settle a run.
        self._each: Iterator[float] | None = None

    @classmethod
    def of(
        cls, plan: Plan, pools: Pools, rng: random.Random, servers: int = 1, dispatch: Dispatch = "shared"
    ) -> ArrayReruns | None:
        """Return reruns of a plan; None if lists are as fast, or if it needs them.

        Lists are needed if the load decides which server takes a prompt, and for negative times.
        """
        if servers > 1 and not (isinstance(plan, Arrivals) and dispatch == "round_robin"):
            return None
        if isinstance(plan, Users) and (plan.count == 1 or _prompts(plan, pools) <= plan.count):
            return None
        reruns = cls(plan, pools, rng, servers)
        backward = isinstance(plan, Users) and min(reruns._outside.min(), reruns._pauses.min()) < 0
        return None if backward or reruns._occupied.min() < 0 else reruns

    def next(self) -> Times:
        """Return the next rerun."""
        if isinstance(self._plan, Arrivals):
            return self._arrived()
        if self._each is None and (times := self._by_users(self._plan)):
            return times
        # Users who rarely wait for each other: a pass settles only one round of their prompts.
        self._each = self._each or self._uniforms.each()
        return play(self._plan, functools.partial(self._draw, self._each))

    def _draw(self, uniforms: Iterator[float], k: int, server: int) -> Service:
        pool = self._pools.of(k, server)
        return pool[int(next(uniforms) * len(pool))]

    def _arrived(self) -> Times:
        n = len(self._at)
        drawn = self._redrawn(self._numbers, self._uniforms.take(n))
        occupied, waits = self._occupied.take(drawn), np.empty(n)
        for server in range(self._servers):
            turns = slice(server, None, self._servers)
            waits[turns] = waits_of(self._at[turns], occupied[turns])
        return self._times(waits, drawn)

    def _by_users(self, plan: Users) -> Times | None:
        most = min(plan.count * plan.iterations, plan.shared)
        expected = _prompts(plan, self._pools)
        while True:
            with np.errstate(invalid="ignore"):  # guesses in which a user finishes too early
                found = self._settled(plan, self._uniforms.peek(expected))
            if found is None:
                return None
            arrivals, waits, drawn = found
            sent = int(np.searchsorted(arrivals, plan.duration, side="left"))
            if sent < expected or expected == most:
                break
            expected = int(min(most, 2 * expected))
        self._uniforms.take(sent)
        return self._times(waits[:sent], drawn[:sent])

    def _settled(self, plan: Users, uniforms: _Column) -> tuple[_Column, _Column, _Numbers] | None:
        """Return the arrivals, the waits and what was drawn, for as many prompts as there are uniforms.

        When a prompt is due follows from the prompts before it. A guess of all arrivals therefore yields better ones,
        which are correct for at least one more round of users; arrivals that a pass does not change are correct.
        """
        n, users = len(uniforms), plan.count
        arrivals, waits = np.empty(0), np.empty(0)
        numbers: _Numbers = np.arange(n)
        drawn, busy_before, following = self._asked(numbers, uniforms)
        starts = busy_before  # as if the server never waited
        for _ in range(MOST_PASSES):
            due, order = _in_order(starts + following, numbers, users, users * plan.iterations)
            if (again := _numbered(order, users, numbers)) is not numbers:
                numbers = again
                drawn, busy_before, following = self._asked(numbers, uniforms)
            elif np.array_equal(due, arrivals):
                return arrivals, waits, drawn
            arrivals = due
            waits, starts = _served(arrivals, busy_before)
        return None

    def _asked(self, numbers: _Numbers, uniforms: _Column) -> tuple[_Numbers, _Column, _Column]:
        """Return what prompts draw, the server's prior work, and the time from each start until the next is due."""
        drawn = self._redrawn(numbers, uniforms)
        occupied = self._occupied[drawn]
        pauses = self._pauses if len(self._pauses) == 1 else self._pauses[numbers % len(self._pauses)]
        return drawn, _before(occupied), occupied + (self._outside[drawn] + pauses)

    def _redrawn(self, numbers: _Numbers, uniforms: _Column) -> _Numbers:
        """Return the indexes of the services that prompts of these numbers draw."""
        places: _Numbers = np.empty(len(uniforms), dtype=np.int64)
        if len(self._size) == 1:
            np.multiply(uniforms, self._size[0], out=places, casting="unsafe")
            return places
        kinds = self._kinds[numbers % len(self._kinds)]
        np.multiply(uniforms, self._size[kinds], out=places, casting="unsafe")
        places += self._first[kinds]
        return places

    def _times(self, waits: _Column, drawn: _Numbers) -> Times:
        generation = self._generation.take(drawn)
        total = waits + generation + self._outside.take(drawn)
        return Times(*(cast("Sequence[float]", column) for column in (waits, generation, total)))


def served(plan: Arrivals, services: Sequence[Service]) -> Times:
    """Return one run on one server, in which the prompts have these services."""
    occupied, generation, outside = np.array(services, dtype=np.float64).T
    waits = waits_of(np.array(plan.at, dtype=np.float64), occupied)
    columns = waits, generation, waits + generation + outside
    return Times(*(cast("Sequence[float]", column) for column in columns))


def waits_of(arrivals: _Column, services: _Column) -> _Column:
    """Return the waits of prompts on one server, first come, first served, by Lindley's recursion."""
    waits, _ = _served(arrivals, _before(services))
    return waits


def statistics_of(values: Sequence[float], qs: Sequence[float | None]) -> list[float]:
    """Return percentiles, or for None the mean of the finite values (nan if there are none)."""
    ordered = np.sort(values)
    if not len(ordered):
        return [math.nan for _ in qs]
    finite = ordered[: np.searchsorted(ordered, np.inf)]
    mean = float(finite.mean()) if len(finite) else math.nan
    return [mean if q is None else float(ordered[nearest_rank(q, len(ordered)) - 1]) for q in qs]


def count_within(values: Sequence[float], bound: float, *, inclusive: bool) -> int:
    """Count the times below a bound, or up to it if `inclusive`."""
    column = np.asarray(values)
    return int(np.count_nonzero(column <= bound if inclusive else column < bound))


def _prompts(plan: Users, pools: Pools) -> int:
    """Return how many prompts a rerun sends; an estimate for a plan that ends by time."""
    most = min(plan.count * plan.iterations, plan.shared)
    return int(most) if math.isfinite(most) else plan.count + len(pools.kinds) * 9 // 8


def _before(occupied: _Column) -> _Column:
    """Return how long the server worked before each prompt."""
    done = np.cumsum(occupied)
    done -= occupied
    return done


def _served(arrivals: _Column, busy_before: _Column) -> tuple[_Column, _Column]:
    """Return waits and starts, first come, first served."""
    ahead = arrivals - busy_before
    latest = np.maximum.accumulate(ahead)
    return latest - ahead, latest + busy_before


def _in_order(due: _Column, numbers: _Numbers, users: int, ends_at: float) -> tuple[_Column, _Numbers | None]:
    """Return when the prompts of a run arrive, given when the one after each is due, and in which order.

    Among prompts due at the same time, those of the first user come first, and of these the earliest. Places in the
    order count from the users' first prompts; the order is None if each prompt arrives one round after the one before
    it.
    """
    n = len(due)
    if np.all(due[1:] > due[:-1]) and due[0] > 0:
        return np.concatenate((np.zeros(users), due[: n - users])), None
    due = np.where(numbers + users < ends_at, due, np.inf)
    due = np.concatenate((np.zeros(users), due))
    order = np.argsort(due, kind="stable")
    times = due[order]
    if np.any((times[1:] == times[:-1]) & np.isfinite(times[1:])):
        numbers = np.concatenate((np.arange(users), numbers + users))
        order = np.lexsort((numbers, numbers % users, due))
    return due[order[:n]], order[:n]


def _numbered(order: _Numbers | None, users: int, numbers: _Numbers) -> _Numbers:
    """Return the numbers of prompts that arrive in this order; `numbers` itself if they do not change.

    The prompt in place j follows its user's prompt in place `order[j] - users`; if that is below 0, it is the user's
    first. Each round of the loop doubles how far back it looks; a wrong guess of the order may lead in a circle.
    """
    n = len(numbers)
    if order is None:
        again = np.arange(n)
    else:
        before = np.concatenate((np.arange(users), order))
        iterations = np.minimum(np.arange(users + n) // users, 1)
        for _ in range(len(before).bit_length()):
            if np.array_equal(earlier := before[before], before):
                break
            iterations, before = iterations + iterations[before], earlier
        again = (iterations * users + before)[users:] - users
        if not np.all(order < np.arange(users, users + n)):  # some follow a later prompt
            return again
    return numbers if np.array_equal(again, numbers) else again


class _Uniforms:
    """The numbers that `random.Random.random` would return: numpy has the same generator."""

    def __init__(self, rng: random.Random) -> None:
        _, state, _ = rng.getstate()
        self._generator = np.random.RandomState()
        self._generator.set_state(("MT19937", np.array(state[:-1], dtype=np.uint32), state[-1], 0, 0.0))
        self._drawn = np.empty(0)

    def peek(self, count: int) -> _Column:
        if len(self._drawn) < count:
            more = self._generator.random_sample(count - len(self._drawn))
            self._drawn = np.concatenate((self._drawn, more))
        return self._drawn[:count]

    def take(self, count: int) -> _Column:
        taken = self.peek(count)
        self._drawn = self._drawn[count:]
        return taken

    def each(self) -> Iterator[float]:
        """Yield the numbers one by one; afterwards, none can be taken in bulk."""
        while True:
            yield from self.take(max(_CHUNK, len(self._drawn))).tolist()
