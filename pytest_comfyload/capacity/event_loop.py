"""Event simulation of fleets that recursions cannot model: priorities, fairness, models, autoscaling, failures.

Arrivals are merged with the events and never enter their heap. Each server has an epoch, which changes with its state;
events of an older epoch are ignored.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from heapq import heappop, heappush

from pytest_comfyload.capacity.fleet import Autoscaling, Demand, Fleet, Ran

__all__ = ["EventLoop"]

_END, _UP, _OFF, _FAIL, _SCALE = range(5)
# A priority or round, and the number of a prompt; the smallest entry is next.
_Entry = tuple[int, int]
# No model is loaded; the models of prompts are numbered from 0.
_NONE = -1


class _Queue:
    """Waiting prompts, by the model that they need if that matters."""

    def __init__(self, demand: Demand, fleet: Fleet) -> None:
        self._arrivals, self._people = demand.arrivals, demand.people if fleet.queue == "fair" else ()
        self._priorities = demand.priorities if fleet.queue == "priority" else ()
        self._overtake = fleet.affinity.overtake if fleet.affinity else 0.0
        self._models = demand.models if self._overtake else ()
        self._waiting: defaultdict[int, list[_Entry]] = defaultdict(list)
        self._round = 0
        self._last: dict[int, int] = {}  # last round of each person
        self.length = 0

    def entry(self, k: int) -> _Entry:
        """Return the rank of an arriving prompt; fairness gives each person one prompt per round."""
        if self._priorities:
            return self._priorities[k], k
        if not self._people:
            return 0, k
        person = self._people[k]
        turn = self._last[person] = max(self._round, self._last.get(person, -1) + 1)
        return turn, k

    def put(self, entry: _Entry) -> None:
        heappush(self._waiting[self._models[entry[1]] if self._models else 0], entry)
        self.length += 1

    def take(self, loaded: int, now: float) -> _Entry:
        """Remove and return the next prompt for a server with this model loaded."""
        waiting = self._waiting
        model = 0 if not self._models else min(waiting, key=lambda model: waiting[model][0])
        if self._models and loaded in waiting and self._may_overtake(waiting[model][0], waiting[loaded][0], now):
            model = loaded
        entry = heappop(waiting[model])
        if not waiting[model]:
            del waiting[model]
        self._round = entry[0]
        self.length -= 1
        return entry

    def _may_overtake(self, first: _Entry, other: _Entry, now: float) -> bool:
        return first[0] == other[0] and now - self._arrivals[first[1]] < self._overtake


class EventLoop:
    """One simulation, event by event. Servers are idle, running, down (starting or in repair, both paid), or off."""

    def __init__(self, demand: Demand, fleet: Fleet, users: Sequence[int], seed: int) -> None:
        n, count = len(demand.arrivals), fleet.servers
        self.demand, self.fleet, self.users = demand, fleet, users
        self.scaling, self.minimum = fleet.autoscaling, fleet.autoscaling.minimum if fleet.autoscaling else count
        self.shared = fleet.dispatch == "shared"
        self.queues = [_Queue(demand, fleet)] * count if self.shared else [_Queue(demand, fleet) for _ in range(count)]
        self.events: list[tuple[float, int, int, int]] = []  # time, kind, server, epoch
        self.starts, self.ends, self.servers = [0.0] * n, [0.0] * n, [0] * n
        self.running: list[_Entry | None] = [None] * count
        self.loaded = [_NONE] * count
        self.epoch = [0] * count  # of a server's state
        self.life = [0] * count  # an epoch from a start or repair to a failure or shutdown
        self.scale_epoch, self.scale_due = 0, False
        self.idle: dict[int, None] = {}  # in the order in which they became idle
        self.off = list(range(self.minimum, count))  # a heap
        self.on_since, self.lost = [0.0] * count, [0.0] * count
        self.left, self.present, self.turn = n, 0, 0
        self.paid, self.cold_starts, self.switches, self.failures = 0.0, 0, 0, 0
        self.chances = [random.Random(f"{seed} {server}") for server in range(count)]
        for server in range(self.minimum):
            self._up(server, 0.0)

    def run(self) -> Ran:
        arrivals, events = self.demand.arrivals, self.events
        k, n = 0, len(arrivals)
        while self.left or (events and self._on() > self.minimum):
            if k < n and (not events or arrivals[k] < events[0][0]):
                self._arrive(k, arrivals[k])
                k += 1
            else:
                self._happen(*heappop(events))
        last = max(self.demand.until, max(self.ends, default=0.0))
        on = set(range(self.fleet.servers)) - set(self.off)
        paid = self.paid + math.fsum(last - self.on_since[server] for server in on)
        counts = self.cold_starts, self.switches, self.failures
        return Ran(arrivals, self.starts, self.ends, self.servers, paid, self.lost, *counts)

    def _happen(self, now: float, kind: int, server: int, epoch: int) -> None:
        if kind == _FAIL:
            if epoch == self.life[server] and self.left:
                self._fail(server, now)
        elif kind == _SCALE:
            if epoch == self.scale_epoch:
                self._start_missing(now)
        elif epoch == self.epoch[server]:
            (self._end, self._up, self._turn_off)[kind](server, now)

    # --- prompts ---

    def _arrive(self, k: int, now: float) -> None:
        self.present += 1
        if self.shared:
            self._offer(self.queues[0].entry(k), now)
        else:
            server = self._route(k)
            queue = self.queues[server]
            queue.put(queue.entry(k))
            if server in self.idle:
                self._next(server, now)
        if self.scaling:
            self._scale(self.scaling, now)

    def _offer(self, entry: _Entry, now: float) -> None:
        """Put a prompt into the shared queue, from which an idle server takes it."""
        self.queues[0].put(entry)
        if self.idle:
            self._next(self._idle_server(entry[1]), now)

    def _idle_server(self, k: int) -> int:
        if self.fleet.affinity and self.fleet.affinity.overtake:
            model = self._model(k)
            for server in self.idle:
                if self.loaded[server] == model:
                    return server
        return next(reversed(self.idle)) if self.scaling else next(iter(self.idle))

    def _route(self, k: int) -> int:
        """Return the server for a prompt, chosen as by the stations of `metrics/queueing`."""
        count, turn = self.fleet.servers, self.turn
        self.turn += 1
        if self.fleet.dispatch == "least_queue":
            return min(range(count), key=lambda server: (self._at(server), (server - turn) % count))
        return (turn if self.fleet.dispatch == "round_robin" else self.users[k] if self.users else k) % count

    def _at(self, server: int) -> int:
        return self.queues[server].length + (self.running[server] is not None)

    def _model(self, k: int) -> int:
        return self.demand.models[k] if self.demand.models else 0

    # --- servers ---

    def _next(self, server: int, now: float) -> None:
        """Give a free server its next prompt, or make it idle."""
        queue = self.queues[server]
        if queue.length:
            self.idle.pop(server, None)
            self._start(server, queue.take(self.loaded[server], now), now)
            return
        self.idle[server] = None
        if self.scaling:
            heappush(self.events, (now + self.scaling.idle, _OFF, server, self.epoch[server]))

    def _start(self, server: int, entry: _Entry, now: float) -> None:
        k = entry[1]
        seconds = self.demand.services[k]
        if self.fleet.affinity and self.loaded[server] != (model := self._model(k)):
            self.loaded[server] = model
            self.switches += 1
            seconds += self.fleet.affinity.switch
        self.epoch[server] += 1
        self.running[server] = entry
        self.starts[k], self.servers[k] = now, server
        heappush(self.events, (now + seconds, _END, server, self.epoch[server]))

    def _stop(self, server: int) -> _Entry:
        entry = self.running[server]
        assert entry is not None
        self.running[server] = None
        return entry

    def _end(self, server: int, now: float) -> None:
        self.ends[self._stop(server)[1]] = now
        self.left -= 1
        self.present -= 1
        if self.scale_due and self._wanted() <= self._on():
            self.scale_epoch, self.scale_due = self.scale_epoch + 1, False
        self._next(server, now)

    def _up(self, server: int, now: float) -> None:
        if self.fleet.failures:
            lasts = self.chances[server].expovariate(1 / self.fleet.failures.mean_time_between)
            heappush(self.events, (now + lasts, _FAIL, server, self.life[server]))
        self._next(server, now)

    def _down(self, server: int) -> None:
        self.idle.pop(server, None)
        self.loaded[server] = _NONE
        self.epoch[server] += 1
        self.life[server] += 1

    def _fail(self, server: int, now: float) -> None:
        assert self.fleet.failures
        self.failures += 1
        self._down(server)
        heappush(self.events, (now + self.fleet.failures.repair, _UP, server, self.epoch[server]))
        if self.running[server] is None:
            return
        entry = self._stop(server)
        self.lost[server] += now - self.starts[entry[1]]
        if self.shared:
            self._offer(entry, now)
        else:
            self.queues[server].put(entry)

    # --- autoscaling ---

    def _on(self) -> int:
        return self.fleet.servers - len(self.off)

    def _wanted(self) -> int:
        per_server = self.scaling.prompts_per_server if self.scaling else 1
        return min(self.fleet.servers, max(self.minimum, math.ceil(self.present / per_server)))

    def _scale(self, scaling: Autoscaling, now: float) -> None:
        if self.scale_due or self.present <= scaling.prompts_per_server * self._on() or self._wanted() <= self._on():
            return
        due = now + scaling.delay
        if scaling.poll:
            due = scaling.poll * math.ceil(due / scaling.poll)
        if due <= now:
            self._start_missing(now)
        else:
            self.scale_due = True
            heappush(self.events, (due, _SCALE, 0, self.scale_epoch))

    def _start_missing(self, now: float) -> None:
        assert self.scaling
        self.scale_due = False
        while self._on() < self._wanted():
            server = heappop(self.off)
            self.on_since[server] = now
            self.cold_starts += 1
            heappush(self.events, (now + self.scaling.cold_start, _UP, server, self.epoch[server]))

    def _turn_off(self, server: int, now: float) -> None:
        if self._on() > self.minimum:
            self._down(server)
            heappush(self.off, server)
            self.paid += now - self.on_since[server]
