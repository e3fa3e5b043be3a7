"""Hand-made outcomes with executed nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import RunFacts

__all__ = ["node", "prompt", "run_of"]

LENGTH = 4.0


def node(class_type: str, start: float, end: float, steps: tuple[tuple[float, float], ...] = ()) -> NodeInterval:
    return NodeInterval(class_type, class_type, start, end, steps)


def prompt(intended: float = 0.0, nodes: Mapping[str, float] | tuple[NodeInterval, ...] = (), **facts: Any) -> Outcome:
    """Return a prompt of four seconds; `nodes` are intervals, or seconds by class, counted from `intended`."""
    if isinstance(nodes, Mapping):
        nodes = tuple(node(name, intended, intended + seconds) for name, seconds in nodes.items())
    end = intended + LENGTH
    timeline = Timeline(0.0, intended, intended, intended, end, end, end, nodes)
    plain = {
        "prompt_id": f"p{intended}", "server": "http://a", "client_id": "c", "user": 0, "iteration": 0,
        "workflow": "w", "status": OutcomeStatus.SUCCESS, "intended": intended, "timeline": timeline,
    }  # fmt: skip
    return Outcome(**{**plain, **facts})


def run_of(*outcomes: Outcome, window: tuple[float, float] = (0.0, 100.0), **facts: Any) -> LoadResult:
    measured = sum(1 for outcome in outcomes if not outcome.warmup)
    plain = {
        "run_id": "r", "title": "t", "scenario": "s", "workflow": "w", "servers": ("http://a",), "seed": 1,
        "epoch": 0.0, "window": window, "time_scale": None, "intended": measured, "submitted": measured,
        "loop_lag": 0.0, "max_send_lag": 0.1,
    }  # fmt: skip
    return LoadResult(RunFacts(**{**plain, **facts}), outcomes)
