"""An invalid mark is one collection error on one line, and does not affect other files."""

from __future__ import annotations

import json

import pytest

from tests.plugin.suite import Suite

# File -> the mark on its `test_bad`, and what its one line must say.
BAD_MARKS: dict[str, tuple[str, list[str]]] = {
    "test_unknown_argument": ('load_scenario("txt2img", iteratons=3)', ["'iteratons'", "did you mean iterations?"]),
    "test_contradiction": (
        'load_scenario("txt2img", users=5, burst=7)',
        ["burst=7 and users=5 contradict each other", "give only one"],
    ),
    "test_duration": ('load_scenario("txt2img", duration="soon")', ["duration='soon' is not a duration", "'30s'"]),
    "test_no_users": ('load_scenario("txt2img", users=0)', ["users=0 is not a whole number of at least 1"]),
    "test_servers": (
        'load_scenario("txt2img", servers=["gpu1"])',
        ["'gpu1' is not one of the servers", "a URL of --comfyui-url"],
    ),
    "test_rate": ('load_scenario("txt2img", rate="5/min")', ["rate='5/min' needs duration="]),
    "test_mix": ('load_scenario(mix={"txt2img": 0})', ["mix={'txt2img': 0} is not a dict of workflow to weight"]),
    "test_mixed_file": ('load_scenario(mix={"txt2img": 1, "txt2imgs": 1})', ["no workflow 'txt2imgs'"]),
    "test_stages": ('load_scenario("txt2img", users=[("1m", 0)])', ["never rises above 0"]),
    "test_group": (
        'load_scenario("txt2img", groups={"a": {"burst": 0}})',
        ["group 'a': burst=0 is not a whole number"],
    ),
    "test_no_workflow": ("load_scenario(users=2)", ["load_scenario needs a workflow"]),
    "test_workflow_name": ('load_scenario("txt2imgs")', ["no workflow 'txt2imgs'", "shipped: txt2img"]),
    "test_missing_file": ('load_scenario("nowhere.json")', ["no file 'nowhere.json' in"]),
    "test_broken_json": ('load_scenario("broken.json")', ["broken.json, line 2 column 3"]),
    "test_editor_format": ('load_scenario("editor.json")', ["editor.json", "Workflow > Export (API)"]),
    "test_unknown_node": ('load_scenario("txt2img", inputs={"KSamplr.steps": 2})', ["'KSamplr'", "it has KSampler"]),
    "test_unknown_input": (
        'load_scenario("txt2img", inputs={"KSampler.stebs": 2})',
        ["no input 'stebs'", "it has steps"],
    ),
    "test_value_of_a_list": (
        'load_scenario("txt2img", inputs={"KSampler.steps": [*range(1, 9999), "many", 4]})',
        ["KSampler.steps = 'many': wants NUMBER"],
    ),
    "test_prompts": ('load_scenario("txt2img", prompts="nowhere.txt")', ["prompts:", "nowhere.txt"]),
    "test_pause": (
        'load_scenario("txt2img", think_time=exponential("soon"))',
        ["think_time=exponential('soon'): mean='soon' is not a duration"],
    ),
    "test_distribution": (
        'load_scenario("txt2img", inputs={"KSampler.steps": normal(20, 0)})',
        ["KSampler.steps = normal(20, 0): stdev=0 must be above 0"],
    ),
    "test_twice": (
        'load_scenario("txt2img", users=2)\n@load_scenario("txt2img", users=3)',
        ["load_scenario is given 2 times", "keep one"],
    ),
    "test_gate_type": ('load_scenario("txt2img", gate=5)', ["gate=5: give the name of a figure", "or a list of names"]),
    "test_no_gate": ('load_scenario("txt2img", gate=[])', ["gate=[]: give the name of a figure"]),
    "test_gate": (
        'load_scenario("txt2img", gate=["throughput", "total_time.p59"])',
        ["no metric 'total_time.p59' can be compared", "legal: total_time.p9"],
    ),
    "test_gate_class": (
        'load_scenario("txt2img", gate="node_time[KSampelr].p50")',
        ["gate='node_time[KSampelr].p50': no node of the workflow is of that class", "there are: KSampler"],
    ),
    "test_bare": ("load_scenario", ["load_scenario", "workflow"]),
}


