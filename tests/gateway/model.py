"""A plain Python model of the gateway's Lua scripts, for the property test that compares the two."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["Model", "ModelPrompt"]

CLASS, HIGHEST = 1e9, 2
USERS, WINDOW, PASSED = 64, 8, 4


@dataclass
class ModelPrompt:
    """A prompt; `order` is its place among its user's prompts of the same priority."""

    id: str
    user: str
    priority: int
    order: float
    number: int
    size: int
    fit: str
    model: str
    state: str = "waiting"
    tries: int = 0
    token: str = ""
    worker: str = ""
    passed: int = 0
    taken: float = 0.0
    estimate: float = 0.0
    cancelled: bool = False
    ended_try: str = ""


@dataclass
class Model:
    """The queue as it should be in Redis. Times are in seconds."""

    most: int
    most_bytes: int
    interval: float
    burst: int
    prompts: dict[str, ModelPrompt] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    suspects: dict[tuple[str, str], str] = field(default_factory=dict)
    virtual: dict[str, float] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)
    number: int = 0
    clock: float = 0.0
    mean: float = 1.0
    retries: int = 0
    twice: int = 0

    @property
    def waiting(self) -> list[ModelPrompt]:
        """Waiting prompts, in the order of the queue."""
        return sorted(
            (each for each in self.prompts.values() if each.state == "waiting"),
            key=lambda each: (self._score(each), self._turn(each), each.order, each.number),
        )

    def enqueue(
        self, now: float, id: str, user: str, priority: int, order: str, size: int, fit: str, model: str
    ) -> list[str]:
        if id in self.prompts:
            known = self.prompts[id]
            return ["same", str(known.number)] if known.user == user else ["taken"]
        due = max(now, self.due.get(user, 0.0))
        if due - now > self.burst * self.interval:
            return ["slow"]
        waiting = self.waiting
        if len(waiting) >= self.most or sum(each.size for each in waiting) + size > self.most_bytes:
            return ["full"]
        if self.interval:
            self.due[user] = due + self.interval
        if not self._active(user):
            self.virtual[user] = max(self.virtual.get(user, 0.0), self.clock)
        self.number += 1
        own = {"": float(self.number), "front": -float(self.number)}.get(order)
        place = float(order) if own is None else own
        self.prompts[id] = ModelPrompt(id, user, priority, place, self.number, size, fit, model)
        return ["ok", str(self.number)]

    def take(self, now: float, worker: str, gateway: str, token: str, loaded: str, wanted: str = "") -> list[str]:
        if self.owners.get(worker) != gateway:
            return ["not owner"]
        if worker in self.running:
            held = self.prompts[self.running[worker]]
            word = "new" if held.token == token else "found"
            held.token = token
            return [word, held.id]
        if wanted:
            known = self.prompts.get(wanted)
            return self._begin(known, "found", now, worker, token) if known and known.state == "waiting" else ["none"]
        for turn in self._turns():
            chosen = self._choose(turn, worker, loaded)
            if chosen is not None:
                chosen.tries += 1
                return self._begin(chosen, "new", now, worker, token)
        return ["none"]

    def _begin(self, chosen: ModelPrompt, word: str, now: float, worker: str, token: str) -> list[str]:
        chosen.state, chosen.worker, chosen.token = "running", worker, token
        chosen.taken, chosen.estimate = now, self.mean
        self.running[worker] = chosen.id
        self.clock = max(self.clock, self.virtual[chosen.user])
        self.virtual[chosen.user] += self.mean
        return [word, chosen.id]

    def renew(self, id: str, token: str) -> str:
        prompt = self.prompts.get(id)
        if prompt is None or prompt.state != "running" or prompt.token != token:
            return "stale"
        return "cancelled" if prompt.cancelled else "ok"

    def give_back(self, id: str, token: str, suspicion: str) -> str:
        prompt = self.prompts.get(id)
        if prompt is None or prompt.state != "running" or prompt.token != token:
            return "stale"
        del self.running[prompt.worker]
        prompt.state = "waiting"
        self.virtual[prompt.user] -= prompt.estimate
        self.retries += 1
        if suspicion:
            self.suspects[prompt.worker, id] = str(prompt.tries)
        return "ok"

    def finish(self, now: float, id: str, token: str, attempt: str) -> str:
        prompt = self.prompts.get(id)
        if prompt is None:
            return "gone"
        if prompt.state == "ended":
            if prompt.token == token:
                return "ok"
            if prompt.ended_try == attempt:
                return "same"
            self.twice += 1
            return "late"
        if prompt.state == "running":
            took = now - prompt.taken
            del self.running[prompt.worker]
            self.virtual[prompt.user] += took - prompt.estimate
            self.mean = self.mean * 0.9 + took * 0.1
        prompt.state, prompt.token, prompt.ended_try = "ended", token, attempt
        idle = [each for each, at in self.virtual.items() if at <= self.clock and not self._active(each)]
        for user in sorted(idle, key=lambda each: (self.virtual[each], each)):
            del self.virtual[user]
        return "ok"

    def cancel(self, user: str, ids: list[str], *, waiting: bool, running: bool) -> list[str]:
        found: list[str] = []
        for id in ids:
            prompt = self.prompts.get(id)
            if prompt is None or prompt.user != user:
                continue
            if prompt.state == "waiting" and waiting:
                del self.prompts[id]
            elif prompt.state == "running" and running:
                prompt.cancelled = True
                found += [prompt.worker, id]
        return found

    def own(self, worker: str, gateway: str) -> int:
        return int(self.owners.setdefault(worker, gateway) == gateway)

    def _active(self, user: str) -> bool:
        return any(each.user == user and each.state != "ended" for each in self.prompts.values())

    def _score(self, prompt: ModelPrompt) -> float:
        return self.virtual.get(prompt.user, self.clock) - prompt.priority * CLASS

    def _turn(self, prompt: ModelPrompt) -> str:
        return f"{prompt.priority}:{prompt.user}"

    def _turns(self) -> list[list[ModelPrompt]]:
        turns: dict[str, list[ModelPrompt]] = {}
        for prompt in self.waiting:
            turns.setdefault(self._turn(prompt), []).append(prompt)
        return list(turns.values())[:USERS]

    def _choose(self, turn: list[ModelPrompt], worker: str, loaded: str) -> ModelPrompt | None:
        fitting = [each for each in turn[:WINDOW] if not each.fit or f",{worker}," in each.fit]
        if not fitting:
            return None
        first = fitting[0]
        near = next((each for each in fitting if loaded and each.model == loaded), None)
        if near is None or first.model == loaded or first.passed >= PASSED:
            return first
        first.passed += 1
        return near

    def is_finite(self) -> bool:
        return all(map(math.isfinite, [*self.virtual.values(), self.clock, self.mean]))
