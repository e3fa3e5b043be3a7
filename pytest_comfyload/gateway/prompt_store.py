"""The prompts of all gateways, in Redis: the queue, the results and the events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from pytest_comfyload.gateway.redis_calls import LONG, PREFIX, SHORT, RedisCalls, StoreFull, as_text

__all__ = ["NewPrompt", "PromptStore", "StoredPrompt", "TakenPrompt"]

# Maximum number of finished prompts in the history of one user.
MOST_KEPT = 1000
# Seconds for which the owner of an upload is stored: files without an owner can be read by all users.
_UPLOADS_KEPT = 90 * 24 * 3600
# Maximum number of prompts in the answer to GET /queue.
MOST_SHOWN = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPrompt:
    """A prompt to be queued.

    `order` is its place among its user's prompts: a number, `front`, or empty for the end. `fit` names the workers that
    can execute it, as `NodeCatalog.judge` returns them.
    """

    id: str
    user: str
    client: str
    priority: int
    order: str
    body: bytes
    fit: str
    model: str
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenPrompt:
    """A prompt taken for a worker. `link`: the client id it was sent with; `found`: the worker already has it."""

    id: str
    body: Mapping[str, Any]
    user: str
    client: str
    attempt: int
    number: int
    created: float
    link: str
    found: bool


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """One of a user's prompts that have not ended."""

    id: str
    number: int
    body: Mapping[str, Any]
    created: float
    client: str
    size: int
    is_running: bool


