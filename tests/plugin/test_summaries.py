"""What a person and a CI server see of SLOs met and missed, from one process or from workers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from tests.plugin.suite import Suite

SLO_TESTS = """
@load_scenario("txt2img", users=2, iterations=2, fetch=False, max_send_lag="30s", warmup=0)
class TestSlo:
    def test_met(self, load):
        assert load.success_rate == 100
        assert load.oom_errors == 0

    def test_missed(self, load):
        assert load.total_time.p95 < 0.25

    def test_no_slo(self, load):
        pass
"""


def test_terminal_and_junit_show_every_slo(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write("test_it.py", SLO_TESTS)
    result = suite.run(*workers, "-v", "--comfyui-url", server, "--junitxml=it.xml")
    result.assert_outcomes(passed=2, failed=1)
    _expect_an_explanation(result)
    _expect_one_table(result)
    _expect_plain_properties(ET.parse(suite.folder / "it.xml").getroot())


def _expect_an_explanation(result: pytest.RunResult) -> None:
    result.stdout.re_match_lines_random(
        [
            r"SLO violated: total_time\.p95 [\d.]+ s < 0\.25 s \(n=4\)",
            r"  4 of 4 prompts over 0\.25 s, each with its longest phase:",
            r"    [0-9a-f]{8}  user [01], iteration [01]: [\d.]+ s, of it \w+_time [\d.]+ s \(\d+ %\)",
        ]
    )


def _expect_one_table(result: pytest.RunResult) -> None:
    rows = [line for line in result.outlines if line.endswith(("  pass", "  FAIL"))]
    verdicts = {" ".join(row.split()[:3]): row.split()[-1] for row in rows}
    assert verdicts == {"success_rate == 100": "pass", "oom_errors == 0": "pass", "total_time.p95 < 0.25": "FAIL"}
    assert len(rows) == 3
    assert [result.outlines.count(test) for test in ("test_met", "test_missed", "test_no_slo")] == [1, 1, 0]
    assert any(line.startswith("SIMULATED:") for line in result.outlines)
    result.stdout.fnmatch_lines(["  txt2img, 2 users × 2 iterations · seed * · SIMULATED"])


def _expect_plain_properties(junit: ET.Element) -> None:
    properties = {
        str(case.get("name")): {str(each.get("name")): str(each.get("value")) for each in case.iter("property")}
        for case in junit.iter("testcase")
    }
    assert set(properties) == {"test_met", "test_missed", "test_no_slo"}
    for figures in properties.values():
        assert figures["comfyload.state"] == "valid"
        assert figures["comfyload.simulated"] == "true"
        assert figures["comfyload.prompts"] == "4"
        assert float(figures["comfyload.success_rate"]) == 100
        assert int(figures["comfyload.seed"]) >= 0
        for name in ("throughput", "generation_time.p50", "total_time.p95"):
            assert float(figures[f"comfyload.{name}"]) > 0


def test_a_line_for_each_test_and_details_of_what_failed(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write("test_it.py", SLO_TESTS)
    for quiet in ([], ["-q"]):
        result = suite.run(*workers, *quiet, "--comfyui-url", server)
        summary = result.outlines[
            result.outlines.index(next(each for each in result.outlines if " comfyload =" in each)) :
        ]
        rows = {line.split()[-1]: line.split()[0] for line in summary if line.startswith(("pass ", "FAIL "))}
        assert rows == {"test_met": "pass", "test_missed": "FAIL", "test_no_slo": "pass"}
        details = [line for line in summary if line.startswith("  total_time.p95 < 0.25 s")]
        assert len(details) == (0 if quiet else 1)
        assert not [line for line in summary if line.startswith("  success_rate == 100")]
        assert not quiet or len(summary) <= 10


def test_the_wire_carries_little_and_only_built_ins(suite: Suite, server: str, workers: list[str]) -> None:
    suite.listen()
    checks = "\n".join(f"    assert load.total_time.p95 < {10_000 + bound}" for bound in range(100))
    suite.write(
        "test_it.py",
        f"""
@load_scenario("txt2img", users=8, iterations=3, fetch=False, max_send_lag="30s", warmup=0)
def test_it(load):
{checks}
""",
    )
    suite.run(*workers, "--comfyui-url", server).assert_outcomes(passed=1)
    (report,) = suite.reports()
    assert report["aliens"] == []
    assert report["when"] == "call"
    assert len(report["checks"]) == 100
    assert len(json.dumps(report)) < 64 * 1024


def test_a_failed_set_up_carries_its_run_too(suite: Suite, server: str) -> None:
    suite.listen()
    suite.write(
        "test_it.py",
        """
        @load_scenario("txt2img", iterations=2, inputs={"KSampler.seed": 4242}, prompts=["x"],
                       vary_text=False, fetch=False)
        def test_cached(load):
            assert load.success_rate == 100
        """,
    )
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(errors=1)
    (report,) = suite.reports()
    assert report["when"] == "setup"
    assert report["runs"][0]["state"] == "invalid"
    assert "INVALID: all 2 successful prompts came entirely from the server's cache" in result.stdout.str()


def test_a_test_without_loads_brings_no_summary(suite: Suite) -> None:
    suite.write("test_it.py", "def test_it(): pass")
    result = suite.run_here()
    assert result.ret == pytest.ExitCode.OK
    assert "== comfyload ==" not in result.stdout.str()
