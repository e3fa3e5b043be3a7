"""The contents of `extra_data` are sent, but neither printed nor written anywhere."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.plugin.suite import Suite

KEY = "comfyui-0123456789abcdef"
SUITE = """
import os

EXTRA = {"api_key_comfy_org": os.environ["THE_KEY"], "style": {"token": os.environ["THE_KEY"] + "-2"}}
QUICK = {"iterations": 2, "max_send_lag": "30s", "warmup": 0}

@load_scenario("txt2img", extra_data=EXTRA, **QUICK)
def test_sent(load):
    assert load.success_rate == 100

@load_scenario("txt2img", groups={"one": {"extra_data": EXTRA, "iterations": 2}}, max_send_lag="30s", warmup=0)
def test_violated(load):
    assert load.throughput > 1e9
"""


def test_extra_data_is_in_no_output_and_in_no_file(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.setenv("THE_KEY", KEY)
    suite.write("test_it.py", SUITE)
    written = ("--junitxml=junit.xml", "--comfyload-html=report.html", "--comfyload-markdown=summary.md")
    result = suite.run("--comfyui-url", server, "-vv", "--comfyload-annotations=on", *written)
    result.assert_outcomes(passed=1, failed=1)
    assert KEY not in result.stdout.str() + result.stderr.str()
    files = [path for path in suite.folder.rglob("*") if path.is_file()]
    assert {"junit.xml", "report.html", "summary.md"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_extra_data_reaches_the_server(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    suite.write("test_it.py", SUITE)
    suite.run("--comfyui-url", server, "-k", "test_sent").assert_outcomes(passed=1, deselected=1)
    with urllib.request.urlopen(f"{server}/history?max_items=1", timeout=30) as answer:
        (entry,) = json.load(answer).values()
    assert entry["prompt"][3]["style"] == {"token": f"{KEY}-2"}
