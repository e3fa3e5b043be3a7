"""Loads whose prompts queued for virtual servers, with service times from any draw."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from pytest_comfyload.metrics.queueing import Dispatch, serve, serve_users
from pytest_comfyload.protocol.timeline import Timeline
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus
from tests.result.made import run_of

__all__ = ["SUBMIT", "URLS", "Draw", "arrived", "lognormal", "of_users"]

# Seconds from the intended start until the prompt is queued.
SUBMIT = 0.01
URLS = ("http://a", "http://b", "http://c")

# Returns the generation time of prompt number k on server number s.
Draw = Callable[[int, int], float]


def lognormal(rng: random.Random, cv: float, mean: float = 1.0) -> Draw:
    return lambda k, server: mean * rng.lognormvariate(-cv * cv / 2, cv)


def arrived(
    at: Sequence[float], draw: Draw, servers: int = 1, balance: Dispatch = "least_queue", **facts: Any
) -> LoadResult:
    """Return an open load, or a burst if all prompts arrive at once."""
    served: list[tuple[float, int]] = []

    def service(k: int, server: int) -> float:
        served.append((draw(k, server), server))
        return served[-1][0]

    passages = serve(at, service, servers, balance)
    outcomes = [_outcome(k, 0, *each) for k, each in enumerate(zip(at, passages.starts, served, strict=True))]
    burst = len(set(at)) == 1 and len(at) > 1
    plain = {"executors": ("burst" if burst else "constant arrival rate",), "open_load": not burst}
    window = (0.0, max(at) if not burst else max(passages.ends))
    return run_of(*outcomes, servers=URLS[:servers], balance=balance, window=window, **(plain | facts))


def of_users(
    users: int,
    iterations: int,
    draw: Draw,
    servers: int = 1,
    balance: Dispatch = "least_queue",
    think: Callable[[], float] = lambda: 0.0,
    **facts: Any,
) -> LoadResult:
    """Return a closed load with `iterations` iterations for each user."""
    sent: list[tuple[int, int, float, int]] = []

    def send(user: int, iteration: int, at: float, server: int) -> tuple[float, float] | None:
        if iteration == iterations:
            return None
        sent.append((user, iteration, draw(iteration * users + user, server), server))
        return sent[-1][2], think()

    passages = serve_users(users, send, servers, balance)
    outcomes = [
        _outcome(user, iteration, at, start, (service, server))
        for (user, iteration, service, server), at, start in zip(sent, passages.arrivals, passages.starts, strict=True)
    ]
    plain = {"executors": ("per-user iterations",), "window": (0.0, max(passages.ends))}
    return run_of(*outcomes, servers=URLS[:servers], balance=balance, **(plain | facts))


def _outcome(user: int, iteration: int, at: float, start: float, service: tuple[float, int]) -> Outcome:
    seconds, server = service
    end = start + SUBMIT + seconds
    return Outcome(
        f"{user}/{iteration}", URLS[server], "c", user, iteration, "w", OutcomeStatus.SUCCESS, at,
        cache_class=CacheClass.WARM, timeline=Timeline(0.0, at, at + SUBMIT, start + SUBMIT, end, end, end),
    )  # fmt: skip
