"""The ways to run servers that a plan compares, and what speaks for and against each in the figures of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_comfyload.capacity.evaluation import Variant
from pytest_comfyload.capacity.fleet import Autoscaling, Fleet

__all__ = ["VARIANTS", "serverless"]

# Round robin stands for the balancers: it is what nginx does unless told otherwise.
VARIANTS: Sequence[Variant] = (
    Variant("queue", "one queue", Fleet()),
    Variant("queue", "one queue, people in turn", Fleet(queue="fair"), main=False),
    Variant("queue", "one queue, every tenth person first", Fleet(queue="priority"), main=False),
    Variant("horizontal", "round robin", Fleet(dispatch="round_robin")),
    Variant("horizontal", "least queue", Fleet(dispatch="least_queue"), main=False),
    Variant("horizontal", "random", Fleet(dispatch="random"), main=False),
    Variant("horizontal", "sticky", Fleet(dispatch="sticky"), main=False),
)


def serverless(start: float, idle: float) -> Variant:
    """One server for each prompt, off after `idle` seconds; `start` is a cold start, the model's loading included."""
    scaling = Autoscaling(cold_start=start, idle=idle)
    return Variant("serverless", f"{start:.3g} s cold start", Fleet(autoscaling=scaling))
