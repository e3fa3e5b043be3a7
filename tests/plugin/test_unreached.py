"""The SLOs that an earlier failure kept from being judged: in the table, without a value."""

from __future__ import annotations

import pytest

from tests.plugin.suite import Suite

LOAD = 'load_scenario("txt2img", users=2, fetch=False, max_send_lag="30s", warmup=0)'

SUITE = f"""
from slo import within

pytestmark = {LOAD}

def test_earlier_assert(load):
    assert load.success_rate == 100
    assert load.oom_errors > 5
    assert load.throughput > 1
    assert 1 <= load.total_time.percentile(99) <= 10_000, "too slow"
    assert not load.by("user")[1].oom_errors > 2

def test_one_assert(load):
    assert load.oom_errors > 5 and load.errors["timeout"] == 0 and load.state == "valid"

def test_one_line(load):
    assert load.success_rate == 100; assert load.oom_errors > 5; assert load.timeouts == 0; assert load.cached == 0

def test_one_line_with_a_condition(load):
    if load.outcomes: assert load.timeouts == 0; assert load.oom_errors > 5
    assert load.cached == 0

def test_no_slo_of_a_kind(load, limit=3):
    assert load.oom_errors > 5
    assert len(load.outcomes) == 2
    assert load.state == "valid"
    assert load.seed > 3
    assert limit < 4
    assert float(load.total_time.p95) < 3

def test_other_error(load):
    early = load.between("0s", "5m")
    early = load.between("0s", "9m")
    int("nonsense")
    with open("nothing") as file:
        assert early.node_time["KSampler"].p95 < 3
    for _ in range(3):
        assert early.total_time.slope.upper < 3
    if load.simulated:
        assert load.oom_errors == 0
    load = 3
    assert load.oom_errors == 0

def test_branches(load):
    if load.outcomes:
        try:
            assert load.oom_errors > 5
            assert load.oom_errors > 6
        finally:
            assert load.success_rate == 100
    else:
        assert load.oom_errors > 7
    return
    assert load.oom_errors > 8

def test_loop(load):
    for bound in (0, 100, 200):
        assert load.success_rate >= bound
        assert load.oom_errors == 0
    assert load.timeouts <= bound

@pytest.mark.parametrize("bound", [5, -1])
def test_parametrised(load, bound):
    assert load.oom_errors < bound
    assert load.timeouts < bound

def test_helper(load):
    within(load)
    assert load.timeouts == 0

def test_by_hand(run_load):
    load = run_load("nonsense")
    assert load.timeouts == 0

def test_capacity(find_capacity):
    capacity = find_capacity("nonsense", slo="total_time.p95 < 60")
    assert capacity.value > 4

class TestOne:
    def test_method(self, load):
        assert load.oom_errors > 5
        assert load.timeouts == 0

def test_skipped(load):
    pytest.skip("for now")
    assert load.timeouts == 0

@pytest.fixture
def broken():
    raise OSError("no such thing")

def test_set_up(broken, load):
    assert load.timeouts == 0
"""

EXPECTED = {
    "test_earlier_assert": [
        "throughput > 1",
        "total_time.percentile(99) >= 1",
        "total_time.percentile(99) <= 10000",
        "by('user')[1].oom_errors <= 2",
    ],
    "test_one_assert": ["errors['timeout'] == 0"],
    "test_one_line": ["timeouts == 0", "cached == 0"],
    "test_one_line_with_a_condition": ["cached == 0"],
    "test_no_slo_of_a_kind": [],
    "test_other_error": ["early.node_time['KSampler'].p95 < 3", "early.total_time.slope.upper < 3"],
    "test_branches": ["oom_errors > 6"],
    "test_loop": ["timeouts <= bound"],
    "test_parametrised[5]": [],
    "test_parametrised[-1]": ["timeouts < bound"],
    "test_helper": ["timeouts == 0"],
    "test_by_hand": ["timeouts == 0"],
    "test_capacity": ["capacity.value > 4"],
    "test_method": ["timeouts == 0"],
    "test_skipped": [],
    "test_set_up": ["timeouts == 0"],
}


