"""Hand-made outcomes."""

from __future__ import annotations

from typing import Any

from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus
from pytest_comfyload.result.output_files import FetchedFile
from pytest_comfyload.result.run_facts import RunFacts

__all__ = ["failure", "load_of", "outcome", "picture"]


def picture(type: str = "output", name: str = "a.png", *, kind: str = "images", blank: bool = False) -> FetchedFile:
    return FetchedFile("9", kind, name, "", type, 1000, 64, 64, blank=blank)


def outcome(
    at: float = 0.0,
    *,
    lag: float = 0.0,
    submit: float = 0.1,
    queue: float = 1.0,
    generation: float = 2.0,
    delivery: float = 0.2,
    fetch: float = 0.3,
    nodes: tuple[NodeInterval, ...] = (),
    **fields: Any,
) -> Outcome:
    """Return a successful prompt that was to be sent at `at`; all times are in seconds."""
    points = [at + lag]
    for length in (submit, queue, generation, delivery, fetch):
        points.append(points[-1] + length)
    sent, accepted, started, ended, delivered, fetched = points
    timeline = Timeline(lag, sent, accepted, started, ended, delivered, fetched, nodes)
    return _made(at, {"outputs": (picture(),), "timeline": timeline, "cache_class": CacheClass.WARM, **fields})


def failure(status: OutcomeStatus, timeline: Timeline | None = None, **fields: Any) -> Outcome:
    return _made(0.0, {"status": status, "timeline": timeline, **fields})


def _made(at: float, fields: dict[str, Any]) -> Outcome:
    plain: dict[str, Any] = {
        "prompt_id": "11111111-2222-3333-4444-555555555555",
        "server": "http://gpu1:8188",
        "client_id": "c",
        "user": 0,
        "iteration": 0,
        "workflow": "txt2img",
        "status": OutcomeStatus.SUCCESS,
        "intended": at,
    }
    return Outcome(**(plain | fields))


def load_of(*outcomes: Outcome, **facts: Any) -> LoadResult:
    sent = sum(1 for outcome in outcomes if not outcome.warmup)
    plain: dict[str, Any] = {
        "run_id": "run-1",
        "title": "test_slo",
        "scenario": "users=1",
        "workflow": "txt2img",
        "servers": ("http://gpu1:8188",),
        "seed": 7,
        "epoch": 1.8e9,
        "window": (0.0, 60.0),
        "time_scale": None,
        "intended": sent,
        "submitted": sent,
        "loop_lag": 0.001,
        "max_send_lag": 0.1,
    }
    return LoadResult(RunFacts(**(plain | facts)), outcomes)
