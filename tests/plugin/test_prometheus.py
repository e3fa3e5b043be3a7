"""`--comfyload-prometheus`: what is served while a load runs is what the load itself reports at its end."""

from __future__ import annotations

import re
import socket

import pytest

from pytest_comfyload.launch.process import free_port
from tests.plugin.suite import Suite

# The test scrapes after its load; the exporter lives as long as the session.
TEST = """
import re, time, urllib.request
from pytest_comfyload import load_scenario

def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read().decode()

def value(text, name, *labels):
    lines = [line for line in text.splitlines() if re.match(name + r"[{ ]", line)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))

@load_scenario("txt2img", users=2, iterations=4, max_send_lag="30s")
def test_it(load, pytestconfig):
    port = pytestconfig.getoption("comfyload_prometheus")
    text = scrape(port)
    sent = len(load.all_outcomes)
    assert sent >= 8
    assert value(text, "comfyload_prompts_total", 'status="success"') == sent
    assert value(text, "comfyload_prompts_total", 'status="oom"') == 0
    assert 'status="oom"' in text
    assert value(text, "comfyload_generation_time_seconds_count", 'workflow="txt2img"') == sent
    assert value(text, "comfyload_node_time_seconds_count", 'class="KSampler"') == sent
    assert 5 < value(text, "comfyload_steps_per_second", 'class="KSampler"') < 100
    assert value(text, "comfyload_model_load_time_seconds_count") == sent
    for _ in range(100):
        if value(text := scrape(port), "comfyui_gpu_utilization_percent") and value(text, "comfyui_up"):
            break
        time.sleep(0.1)
    assert value(text, "comfyui_up") == 1
    assert value(text, "comfyui_queue_size") == 0
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.delenv("COMFYUI_URL", raising=False)
    suite = Suite(pytester)
    suite.write("test_it.py", TEST)
    return suite


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=["plain", "xdist"])
def test_the_prompts_of_a_load_and_its_servers_are_served(suite: Suite, arguments: tuple[str, ...]) -> None:
    port = free_port()
    result = suite.run(f"--comfyload-prometheus={port}", *arguments)
    result.assert_outcomes(passed=1)
    if not arguments:
        assert (
            f"comfyload: http://127.0.0.1:{port}/metrics has the figures of the servers under load"
            in result.stdout.str()
        )
    with socket.socket() as probe:  # the exporter's port is closed
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_that_is_taken_is_one_line(suite: Suite) -> None:
    suite.write("test_it.py", TEST[: TEST.index("    port =")] + "    assert load.success_rate == 100\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = suite.run(f"--comfyload-prometheus={port}")
    result.assert_outcomes(passed=1)
    said = re.findall(r"--comfyload-prometheus: cannot listen on .*", result.stdout.str())
    assert len(said) == 1


@pytest.mark.parametrize("port", ["x", "70000", "-1"])
def test_a_bad_port_is_refused_at_the_start(suite: Suite, port: str) -> None:
    result = suite.run(f"--comfyload-prometheus={port}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--comfyload-prometheus '{port}': give a port, 0 to 65535*"])
