"""Notes on a run: models that were reloaded after memory ran out."""

from __future__ import annotations

from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.run.notes import reloads_after_oom
from tests.result.made import node, prompt


def sampler(at: float, ready: float) -> tuple[NodeInterval, ...]:
    steps = tuple((at + ready + 0.5 * step, float(step)) for step in (1, 2, 3))
    return (node("KSampler", at, at + ready + 1.5, steps),)


def oom(at: float, server: str = "http://a") -> Outcome:
    return prompt(at, status=OutcomeStatus.OOM, server=server)


def test_the_first_prompt_after_an_oom_loads_again() -> None:
    warmup, steady, after, later = (prompt(at, sampler(at, wait)) for at, wait in ((0, 9), (10, 0.1), (30, 3), (40, 3)))
    assert reloads_after_oom([later, oom(20.0), warmup, after, steady]) == [after]


def test_a_loader_that_runs_again_is_a_reload() -> None:
    after = prompt(30.0, {"CheckpointLoaderSimple": 0.2})
    assert reloads_after_oom([prompt(0.0), oom(20.0), after]) == [after]


def test_no_reload_without_a_cause() -> None:
    ready = prompt(30.0, sampler(30, 0.4))
    loading = prompt(30.0, sampler(30, 3))
    assert reloads_after_oom([prompt(0.0), oom(20.0), ready]) == []
    assert reloads_after_oom([oom(20.0), loading]) == []
    assert reloads_after_oom([prompt(0.0), oom(20.0, server="http://b"), loading]) == []
    assert reloads_after_oom([prompt(0.0), loading]) == []
