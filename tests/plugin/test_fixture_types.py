"""What editors and type checkers know about a user's file: the fixtures' types state what `load_scenario` accepts.

`mypy --strict`, which also runs on the tests, accepts `_as_a_user_writes_it` and needs each of its ignores.
"""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Any, assert_type

import pytest_comfyload
from pytest_comfyload import ABResult, Capacity, FindCapacity, GpuSampler, LoadResult, RunAB, RunLoad, load_scenario
from pytest_comfyload.plugin.fixture_types import LoadArguments, SharedArguments
from pytest_comfyload.scenario.arguments import ARGUMENTS, fixed_by

if TYPE_CHECKING:

    @load_scenario("txt2img", users=2, iterations=3)
    def _as_a_user_writes_it(
        load: LoadResult, run_load: RunLoad, run_ab: RunAB, find_capacity: FindCapacity, gpu: GpuSampler
    ) -> None:
        assert load.generation_time.p95 < 12
        assert_type(run_load("txt2img", users=[("1m", 2)], inputs={"KSampler.steps": 20}), LoadResult)
        assert_type(run_ab("txt2img", A={}, B={"inputs": {}}, pairs=4, users=2, must_run=["KSampler"]), ABResult)
        assert_type(find_capacity("txt2img", slo="total_time.p95 < 60", budget="10m", seed=3), Capacity)
        with gpu.sampling() as usage:
            pass
        assert usage.vram.peak < 90
        run_load("txt2img", concurrency=3)  # type: ignore[call-arg]
        run_load("txt2img", users="3")  # type: ignore[arg-type]
        run_ab("txt2img", B={})  # type: ignore[call-arg]
        find_capacity("txt2img", slo="total_time.p95 < 60", users=3)  # type: ignore[call-arg]


def test_run_load_takes_what_load_scenario_takes() -> None:
    signature = inspect.signature(load_scenario, eval_str=True).parameters
    hints = typing.get_type_hints(LoadArguments)
    assert hints == {name: signature[name].annotation for name in ARGUMENTS if name != "workflow"}


def test_find_capacity_takes_what_it_does_not_decide_itself() -> None:
    own = {"workflow", "arrival", "think_time", "groups", *fixed_by("find_capacity")}
    assert set(typing.get_type_hints(SharedArguments)) == ARGUMENTS.keys() - own


def test_each_public_name_is_known_to_type_checkers() -> None:
    """The lazily loaded names are exactly those imported for type checkers."""
    source = inspect.getsource(pytest_comfyload)
    checked: dict[str, Any] = {}
    exec(
        "\n".join(line.strip() for line in source.splitlines() if line.startswith("    from pytest_comfyload.")),
        checked,
    )
    assert set(pytest_comfyload.__all__) == {name for name in checked if not name.startswith("__")}