@pytest.mark.parametrize("asserts", ["rewrite", "plain"])
def test_what_came_after_a_failure_was_not_reached(suite: Suite, server: str, asserts: str) -> None:
    (suite.folder / "slo.py").write_text("def within(load):\n    assert load.success_rate < 9\n", encoding="utf-8")
    suite.write("test_it.py", SUITE)
    suite.listen()
    suite.run("--comfyui-url", server, f"--assert={asserts}", "--junitxml=it.xml")
    checks = {
        report["nodeid"].rpartition("::")[2]: [(check["metric"], check["passed"]) for check in report["checks"]]
        for report in suite.reports()
    }
    assert checks["test_one_line"] == [("success_rate", True), ("oom_errors", False)]
    assert checks["test_one_line_with_a_condition"] == [("timeouts", True), ("oom_errors", False)]
    of_one_line = (suite.folder / "it.xml").read_text(encoding="utf-8").partition('name="test_one_line"')[2]
    assert of_one_line.partition('"comfyload.verdict" value=')[2].startswith('"violated"')
    reports = {report["nodeid"].rpartition("::")[2]: report["unreached"] for report in suite.reports()}
    assert reports == EXPECTED


def test_a_load_that_fails_leaves_all_unreached(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write(
        "test_it.py",
        """
        @load_scenario("txt2img", iterations=2, inputs={"KSampler.seed": 4242}, prompts=["x"],
                       vary_text=False, fetch=False)
        class TestCached:
            def test_one(self, load):
                assert load.success_rate == 100
            def test_two(self, load):
                assert load.total_time.p95 < 60 and load.oom_errors == 0

        @load_scenario("txt2img", inputs={"CheckpointLoaderSimple.ckpt_name": "nonsense"}, fetch=False)
        def test_refused(load):
            assert load.success_rate == 100
        """,
    )
    suite.listen()
    result = suite.run(*workers, "--comfyui-url", server, "--junitxml=it.xml")
    result.assert_outcomes(errors=3)
    for slo in ("success_rate == 100", "total_time.p95 < 60", "oom_errors == 0"):
        assert [line for line in result.outlines if line.split() == [*slo.split(), "not", "reached"]]
    reports = {report["nodeid"].rpartition("::")[2]: report for report in suite.reports()}
    assert [len(reports[name]["unreached"]) for name in ("test_one", "test_two", "test_refused")] == [1, 2, 1]
    assert not any(report["checks"] for report in reports.values())
    xml = (suite.folder / "it.xml").read_text(encoding="utf-8")
    assert xml.count('name="comfyload.verdict" value="invalid"') == 2


OPTIMIZED = f"""
from slo import within

pytestmark = {LOAD}

def test_slo(load):
    assert load.success_rate < 50

def test_elsewhere(load):
    within(load)
"""
HELPER = "def within(load):\n    assert load.success_rate < 50\n"


@pytest.mark.parametrize(
    ("arguments", "passed", "dead", "unreached"),
    [
        (["--assert=plain"], 2, "no assert is executed (--assert=plain)", ["success_rate < 50"]),
        (["--assert=plain", "-n1"], 2, "no assert is executed (--assert=plain)", ["success_rate < 50"]),
        ([], 1, "only asserts in test modules are executed", []),
        (["--comfyload-verdict=confident"], 0, "only asserts in test modules are executed", []),
        (["--assert=plain", "--comfyload-verdict=confident"], 0, "no assert is executed", []),
    ],
)
def test_asserts_that_python_does_not_execute(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, arguments: list[str], passed: int, dead: str, unreached: list[str]
) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    (suite.folder / "slo.py").write_text(HELPER, encoding="utf-8")
    suite.write("test_it.py", OPTIMIZED)
    suite.listen()
    result = suite.run(*arguments)
    (line,) = [line for line in result.outlines if line.startswith("warning: ")]
    assert line.startswith(f"warning: python -O (PYTHONOPTIMIZE): {dead}")
    result.assert_outcomes(passed=passed, failed=2 - passed)
    first, second = suite.reports()
    assert (first["unreached"], second["unreached"]) == (unreached, [])
