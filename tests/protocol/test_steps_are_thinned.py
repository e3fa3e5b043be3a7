"""A node of ten thousand steps is thinned to 64 points, including the first and the last."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.protocol.events import ExecutionStart, ExecutionSuccess, Progress
from pytest_comfyload.protocol.prompt_state import PromptState


@given(st.one_of(st.integers(0, 70), st.integers(0, 3000)))
def test_thinned(count: int) -> None:
    state = PromptState("p", {"3": "KSampler"})
    state.send(0.0)
    state.apply(ExecutionStart("p", 1.0), 1.0)
    for step in range(1, count + 1):
        state.apply(Progress("p", "3", float(step), float(count)), 1.0 + step / 10)
    state.apply(ExecutionSuccess("p", 500.0), 500.0)
    nodes = state.timeline(0.0, 0.0).nodes
    steps = nodes[0].steps if nodes else ()
    assert len(steps) == min(count, 64)
    values = [value for _, value in steps]
    assert values == sorted(set(values))
    assert not count or (values[0], values[-1]) == (1.0, float(count))
    gaps = [later - earlier for earlier, later in pairwise(values)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert count < 2 or abs((nodes[0].steps_per_second or 0) - 10) < 1e-6