def _write(suite: Suite) -> None:
    (suite.folder / "broken.json").write_text("{\n  oops", encoding="utf-8")
    (suite.folder / "editor.json").write_text(json.dumps({"nodes": [], "links": []}), encoding="utf-8")
    for name, (mark, _) in BAD_MARKS.items():
        suite.write(f"{name}.py", f"@{mark}\ndef test_bad(load): pass\n")
    suite.write("test_good.py", "def test_good(): pass\n")


@pytest.mark.parametrize("how", [[], ["-n2"], ["-p", "no:xdist"]], ids=["plain", "xdist", "without xdist"])
def test_each_bad_mark_is_one_line_of_its_own(suite: Suite, how: list[str]) -> None:
    _write(suite)
    result = suite.run(*how)
    # With workers, xdist runs what was collected and fails only afterwards.
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if how == ["-n2"] else pytest.ExitCode.INTERRUPTED)
    said = {name: [line for line in result.outlines if line.startswith(f"{name}.py::test_bad: ")] for name in BAD_MARKS}
    assert {name: len(lines) for name, lines in said.items()} == dict.fromkeys(BAD_MARKS, 1)
    lacking = {
        name: said[name]
        for name, (_, pieces) in BAD_MARKS.items()
        if not all(piece in said[name][0] for piece in pieces)
    }
    assert not lacking
    output = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in output
    assert "pytest_comfyload/" not in output
    assert output.count("ERROR collecting") == len(BAD_MARKS)
    assert "ERROR collecting test_good.py" not in output


def test_other_files_are_collected_and_run(suite: Suite) -> None:
    _write(suite)
    result = suite.run("--continue-on-collection-errors")
    result.assert_outcomes(passed=1, errors=len(BAD_MARKS))
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_on_a_class_and_on_a_module(suite: Suite) -> None:
    suite.write(
        "test_class.py",
        """
        @load_scenario("txt2img", users=0)
        class TestBad:
            def test_it(self, load): pass
        """,
    )
    suite.write(
        "test_method.py", 'class TestIt:\n    @load_scenario("txt2img", users=-1)\n    def test_bad(self): pass\n'
    )
    suite.write(
        "test_static.py",
        """
        class TestIt:
            @staticmethod
            @load_scenario("txt2img", users=-2)
            def test_bad(): pass
        """,
    )
    suite.write("test_module.py", 'pytestmark = [load_scenario("txt2img", users=1.5)]\ndef test_it(load): pass\n')
    suite.write(
        "test_two.py", 'pytestmark = [load_scenario("txt2img"), load_scenario("lora")]\ndef test_it(load): pass\n'
    )
    result = suite.run_here()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    for where in (
        "test_class.py::TestBad: users=0 ",
        "test_method.py::TestIt::test_bad: users=-1 ",
        "test_static.py::TestIt::test_bad: users=-2 ",
        "test_module.py: users=1.5 ",
        "test_two.py: load_scenario is given 2 times",
    ):
        assert len([line for line in result.outlines if line.startswith(where)]) == 1


def test_each_mark_is_checked_though_another_is_like_it(suite: Suite) -> None:
    suite.write(
        "test_valid.py", 'pytestmark = load_scenario("txt2img", inputs={"KSampler.steps": 2})\ndef test_it(): pass\n'
    )
    for name in ("test_a.py", "test_b.py"):
        suite.write(name, 'pytestmark = load_scenario("txt2img", inputs={"KSampler.step": 2})\ndef test_it(): pass\n')
    result = suite.run_here("--co")
    assert len([line for line in result.outlines if line.startswith(("test_a.py: ", "test_b.py: "))]) == 2
    assert "test_valid.py: " not in result.stdout.str()


def test_names_of_a_module_that_are_no_tests_are_left_alone(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        from unittest.mock import MagicMock, call

        class Shy:
            @property
            def __dict__(self):
                raise RuntimeError("working outside of request context")

        shy, mock, recorded = Shy(), MagicMock(), call

        def test_it(): pass
        """,
    )
    suite.run_here().assert_outcomes(passed=1)
