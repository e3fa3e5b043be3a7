"""The shipped rules and dashboard: checked by promtool, triggered by simulators, and run in a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_comfyload.errors import UsageError
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.monitor.configuration import FILES, write_configuration
from tests.monitor.prometheus_server import Prometheus, eventually, prometheus, promtool
from tests.monitor.test_monitor import label, load, monitor
from tests.run.fast_server import GRAPH

SHIPPED = Path(write_configuration.__code__.co_filename).parent
RULES = yaml.safe_load((SHIPPED / "comfyui_rules.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
DASHBOARD = json.loads((SHIPPED / "grafana_dashboard.json").read_text())


def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    written = write_configuration(tmp_path / "new", "gpu1:9188")
    assert [path.name for path in written] == list(FILES)
    done = promtool("check", "config", str(written[0]))
    assert done.returncode == 0, done.stderr
    assert "gpu1:9188" in written[0].read_text()
    with pytest.raises(UsageError, match=r"has prometheus.yml, .* already"):
        write_configuration(tmp_path / "new")


# --- each alert on its own, in promtool's clock ----------------------------------------------------------------------


def ends(**rates: int) -> dict[str, str]:
    """Return the series of prompts that end each minute, by status."""
    return {f'comfyui_generations_total{{server="a",status="{status}"}}': f"0+{n}x30" for status, n in rates.items()}


def buckets(**rates: int) -> dict[str, str]:
    """Return the series of prompts that end each minute, by upper bound in seconds."""
    names = {"le_25": "25", "le_50": "50"}
    series = {f'comfyui_prompt_seconds_bucket{{server="a",le="{names[name]}"}}': n for name, n in rates.items()}
    series['comfyui_prompt_seconds_bucket{server="a",le="+Inf"}'] = max(rates.values())
    return {name: f"0+{n}x30" for name, n in series.items()}


def gpu(name: str, values: str) -> dict[str, str]:
    return {f'comfyui_gpu_{name}{{server="a",gpu="0",uuid="GPU-0"}}': values}


def plain(name: str, values: str) -> dict[str, str]:
    return {f'comfyui_{name}{{server="a"}}': values}


def scrape(values: str) -> dict[str, str]:
    return {'up{job="comfyui",instance="m"}': values}


# For each alert: series that trigger it, similar series that do not, and the time at which both are evaluated.
CASES: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "ComfyUIQueueGrowing": (plain("queue_size", "0+1x60"), plain("queue_size", "20-0.3x60"), "30m"),
    "ComfyUISlow": (buckets(le_25=1, le_50=10), buckets(le_25=10, le_50=10), "20m"),
    "ComfyUIFailing": (ends(success=9, error=1), ends(success=99, error=1), "20m"),
    # The first out-of-memory error on a server.
    "ComfyUIOutOfMemory": (
        {'comfyui_generations_total{server="a",status="oom"}': "0 0 0 1 1 1"},
        {'comfyui_generations_total{server="a",status="oom"}': "7 7 7 7 7 7"},
        "4m",
    ),
    "ComfyUIGPUIdle": (
        gpu("utilization_percent", "50x30") | plain("queue_size", "3x30"),
        gpu("utilization_percent", "50x30") | plain("queue_size", "0x30"),
        "20m",
    ),
    "ComfyUIGPUThrottled": (gpu("throttled", "1x30"), gpu("throttled", "0x30"), "20m"),
    "ComfyUIVRAMNearlyFull": (
        gpu("memory_used_bytes", "95x30") | gpu("memory_total_bytes", "100x30"),
        gpu("memory_used_bytes", "85x30") | gpu("memory_total_bytes", "100x30"),
        "20m",
    ),
    "ComfyUIGPUHot": (gpu("temperature_celsius", "86x30"), gpu("temperature_celsius", "84x30"), "20m"),
    "ComfyUIWorkerDead": (plain("worker_dead", "1x30"), plain("worker_dead", "0x30"), "5m"),
    "ComfyUIDown": (plain("up", "0x30"), plain("up", "1x30"), "5m"),
    "ComfyUIRestarted": (
        plain("server_restarts_total", "0 0 1 1 1 1"),
        plain("server_restarts_total", "1 1 1 1 1 1"),
        "4m",
    ),
    "ComfyUIMonitorDown": (scrape("0x30"), scrape("1x30"), "5m"),
}


def test_every_alert_has_a_case() -> None:
    assert {rule["alert"] for rule in ALERTS} == CASES.keys()
    assert all({"summary", "description"} == rule["annotations"].keys() for rule in ALERTS)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_by_its_cause_and_not_without(alert: str, tmp_path: Path) -> None:
    (rule,) = (rule for rule in ALERTS if rule["alert"] == alert)
    bad, good, when = CASES[alert]
    tests = [_fires(alert, bad, when, True), _fires(alert, good, when, False)]
    if "for" in rule:  # it must not fire before that time is over
        tests.append(_fires(alert, bad, "0m", False))
    rules = {"rule_files": [str(SHIPPED / "comfyui_rules.yml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(json.dumps(rules))
    done = promtool("test", "rules", str(tmp_path / "tests.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def _fires(alert: str, series: dict[str, str], when: str, fires: bool) -> dict[str, Any]:
    """Return a test case for promtool."""
    expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    samples = [{"labels": "{}", "value": int(fires)}]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": when, "exp_samples": samples}],
    }


# --- all of them, with simulators that fail --------------------------------------------------------------------------


def in_seconds(folder: Path) -> Path:
    """Write the shipped rules with seconds instead of minutes."""
    rules = folder / "rules.yml"
    text = (SHIPPED / "comfyui_rules.yml").read_text()
    rules.write_text(re.sub(r"(\[|for: )(\d+)m\b", r"\g<1>\g<2>s", text))
    return rules


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def firing(server: Prometheus) -> set[tuple[str, str]]:
    found = server.query('ALERTS{alertstate="firing"}')
    return {(dict(labels)["alertname"], dict(labels).get("server", "")) for labels in found}


# The settings of each simulator, its load, the alerts that must fire for it, and those that may fire, as their cause
# occurs at times. No other alert may fire.
SERVERS: dict[str, dict[str, Any]] = {
    "good": {},
    "idle": {},
    "failing": {"faults": {"oom": 0.3, "node-error": 0.3}, "seed": 1},
    "overloaded": {"gpu": "rtx3060", "faults": {"overheat": True}},
    "dead": {"faults": {"dead-worker": 1}},
    "restarted": {"faults": {"restart": 6}},
    "gone": {},
}
# Prompts of 45 s that leave little of the card's memory free; they arrive twice as fast as they can be executed.
HEAVY = {
    "CheckpointLoaderSimple.ckpt_name": "sd_xl_base_1.0.safetensors",
    "CLIPTextEncode[*].text": "a fox",
    "EmptyLatentImage.batch_size": 12,
    "KSampler.steps": 3,
}
LOADS: dict[str, dict[str, Any]] = {
    "good": {"users": 1},
    "failing": {"users": 2},
    "overloaded": {"users": None, "rate": "12/min", "inputs": HEAVY, "fetch": False},
}
MUST_FIRE = {
    "failing": {"ComfyUIFailing", "ComfyUIOutOfMemory"},
    "overloaded": {
        "ComfyUISlow",
        "ComfyUIQueueGrowing",
        "ComfyUIGPUThrottled",
        "ComfyUIGPUHot",
        "ComfyUIVRAMNearlyFull",
    },
    "dead": {"ComfyUIWorkerDead", "ComfyUIGPUIdle"},
    "restarted": {"ComfyUIRestarted"},
    "gone": {"ComfyUIDown"},
}
MAY_FIRE = {
    "failing": {"ComfyUIGPUIdle"},  # between two prompts that fail early
    "restarted": {"ComfyUIDown"},  # when a poll falls into the restart
    "": {"ComfyUIMonitorDown"},  # a busy machine takes longer than the one second that a scrape is allowed here
}


def test_each_alert_has_a_simulator_that_fires_it() -> None:
    fired = {alert for alerts in MUST_FIRE.values() for alert in alerts}
    assert fired | {"ComfyUIMonitorDown"} == CASES.keys()


def test_simulators_that_fail_fire_the_alerts_and_every_panel_has_data(tmp_path: Path) -> None:
    servers = {name: SimulatorProcess(time_scale=20, **settings) for name, settings in SERVERS.items()}
    by_label = {label(server.url): name for name, server in servers.items()}
    urls = [part for server in servers.values() for part in ("--comfyui-url", server.url)]
    wanted = {(alert, name) for name, alerts in MUST_FIRE.items() for alert in alerts}
    allowed = wanted | {(alert, name) for name, alerts in MAY_FIRE.items() for alert in alerts}
    threads = [
        threading.Thread(target=_load_quietly, args=(servers[name].url, tmp_path / name, arguments), daemon=True)
        for name, arguments in LOADS.items()
    ]
    fired: set[tuple[str, str]] = set()
    options = ("--events", "--logs", "--probe", "txt2img", "--every", "10s")
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as watching:
        for each in servers.values():
            stack.callback(each.stop)
        url = watching.enter_context(monitor(tmp_path, *urls, *options))
        server = stack.enter_context(prometheus(tmp_path, label(url), str(in_seconds(tmp_path))))
        eventually(lambda: sum(server.query("comfyui_up").values()) == len(servers))
        for thread in threads:
            thread.start()
        servers["gone"].stop()
        for _ in range(4):
            _post(servers["dead"].url)
        _restart(server, servers["restarted"].url)

        def all_fired() -> bool:
            fired.update((alert, by_label.get(where, "")) for alert, where in firing(server))
            return wanted <= fired

        try:
            eventually(all_fired, 90)
        except AssertionError:
            raise AssertionError(f"not fired: {wanted - fired}; fired: {fired}") from None
        for expression in expressions():
            runnable = expression.replace("$server", ".*").replace("$__range", "1m").replace("5m]", "10s]")

            def has_data(runnable: str = runnable) -> None:
                assert server.query(runnable) != {}, f"no data: {runnable}"

            eventually(has_data, 20)
        all_fired()
        assert fired <= allowed
        watching.close()
        eventually(lambda: ("ComfyUIMonitorDown", "") in firing(server))


def _restart(server: Prometheus, url: str) -> None:
    """Send prompts until the monitor has counted a restart; it must have seen prompts end before that."""
    success = f'comfyui_generations_total{{server="{label(url)}",status="success"}}'
    for _ in range(2):
        _post(url)
    eventually(lambda: sum(server.query(success).values()) >= 2)

    def has_restarted() -> bool:
        with contextlib.suppress(OSError):  # it is restarting
            _post(url)
        return sum(server.query(f'comfyui_server_restarts_total{{server="{label(url)}"}}').values()) == 1

    eventually(has_restarted)


def _load_quietly(url: str, folder: Path, arguments: dict[str, Any]) -> None:
    folder.mkdir()
    with contextlib.suppress(Exception):  # its server is stopped in the middle of the load
        load(url, folder, duration="3000s", **arguments)


def _post(url: str) -> None:
    """Send a prompt and ignore its result; a load would notice that the worker is dead, and stop using it."""
    seed = time.monotonic_ns() % 2**24
    graph = {**GRAPH, "1": {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], "color": seed}}}
    request = urllib.request.Request(
        f"{url}/prompt", json.dumps({"prompt": graph}).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=10).close()
