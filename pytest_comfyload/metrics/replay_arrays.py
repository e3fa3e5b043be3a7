"""Reruns of a plan, computed by columns with numpy: Lindley's recursion as running sums and maxima.

They draw the numbers that `runs_of` draws without numpy, in the same order, so that the same run has the same interval
with it and without.
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

# Passes over a closed load: of one whose server is rarely idle each of them settles nearly all of it.
MOST_PASSES = 8
_CHUNK = 4096


class ArrayReruns:
    """Give one rerun after the other: of a plan on one server, or of arrivals that go to several servers in turn."""

    def __init__(self, plan: Plan, pools: Pools, rng: random.Random, servers: int = 1) -> None:
        self._plan, self._pools, self._servers = plan, pools, servers
        self._uniforms = _Uniforms(rng)
        self._kinds: _Numbers = np.array(pools.kinds, dtype=np.int64)
        # By kind, and by server within it.
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
        # Where passes do not settle a run.
        self._each: Iterator[float] | None = None

    @classmethod
    def of(
        cls, plan: Plan, pools: Pools, rng: random.Random, servers: int = 1, dispatch: Dispatch = "shared"
    ) -> ArrayReruns | None:
        """None: lists do it as fast, or which server takes a prompt, or what goes back in time, needs them."""
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
        # Users who are seldom in each other's way: a pass settles but one round of them.
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
            with np.errstate(invalid="ignore"):  # of guesses in which a user has come to the end too early
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
        """Arrivals, waits and what was drawn, of as many prompts as there are uniforms.

        When a prompt is due follows from those before it. So a guess of all arrivals gives better ones, which are right
        from the first to at least one round of users later, and what no pass changes is right.
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
        """Return what prompts draw, what the server did before each, and how long after its start the next is due."""
        drawn = self._redrawn(numbers, uniforms)
        occupied = self._occupied[drawn]
        pauses = self._pauses if len(self._pauses) == 1 else self._pauses[numbers % len(self._pauses)]
        return drawn, _before(occupied), occupied + (self._outside[drawn] + pauses)

    def _redrawn(self, numbers: _Numbers, uniforms: _Column) -> _Numbers:
        """The places of the services that prompts of these numbers draw."""
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
    """One run at one server, of prompts that ask for these services."""
    occupied, generation, outside = np.array(services, dtype=np.float64).T
    waits = waits_of(np.array(plan.at, dtype=np.float64), occupied)
    columns = waits, generation, waits + generation + outside
    return Times(*(cast("Sequence[float]", column) for column in columns))


def waits_of(arrivals: _Column, services: _Column) -> _Column:
    """Return the waits of prompts at one server, first come, first served, by Lindley's recursion."""
    waits, _ = _served(arrivals, _before(services))
    return waits


def statistics_of(values: Sequence[float], qs: Sequence[float | None]) -> list[float]:
    """Percentiles, or for None the mean of what is finite (nan: nothing is)."""
    ordered = np.sort(values)
    if not len(ordered):
        return [math.nan for _ in qs]
    finite = ordered[: np.searchsorted(ordered, np.inf)]
    mean = float(finite.mean()) if len(finite) else math.nan
    return [mean if q is None else float(ordered[nearest_rank(q, len(ordered)) - 1]) for q in qs]


def count_within(values: Sequence[float], bound: float, *, inclusive: bool) -> int:
    """Count the times below a bound, or up to it."""
    column = np.asarray(values)
    return int(np.count_nonzero(column <= bound if inclusive else column < bound))


def _prompts(plan: Users, pools: Pools) -> int:
    """Return how many a rerun sends; of a plan that ends by time about so many."""
    most = min(plan.count * plan.iterations, plan.shared)
    return int(most) if math.isfinite(most) else plan.count + len(pools.kinds) * 9 // 8


def _before(occupied: _Column) -> _Column:
    """How long the server worked before each prompt."""
    done = np.cumsum(occupied)
    done -= occupied
    return done


def _served(arrivals: _Column, busy_before: _Column) -> tuple[_Column, _Column]:
    """Waits and starts, first come, first served."""
    ahead = arrivals - busy_before
    latest = np.maximum.accumulate(ahead)
    return latest - ahead, latest + busy_before


def _in_order(due: _Column, numbers: _Numbers, users: int, ends_at: float) -> tuple[_Column, _Numbers | None]:
    """Return when the prompts of a run come, given when the one after each is due; and in which order.

    Of several that are due at once the first user's comes first, and of hers the first. Places of the order count from
    the users' first prompts; None: each comes a round after the one before it.
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
    """The numbers of prompts that come in this order; `numbers`, if they stay as they are.

    The one in place j follows the one in place `order[j] - users` of its user; of those below 0 it is the first. Each
    round of the loop doubles how far back it looks; a wrong guess of the order may lead in a circle.
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
        if not np.all(order < np.arange(users, users + n)):  # some follow one that comes after them
            return again
    return numbers if np.array_equal(again, numbers) else again


class _Uniforms:
    """The numbers that `random.Random.random` would give: numpy has the same generator."""

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
        """Yield the reruns one by one; after this, none can be taken together."""
        while True:
            yield from self.take(max(_CHUNK, len(self._drawn))).tolist()
