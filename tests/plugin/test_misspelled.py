"""A metric that does not exist is a collection error, before any load; doubtful cases are left alone."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from pytest_comfyload.capacity.answer import Capacity
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.plugin.misspelled import _names_of
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.telemetry import Throttled
from tests.plugin.suite import Suite
from tests.result.outcomes import load_of, outcome

MARK = 'load_scenario("txt2img", users=2)'

# Body of a test -> what its one line must say.
WRONG = {
    "load.generation_time.p59 < 3": "load.generation_time.p59 does not exist; the nearest: p99, p95, p90, p50",
    "load.errors.total == 0": "load.errors.total does not exist; legal: ",
    "load.trouhgput > 4": "load.trouhgput does not exist; the nearest: throughput",
    "load.gpu.utilisation.mean > 4": "load.gpu.utilisation does not exist; the nearest: utilization",
    "load.gpu.throttled.reasons['sw_termal'] < 1": "does not exist; the nearest: sw_thermal, hw_thermal",
    "load.by('wrokflow')['txt2img'].timeouts == 0": "load.by('wrokflow') does not exist; the nearest: workflow, ",
    "load.by('workflow')['txt2img'].timeout == 0": ".timeout does not exist; the nearest: timeouts",
    "load.errors['timout'] == 0": "load.errors['timout'] does not exist; the nearest: timeout",
    "load.node_time['KSampler'].q95 < 3": "load.node_time['KSampler'].q95 does not exist; the nearest: p95",
    "load.goodput(total_time=3).shares > 9": ".shares does not exist; the nearest: share",
    "load.total_time.percentile(95).uper < 9": ".uper does not exist; the nearest: upper",
    "all(load.queue_time.p96 < bound for bound in (1, 2))": "load.queue_time.p96 does not exist",
}
ALSO = """
class TestAlias:
    pytestmark = {mark}
    def test_alias(self, load):
        gen = load.generation_time
        early = load.between("0s", "5m")
        if early.simulated:
            assert gen.p59 < 3 and early.total_tim.p95 < 3

@{mark}
@pytest.mark.parametrize("bound", [1, 2])
def test_parameter(load, bound):
    assert load.throughputs > bound

def test_by_hand(run_load):
    result = run_load("txt2img")
    assert result.succes_rate == 100

def test_ab(run_ab):
    assert run_ab("txt2img").generation_tme.ratio < 1

def test_capacity(find_capacity):
    capacity = find_capacity("txt2img", slo="total_time.p95 < 60")
    assert capacity.valeu > 4
"""

UNCERTAIN = """
import contextlib

@pytest.fixture
def mine(load):
    return load

def judge(load):
    assert load.nonsense

def other(load):
    load = 3
    assert load.nonsense

@{mark}
class TestLoad:
    def test_guarded(self, load):
        if hasattr(load, "nonsense"):
            assert load.nonsense
        value = load.nonsense if hasattr(load, "nonsense") else 0
        hasattr(load, "nonsense") and load.nonsense
        with pytest.raises(AttributeError):
            load.nonsense
        with contextlib.suppress(AttributeError):
            load.nonsense
        try:
            load.nonsense
        except AttributeError:
            pass
        assert getattr(load, "nonsense", 0) == 0

    def test_scopes(self, load):
        judge(load)
        [load.nonsense for load in ()]
        later = lambda load: load.nonsense
        def inner(load):
            return load.nonsense

    def test_bound_twice(self, load):
        gen = load.generation_time
        gen = load.outcomes
        gen.nonsense
        for gen in (): gen.nonsense
        load.mine = 3
        assert load.mine == 3
        load.by("KSampler.steps")[20].oom_errors
        load.baseline.nonsense.p59
        load.errors.values(), load.node_time.items(), load.node_time["Foo"].points
        load.facts.nonsense, load._nonsense, load.generation_time.mean.real

    def test_fixture(self, mine):
        mine.nonsense

    @pytest.mark.parametrize("load", [3])
    def test_parametrised(self, load):
        load.nonsense

@{mark}
def test_rebound(load):
    load = load.nonsense if False else 3
    load.nonsense
"""

FOREIGN = """
@pytest.fixture
def load():
    return 3

def test_theirs(load):
    assert load.nonsense
"""


@pytest.mark.parametrize("how", [[], ["-n2"]], ids=["plain", "xdist"])
def test_each_name_is_told_before_any_load(suite: Suite, how: list[str]) -> None:
    for number, body in enumerate(WRONG):
        suite.write(
            f"test_{number}.py",
            f"@{MARK}\ndef test_it(load):\n    assert load.success_rate == 100\n    assert {body}\n",
        )
    result = suite.run(*how, "--comfyui-url", "http://127.0.0.1:9")
    for number, words in enumerate(WRONG.values()):
        told = [line for line in result.outlines if line.startswith(f"test_{number}.py::test_it: line ")]
        assert len(told) == 1
        assert words in told[0]
    output = result.stdout.str()
    assert "Traceback" not in output
    assert "connection refused" not in output


def test_in_every_kind_of_test(suite: Suite) -> None:
    parts = ALSO.format(mark=MARK).split("\n\n")
    for number, part in enumerate(parts):
        suite.write(f"test_{number}.py", part)
    result = suite.run_here()
    said = "\n".join(line for line in result.outlines if "does not exist" in line)
    for words in (
        "test_0.py::TestAlias::test_alias: line 11: gen.p59 does not exist; the nearest: p99, p95, p90, p50; line 11: "
        "early.total_tim does not exist; the nearest: total_time",
        "test_1.py::test_parameter: line 7: load.throughputs does not exist; the nearest: throughput, ",
        "test_2.py::test_by_hand: line 6: result.succes_rate does not exist; the nearest: success_rate",
        "test_3.py::test_ab: line 5: run_ab('txt2img').generation_tme does not exist; the nearest: generation_time",
        "test_4.py::test_capacity: line 6: capacity.valeu does not exist; the nearest: value",
    ):
        assert words in said
    assert result.ret == pytest.ExitCode.INTERRUPTED


def test_what_is_not_certain_is_left_alone(suite: Suite) -> None:
    suite.write("test_uncertain.py", UNCERTAIN.format(mark=MARK))
    suite.write("test_foreign.py", FOREIGN)
    result = suite.run_here("--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert "7 tests collected" in result.stdout.str()


def _names(kind: Any) -> frozenset[str]:
    return _names_of(kind)


def test_the_names_are_those_of_the_classes() -> None:
    load = load_of(outcome())
    for thing in (load, load.generation_time, load.errors, load.gpu, load.server, load.throughput, load.gpu.vram):
        names = _names(type(thing))
        assert {name for name in dir(thing) if not name.startswith("_")} <= names
    assert {"facts", "all_outcomes", "outcomes"} <= _names(LoadResult)
    assert {"p50", "percentile", "points", "unit"} <= _names(Distribution)
    assert {"reasons", "absent_because", "lower"} <= _names(Throttled)
    assert "pictures" in _names(ABResult)
    assert "value" in _names(Capacity)
    # A baseline accepts any name.
    assert not _names(type(load.baseline))
    assert not _names(ast.Module)
