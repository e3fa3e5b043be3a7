"""A workflow with node classes that the embedded simulator does not know: it runs, and reports what it guessed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.plugin.suite import ALONE

WORKFLOWS = Path(__file__).parents[1] / "simulator" / "workflows"
SUITE = """
from pytest_comfyload import load_scenario

@load_scenario("flux.json", iterations=3, fetch=False, max_send_lag="300s")
def test_flux(load):
    assert load.success_rate == 100
    # The guess is 10 s; a busy machine moves events by milliseconds, which are seconds here.
    assert 20 < load.node_time["SamplerCustomAdvanced"].p50 < 45
"""


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    shutil.copy(WORKFLOWS / "flux.json", pytester.path)
    pytester.makepyfile(test_nodes=SUITE)
    return pytester.runpytest_subprocess(*ALONE, "-p", "no:cacheprovider", "--comfyload-time-scale=100", *options)


def test_guessed_times_are_said_to_be_and_can_be_stated_or_measured(pytester: pytest.Pytester) -> None:
    stated = run(pytester, "--comfyload-node-time=SamplerCustomAdvanced=30", "--comfyload-label=measured")
    stated.assert_outcomes(passed=1)
    stated.stdout.fnmatch_lines(["*note: times of EmptySD3LatentImage, *guessed by the simulator; set them with *"])
    stated.stdout.no_fnmatch_line("*SamplerCustomAdvanced*are guessed by*")
    calibrated = run(pytester, "--comfyload-calibrate=measured")
    calibrated.assert_outcomes(passed=1)
    calibrated.stdout.no_fnmatch_line("*are guessed by*")


def test_classes_from_a_file_are_those_of_the_simulator(pytester: pytest.Pytester) -> None:
    (pytester.path / "nodes.json").write_text('{"A": {"input": {}}}')
    refused = run(pytester, "--comfyload-object-info=nodes.json")
    refused.stderr.fnmatch_lines(["*nodes.json: A lacks input or output; `comfyload record-nodes URL` saves *"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--comfyload-node-time=KSampler"], "'KSampler' is not a node time; give CLASS=SECONDS"),
        (["--comfyload-object-info=nowhere.json"], "cannot read the object info */nowhere.json: No such file"),
        (
            ["--comfyload-node-time=A=1", "--comfyui-url=http://127.0.0.1:1"],
            "--comfyload-node-time is for the",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(pytester: pytest.Pytester, options: list[str], said: str) -> None:
    run(pytester, *options).stderr.fnmatch_lines([f"*{said}*"])


def test_a_run_to_calibrate_by_must_be_there(pytester: pytest.Pytester) -> None:
    run(pytester, "--comfyload-calibrate=latest").stdout.fnmatch_lines(["*no run is named 'latest'*"])
