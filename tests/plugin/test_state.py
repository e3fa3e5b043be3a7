"""An invalid run passes no test, whatever the test asserts; a contaminated run is reported as such."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.plugin.suite import Suite

CACHED = """
SAME = dict(iterations=2, inputs={"KSampler.seed": 4242}, prompts=["x"], vary_text=False, fetch=False)

@load_scenario("txt2img", **SAME)
class TestMarked:
    def test_asks_for_nothing(self):
        pass
    def test_asserts_nothing(self, load):
        pass

def test_by_hand(run_load):
    run_load("txt2img", **SAME)
"""

CONTENDED = """
import json
from urllib.request import Request, urlopen

def test_it(run_load, comfyui):
    sleep = {"class_type": "ProbeSleep", "inputs": {"seconds": 600, "seed": 1, "width": 64}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "theirs"}}
    theirs = json.dumps({"prompt": {"1": sleep, "2": save}}).encode()
    urlopen(Request(comfyui.url + "/prompt", theirs, {"Content-Type": "application/json"})).close()
    run_load("txt2img", warmup=0, fetch=False, max_send_lag="30s")
"""


def _properties(suite: Suite) -> dict[str, dict[str, str]]:
    """Return the JUnit properties by test name."""
    cases = ET.parse(suite.folder / "it.xml").iter("testcase")
    return {
        str(case.get("name")): {str(each.get("name")): str(each.get("value")) for each in case.iter("property")}
        for case in cases
    }


def test_an_invalid_run_passes_no_test_not_even_one_without_an_assert(
    suite: Suite, server: str, workers: list[str]
) -> None:
    suite.write("test_it.py", CACHED)
    result = suite.run(*workers, "--comfyui-url", server, "--junitxml=it.xml")
    result.assert_outcomes(errors=2, failed=1)
    properties = _properties(suite)
    assert set(properties) == {"test_asks_for_nothing", "test_asserts_nothing", "test_by_hand"}
    assert {each["comfyload.state"] for each in properties.values()} == {"invalid"}
    assert {each["comfyload.verdict"] for each in properties.values()} == {"invalid"}
    assert result.stdout.str().count("  INVALID: all 2 successful prompts came entirely from the server's cache") == 2


def test_a_contaminated_run_says_so_in_the_summary_and_in_junit(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write("test_it.py", CONTENDED)
    result = suite.run(*workers, "--comfyui-url", server, "--junitxml=it.xml")
    result.assert_outcomes(passed=1)
    assert _properties(suite)["test_it"]["comfyload.state"] == "contaminated"
    result.stdout.fnmatch_lines(
        ["  CONTAMINATED: other clients used the server at the same time; *", "  note: 1 prompt contended*"]
    )
