"""A against B: is the new setting faster? Pairs of runs with the same seeds alternate, and there is one verdict.

A server becomes faster or slower while it warms up. Because the runs alternate, this affects both sides alike.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_comfyload import ABResult


def test_fewer_steps_are_faster(run_ab: Callable[..., ABResult]) -> None:
    ab = run_ab(
        "txt2img",
        iterations=1,
        pairs=7,  # the minimum for a verdict
        A={"inputs": {"KSampler.steps": 30}},
        B={"inputs": {"KSampler.steps": 20}},
    )
    assert ab.generation_time.ratio.upper < 0.9  # B ÷ A, upper end of the 90 % interval
    assert ab.total_time.ratio < 1
    assert len(ab.pictures) == 7  # pairs with the same seeds, to look at: pair.A.outputs and pair.B.outputs
