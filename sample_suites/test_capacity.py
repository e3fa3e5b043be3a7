"""How many users can a server have at once? It measures about a hundred prompts, computes where the SLO ends, and
confirms that by one more load.

`arrival="poisson"`, the default, asks for prompts per minute instead.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_comfyload import Capacity


def test_capacity(find_capacity: Callable[..., Capacity]) -> None:
    capacity = find_capacity("txt2img", slo="total_time.p95 < 30", arrival="users", budget="30m")
    assert capacity.resolved, capacity.sentence()
    assert capacity.value >= 4  # users, each of whom sends one prompt after the other
