"""How many simultaneous users can a server take within an SLO?

The search measures about a hundred prompts, computes the largest load that meets the SLO, and confirms it with another
load. With `arrival="poisson"`, the default, the answer is in prompts per minute instead.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_comfyload import Capacity


def test_capacity(find_capacity: Callable[..., Capacity]) -> None:
    capacity = find_capacity("txt2img", slo="total_time.p95 < 30", arrival="users", budget="30m")
    assert capacity.resolved, capacity.sentence()
    assert capacity.value >= 4  # users, each of whom sends one prompt after the other
