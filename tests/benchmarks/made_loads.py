"""Loads of any size like those of real runs, made without a server: two nodes and one image for each prompt."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator

from pytest_comfyload.metrics.queueing import serve, serve_users
from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus
from pytest_comfyload.result.output_files import FetchedFile
from tests.result.made import run_of

__all__ = ["KINDS", "load_of"]

URL = "http://gpu1:8188"
USERS = 20
# The executor of each kind of load.
KINDS = {"open": "constant arrival rate", "closed": "per-user iterations"}


def load_of(prompts: int, kind: str = "open", seed: int = 1) -> LoadResult:
    """Return a load on one server: Poisson arrivals that keep it 80 % busy, or 20 users."""
    rng = random.Random(seed)
    served = list(_arrived(prompts, rng) if kind == "open" else _by_users(prompts, rng))
    outcomes = [_outcome(k, rng, *each) for k, each in enumerate(served)]
    window = (0.0, max(intended for _, _, intended, _, _ in served) + 1)
    return run_of(
        *outcomes,
        servers=(URL,),
        executors=(KINDS[kind],),
        open_load=kind == "open",
        window=window,
        nodes={"tiny": {"EmptyImage": 1, "SaveImage": 1}},
    )


def _arrived(prompts: int, rng: random.Random) -> Iterator[tuple[int, int, float, float, float]]:
    at = 0.0
    arrivals = [at := at + rng.expovariate(0.8) for _ in range(prompts)]
    services = [rng.lognormvariate(0, 0.3) * 0.956 for _ in range(prompts)]
    passages = serve(arrivals, services)
    for k, (intended, start, service) in enumerate(zip(arrivals, passages.starts, services, strict=True)):
        yield k, 0, intended, start, service


def _by_users(prompts: int, rng: random.Random) -> Iterator[tuple[int, int, float, float, float]]:
    sent: list[tuple[int, int, float]] = []

    def send(user: int, iteration: int, at: float, server: int) -> tuple[float, float] | None:
        if iteration * USERS >= prompts:
            return None
        sent.append((user, iteration, rng.lognormvariate(0, 0.3)))
        return sent[-1][2], rng.uniform(0.05, 0.15)

    passages = serve_users(USERS, send)
    for (user, iteration, service), at, start in zip(sent, passages.arrivals, passages.starts, strict=True):
        yield user, iteration, at, start, service


def _outcome(
    k: int, rng: random.Random, user: int, iteration: int, intended: float, start: float, service: float
) -> Outcome:
    sent, started = intended + 0.001, start + 0.01
    end = started + service
    nodes = (
        NodeInterval("1", "EmptyImage", started, started + 0.3 * service),
        NodeInterval("2", "SaveImage", started + 0.3 * service, end),
    )
    return Outcome(
        str(uuid.UUID(int=rng.getrandbits(128))),
        URL,
        f"client-{user}",
        user,
        iteration,
        "tiny",
        OutcomeStatus.SUCCESS,
        intended,
        cache_class=CacheClass.COLD,
        timeline=Timeline(0.001, sent, intended + 0.01, started, end, end + 0.01, end + 0.03, nodes),
        outputs=(FetchedFile("2", "images", f"tiny_{k:05}_.png", "", "output", 180, 64, 64, f"{k:032x}"),),
        inputs={"EmptyImage.color": k},
        generator_lag=0.0004,
    )