class PromptStore(RedisCalls):
    """The queue, the results and the events.

    Args:
        keep: Seconds for which results and events are kept.
        bounds: The maximum number of waiting prompts, the maximum of their total bytes, the seconds between two prompts
            of a user (0: no limit), and the burst that is allowed beyond that rate.
    """

    def __init__(self, url: str, keep: float, bounds: tuple[int, int, float, int]) -> None:
        super().__init__(url)
        self._keep = max(1, round(keep))
        self._bounds = bounds

    # --- scripts ---

    async def enqueue(self, new: NewPrompt) -> list[str]:
        """Queue a prompt, and return the script's answer. Raises: StoreUnavailable."""
        most, most_bytes, interval, burst = self._bounds
        what = (new.id, new.user, new.client, new.priority, new.order, new.body, len(new.body), new.fit, new.model)
        try:
            answer = await self.run("enqueue", SHORT, *what, new.created, most, most_bytes, interval, burst)
        except StoreFull:
            return ["full"]
        return [as_text(each) for each in answer]

    async def take(
        self, worker: str, gateway: str, token: str, lease: float, loaded: str, link: str, wanted: str = ""
    ) -> TakenPrompt | None:
        """Return the prompt that the worker is to execute; None if there is none, or another gateway drives the worker.

        `wanted` is the id of a prompt that was returned to the queue although the worker still executes it.

        Raises: StoreUnavailable.
        """
        word, *fields = await self.run("take", LONG, worker, gateway, token, lease, loaded, link, wanted)
        return _taken(fields[0], fields[1:], found=word == b"found") if word in (b"new", b"found") else None

    async def lookup(self, id: str) -> TakenPrompt | None:
        """Return a prompt regardless of its state, or None if it is not stored. Raises: StoreUnavailable."""
        [fields] = await self.fields([id], *_TAKEN)
        return None if fields[1] is None else _taken(id, fields, found=True)

    async def place_of(self, id: str) -> tuple[str, str]:
        """Return a prompt's state, and the worker that has or had it. Raises: StoreUnavailable."""
        [(state, worker)] = await self.fields([id], "state", "worker")
        return as_text(state), as_text(worker)

    async def held(self, worker: str) -> str:
        """Return the id of the prompt that the worker has; empty for none. Raises: StoreUnavailable."""
        return as_text(await self.do(LONG, "HGET", "running", worker))

    async def renew(self, id: str, token: str, lease: float) -> str:
        """Renew the lease of a prompt; return `ok`, `cancelled` or `stale`. Raises: StoreUnavailable."""
        return as_text(await self.run("renew", LONG, id, token, lease))

    async def give_back(self, id: str, token: str, *, suspicion: bool) -> bool:
        """Return a prompt to the queue; False if the prompt is no longer this token's. Raises: StoreUnavailable."""
        return bool(await self.run("give_back", LONG, id, token, "1" if suspicion else "") == b"ok")

    async def finish(
        self,
        id: str,
        token: str,
        attempt: int,
        status: str,
        entry: bytes,
        told: Sequence[bytes],
        frames: Sequence[bytes],
        files: Iterable[str],
    ) -> str:
        """Store the result of a prompt and send `frames` to its client, unless there already is a result.

        `told` are frames that the client was sent before; they are stored for replay. Returns the script's answer.

        Raises: StoreUnavailable.
        """
        rest = (self._keep, MOST_KEPT, len(told), len(frames), *told, *frames, *files)
        return as_text(await self.run("finish", LONG, id, token, attempt, status, entry, *rest))

    async def cancel(self, user: str, ids: Iterable[str], *, waiting: bool = False, running: bool = False) -> list[str]:
        """Cancel prompts; return the workers to interrupt, each followed by its prompt. Raises: StoreUnavailable."""
        flags = ("1" if waiting else "", "1" if running else "")
        return [as_text(each) for each in await self.run("cancel", SHORT, user, *flags, *ids)]

    async def own(self, worker: str, gateway: str, lease: float) -> bool:
        """Drive a worker for another `lease` seconds (0: release it); return whether the gateway drives it now.

        Raises: StoreUnavailable.
        """
        return bool(await self.run("own", SHORT, worker, gateway, lease))

    # --- plain commands ---

    async def worker_name(self, url: str) -> str:
        """Return a worker's name, which is the same in all gateways and after restarts. Raises: StoreUnavailable."""
        if (known := await self.do(SHORT, "HGET", "workers", url)) is None:
            number = await self.do(SHORT, "HINCRBY", "totals", "workers", 1)
            await self.do(SHORT, "HSETNX", "workers", url, f"w{number}")
            known = await self.do(SHORT, "HGET", "workers", url)
        return as_text(known)

    async def publish(self, channel: str, frames: Sequence[bytes]) -> bool:
        """Send a client progress messages, which are not stored; return whether all of them were received."""
        pipe = self.redis.pipeline(transaction=False)
        for frame in frames:
            pipe.execute_command("PUBLISH", PREFIX + channel, b"|" + frame)
        try:
            return all(await pipe.execute())
        except (RedisError, OSError):
            return False

    async def queued(self, user: str) -> list[StoredPrompt]:
        """Return a user's prompts that have not ended. Raises: StoreUnavailable."""
        ids = await self.do(SHORT, "ZRANGE", f"mine:{user}", 0, MOST_SHOWN - 1)
        rows = await self.fields(map(as_text, ids), "number", "body", "created", "client", "state")
        return [
            StoredPrompt(
                as_text(id),
                int(number),
                json.loads(body),
                float(created),
                as_text(client),
                len(body),
                state == b"running",
            )
            for id, (number, body, created, client, state) in zip(ids, rows, strict=True)
            if body is not None
        ]

    async def unended(self, user: str) -> list[str]:
        """Return the ids of a user's prompts that have not ended. Raises: StoreUnavailable."""
        return [as_text(each) for each in await self.do(SHORT, "ZRANGE", f"mine:{user}", 0, -1)]

    async def entry(self, user: str, id: str) -> bytes | None:
        """Return the history entry of one of the user's prompts, or None. Raises: StoreUnavailable."""
        [(owner, entry)] = await self.fields([id], "user", "entry")
        return bytes(entry) if entry is not None and as_text(owner) == user else None

    async def history(self, user: str) -> list[str]:
        """Return the ids of a user's finished prompts, newest last. Raises: StoreUnavailable."""
        return [as_text(each) for each in await self.do(SHORT, "ZRANGE", f"history:{user}", 0, -1)]

    async def entries(self, user: str, ids: Iterable[str]) -> dict[str, bytes]:
        """Return the history entries of those prompts that are the user's. Raises: StoreUnavailable."""
        wanted = list(ids)
        rows = await self.fields(wanted, "user", "entry")
        return {
            id: bytes(entry)
            for id, (owner, entry) in zip(wanted, rows, strict=True)
            if entry is not None and as_text(owner) == user
        }

    async def forget(self, user: str, ids: Iterable[str]) -> None:
        """Remove finished prompts from a user's history. Raises: StoreUnavailable."""
        for id in await self.entries(user, ids):
            await self.do(SHORT, "ZREM", f"history:{user}", id)
            await self.do(SHORT, "DEL", f"prompt:{id}")

    async def suspects(self, worker: str) -> dict[str, int]:
        """Return prompts that the worker may have executed after they were returned to the queue, with their attempt.

        Raises: StoreUnavailable.
        """
        pairs = await self.do(LONG, "HGETALL", f"suspects:{worker}")
        return {as_text(id): int(attempt) for id, attempt in pairs.items()}

    async def clear_suspect(self, worker: str, id: str) -> None:
        """Remove a prompt from those that `suspects` returns. Raises: StoreUnavailable."""
        await self.do(LONG, "HDEL", f"suspects:{worker}", id)

    async def orphans(self, overdue: float) -> list[tuple[str, str]]:
        """Return up to 20 prompts whose lease ended at least `overdue` seconds ago, with their tokens.

        Raises: StoreUnavailable.
        """
        # Leases are on the clock of Redis.
        seconds, _ = await self._patiently(lambda: self.redis.execute_command("TIME"), SHORT)
        late = await self.do(SHORT, "ZRANGE", "leases", "-inf", int(seconds) - overdue, "BYSCORE", "LIMIT", 0, 20)
        rows = await self.fields(map(as_text, late), "token")
        return [(as_text(id), as_text(token)) for id, (token,) in zip(late, rows, strict=True) if token is not None]

    async def own_upload(self, path: str, user: str, version: str, workers: Iterable[str]) -> None:
        """Store the owner of an uploaded file, and which workers have this version of it. Raises: StoreUnavailable."""
        await self.do(SHORT, "SET", f"file:{path}", user, "EX", _UPLOADS_KEPT)
        has = [word for worker in ("", *workers) for word in (worker, version)]
        await self.do(SHORT, "HSET", f"copies:{path}", *has)
        await self.do(SHORT, "EXPIRE", f"copies:{path}", _UPLOADS_KEPT)

    async def upload_versions(self, path: str) -> dict[str, str]:
        """Return the version of an upload that each worker has; that of "" is the newest. Raises: StoreUnavailable."""
        pairs = await self.do(SHORT, "HGETALL", f"copies:{path}")
        return {as_text(worker): as_text(version) for worker, version in pairs.items()}

    async def note_copy(self, path: str, worker: str, version: str) -> None:
        """Record that a worker has this version of an upload. Raises: StoreUnavailable."""
        await self.do(SHORT, "HSET", f"copies:{path}", worker, version)

    async def owner_of(self, path: str) -> str:
        """Return the user who owns a file; empty if unknown. Raises: StoreUnavailable."""
        return as_text(await self.do(SHORT, "GET", f"file:{path}"))

    async def events(self, channel: str, after: str) -> list[tuple[str, bytes]]:
        """Return the events after `after` that a client must get, with their ids. Raises: StoreUnavailable."""
        found = await self.do(SHORT, "XRANGE", f"events:{channel}", f"({after}" if after else "-", "+")
        return [(as_text(id), dict(_pairs(fields))[b"frame"]) for id, fields in found]

    async def cursor(self, channel: str) -> str:
        """Return the last event that the client has confirmed. Raises: StoreUnavailable."""
        return as_text(await self.do(SHORT, "GET", f"cursor:{channel}"))

    async def confirm(self, channel: str, event: str) -> None:
        """Store the last event that the client has confirmed. Raises: StoreUnavailable."""
        await self.do(SHORT, "SET", f"cursor:{channel}", event, "EX", self._keep)

    async def totals(self) -> dict[str, float]:
        """Return the totals over all gateways: waiting, bytes, running, retries, twice. Raises: StoreUnavailable."""
        pairs = await self.do(SHORT, "HGETALL", "totals")
        running = await self.do(SHORT, "HLEN", "running")
        return {as_text(name): float(value) for name, value in pairs.items()} | {"running": float(running)}

    async def remaining(self) -> int:
        """Return the number of prompts that wait or run. Raises: StoreUnavailable."""
        waiting = await self.do(SHORT, "HGET", "totals", "waiting")
        return int(waiting or 0) + int(await self.do(SHORT, "HLEN", "running"))


# In the order in which `take.lua` answers.
_TAKEN = ("body", "user", "client", "tries", "number", "created", "link")


def _taken(id: Any, fields: Sequence[Any], *, found: bool) -> TakenPrompt:
    body, user, client, tries, number, created, link = fields
    return TakenPrompt(
        id=as_text(id),
        body=json.loads(body or b"{}"),
        user=as_text(user),
        client=as_text(client),
        attempt=int(tries),
        number=int(number),
        created=float(created),
        link=as_text(link),
        found=found,
    )


def _pairs(fields: Any) -> Iterable[tuple[Any, Any]]:
    """Read pairs as either version of the Redis protocol sends them: a mapping, or alternating keys and values."""
    return fields.items() if isinstance(fields, Mapping) else zip(fields[::2], fields[1::2], strict=True)
