"""The ways to run servers that a plan compares."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_comfyload.capacity.evaluation import Variant
from pytest_comfyload.capacity.fleet import Autoscaling, Fleet

__all__ = ["VARIANTS", "serverless"]

# Round robin represents the load balancers: it is the default of nginx.
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
    """Return the variant that starts a server for each prompt, and turns it off after `idle` seconds.

    `start` is the duration of a cold start in seconds, including loading the model.
    """
    scaling = Autoscaling(cold_start=start, idle=idle)
    return Variant("serverless", f"{start:.3g} s cold start", Fleet(autoscaling=scaling))
