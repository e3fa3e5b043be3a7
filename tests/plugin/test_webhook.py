"""`--comfyload-webhook`: what is posted at the end of a session, and that posting never fails one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pytest_comfyload.plugin.webhook import SCHEMA
from tests.plugin.post_receiver import PostReceiver, receiving
from tests.plugin.suite import Suite

TESTS = """
from pytest_comfyload import load_scenario

@load_scenario("txt2img", users=1, iterations=3)
def test_good(load):
    assert load.success_rate == 100

@load_scenario("txt2img", users=1, iterations=2)
def test_slow(load):
    assert load.generation_time.p50 < 0.001
    assert load.total_time.p50 < 100
"""


@pytest.fixture
def receiver() -> Iterator[PostReceiver]:
    with receiving(PostReceiver()) as server:
        yield server


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.delenv("COMFYUI_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    suite = Suite(pytester)
    suite.write("test_it.py", TESTS)
    return suite


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["plain", "xdist"])
def test_the_verdicts_are_posted_once(
    suite: Suite, receiver: PostReceiver, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COMFYLOAD_WEBHOOK_HEADERS", "Authorization: Bearer s3cr3t-word")
    result = suite.run(f"--comfyload-webhook={receiver.url}/hooks/T0KEN-0F-PATH", "--comfyload-label=night", *arguments)
    result.assert_outcomes(passed=1, failed=1)
    ((path, headers, body),) = receiver.got
    document = json.loads(body)
    assert (path, headers["Authorization"]) == ("/hooks/T0KEN-0F-PATH", "Bearer s3cr3t-word")
    assert (document["schema"], document["label"], document["exit_status"]) == (SCHEMA, "night", 1)
    good, slow = sorted(document["tests"], key=lambda each: str(each["test"]))
    assert (good["test"], good["passed"], good["simulated"]) == ("test_it.py::test_good", True, True)
    (slo,) = good["slos"]
    assert (slo["metric"], slo["value"], slo["op"], slo["bound"], slo["passed"]) == (
        "success_rate",
        100,
        "==",
        100,
        True,
    )
    assert (slow["passed"], slow["slos"][0]["verdict"]) == (False, "fail")
    assert slow["not_reached"] == ["total_time.p50 < 100"]
    (run,) = slow["runs"]
    assert (run["state"], run["success_rate"]) == ("valid", 100)
    assert "T0KEN-0F-PATH" not in result.stdout.str()


@pytest.mark.parametrize(("status", "said"), [(500, "answered 500"), (302, "answered 302")])
def test_a_refusal_is_one_line(suite: Suite, receiver: PostReceiver, status: int, said: str) -> None:
    receiver.status = status
    result = suite.run(f"--comfyload-webhook={receiver.url}/x-secret-path", "-k", "good")
    result.assert_outcomes(passed=1, deselected=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"--comfyload-webhook: 127.0.0.1:{receiver.server_port} {said}*"])
    assert len(receiver.got) == 1


def test_no_answer_is_one_line(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLOAD_WEBHOOK_URL", "http://127.0.0.1:1/x-secret-path")
    result = suite.run("-k", "good")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["--comfyload-webhook: 127.0.0.1:1 was not reached (*"])
    result.stdout.no_fnmatch_line("*x-secret-path*")


@pytest.mark.parametrize("where", ["option", "environment"])
def test_a_bad_url_is_refused_at_the_start(suite: Suite, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "environment":
        monkeypatch.setenv("COMFYLOAD_WEBHOOK_URL", "ftp://x")
    result = suite.run(*(["--comfyload-webhook=ftp://x"] if where == "option" else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*not a server URL: 'ftp://x'*"])


def test_a_suite_without_load_tests_posts_nothing(suite: Suite, receiver: PostReceiver) -> None:
    suite.write("test_it.py", "def test_nothing(): pass")
    suite.run(f"--comfyload-webhook={receiver.url}/x").assert_outcomes(passed=1)
    assert receiver.got == []
