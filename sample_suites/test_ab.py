"""Is the new version faster? Interleaved runs with the same seeds, one verdict, and the pictures side by side."""

from __future__ import annotations

from collections.abc import Callable

from pytest_comfyload import ABResult


def test_fewer_steps_are_worth_it(run_ab: Callable[..., ABResult]) -> None:
    ab = run_ab(
        "txt2img",
        iterations=2,
        A={"inputs": {"KSampler.steps": 30}},
        B={"inputs": {"KSampler.steps": 20}},
    )
    assert ab.generation_time.ratio.upper < 0.9  # B ÷ A, at the high end of the 90 % interval
    assert ab.total_time.ratio < 1
    assert len(ab.pictures) == 16  # to be looked at: pair.A.outputs and pair.B.outputs are of the same seed
