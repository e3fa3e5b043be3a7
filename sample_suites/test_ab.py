"""Is the new version slower? Interleaved runs with the same seeds, and one verdict."""

from __future__ import annotations

from collections.abc import Callable

from pytest_comfyload import ABResult


def test_a_lighter_sampler_is_no_slower(run_ab: Callable[..., ABResult]) -> None:
    ab = run_ab(
        "txt2img",
        iterations=2,
        A={"inputs": {"KSampler.sampler_name": "dpmpp_2m"}},
        B={"inputs": {"KSampler.sampler_name": "euler"}},
    )
    assert ab.generation_time.ratio.upper < 1.05  # B ÷ A, at the high end of the 90 % interval
    assert ab.total_time.ratio < 1.05
