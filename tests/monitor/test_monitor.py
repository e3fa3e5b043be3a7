"""`comfyload monitor` over simulators under load: its counts are those of the load itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.conftest import TIME_SCALE
from tests.contract.loads import SMALL, fetched, probe, run
from tests.monitor.prometheus_server import eventually, prometheus, promtool
from tests.real_comfyui.target import Target

SCALE = 50.0
COMFYLOAD = (sys.executable, "-c", "from pytest_comfyload.cli import main; main()")
STATUSES = {"success": 0.0, "error": 0.0, "oom": 0.0, "interrupted": 0.0}


@contextlib.contextmanager
def monitor(folder: Path, *arguments: str) -> Iterator[str]:
    """Run the command in a separate process, and yield the URL that it prints; SIGTERM must stop it with status 0."""
    command = [*COMFYLOAD, "monitor", "--port", "0", "--interval", "0.2s", *arguments]
    log = folder / "monitor.log"
    with log.open("w") as stderr:
        child = subprocess.Popen(command, stderr=stderr, cwd=folder)
        try:
            eventually(lambda: _urls(log) != [] or child.poll() is not None)
            assert child.poll() is None, log.read_text()
            yield _urls(log)[0]
            child.send_signal(signal.SIGTERM)
            assert child.wait(20) == 0, log.read_text()
        finally:
            child.kill()
            child.wait()


def _urls(log: Path) -> list[str]:
    return re.findall(r"(https?://\S+)/metrics has", log.read_text())


def scraped(url: str, name: str, **labels: str) -> float:
    """Return the value of one series of /metrics."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if re.match(rf"{name}[{{ ]", line) and all(w in line for w in wanted)
    ]
    assert len(found) == 1, lines
    return found[0]


def load(url: str, folder: Path, workflow: str | dict[str, Any] = "txt2img", **arguments: Any) -> LoadResult:
    scenario = Scenario.build(workflow, **{"users": 4, "warmup": 0, "timeout": "100m", **arguments})
    return run_load(LoadRun(scenario, (ServerAddress.parse(url),), "a title", folder, folder))


def ends(*loads: LoadResult) -> dict[str, float]:
    """Count how the executed prompts ended, by the monitor's statuses."""
    names = {"success": "success", "oom": "oom", "execution_error": "error", "interrupted": "interrupted"}
    counts = Counter(names.get(str(outcome.status)) for load in loads for outcome in load.outcomes)
    return {status: float(counts[status]) for status in STATUSES}


def label(url: str) -> str:
    return url.removeprefix("http://")


def test_prometheus_counts_what_the_load_counts_by_status_and_server(tmp_path: Path) -> None:
    with (
        SimulatorProcess(time_scale=SCALE) as good,
        SimulatorProcess(time_scale=SCALE, faults={"oom": 0.2, "node-error": 0.2, "interrupt": 0.2}, seed=1) as bad,
        monitor(tmp_path, "--comfyui-url", good.url, "--comfyui-url", bad.url) as url,
        prometheus(tmp_path, label(url)) as server,
    ):
        eventually(lambda: server.by("server", "comfyui_up") == {label(good.url): 1, label(bad.url): 1})
        # Every status is exported before it occurs; otherwise no alert would see its first increase.
        assert server.by("status", f'comfyui_generations_total{{server="{label(bad.url)}"}}') == STATUSES
        truth = {each.url: load(each.url, tmp_path, iterations=10) for each in (good, bad)}
        for each, found in truth.items():

            def counted(each: str = each, found: LoadResult = found) -> None:
                series = f'comfyui_generations_total{{server="{label(each)}"}}'
                assert server.by("status", series) == ends(found)

            eventually(counted)
        assert all(ends(truth[bad.url])[status] > 0 for status in STATUSES)
        p95 = f'histogram_quantile(0.95, comfyui_prompt_seconds_bucket{{server="{label(good.url)}"}})'
        (measured,) = server.query(p95).values()
        assert measured == pytest.approx(float(truth[good.url].generation_time.p95), rel=0.25)
        assert server.by("server", "comfyui_images_total")[label(good.url)] == 40
        assert server.by("server", "comfyui_sampling_steps_total")[label(good.url)] == 40 * 20
        assert server.by("server", "comfyui_queue_wait_seconds_count")[label(good.url)] == 40
        assert server.by("server", "comfyui_gpu_utilization_percent").keys() == {label(good.url), label(bad.url)}


def test_a_restart_of_the_server_loses_no_count(tmp_path: Path) -> None:
    # Prompts of 0.6 s: what ends between the last poll, 0.2 s before, and the restart cannot be known.
    with (
        SimulatorProcess(time_scale=4, faults={"restart": 8}) as simulator,
        monitor(tmp_path, "--comfyui-url", simulator.url) as url,
    ):
        eventually(lambda: scraped(url, "comfyui_up") == 1)
        truth = ends(load(simulator.url, tmp_path, iterations=10))
        eventually(lambda: scraped(url, "comfyui_generations_total", status="success") >= truth["success"] - 1)
        eventually(lambda: scraped(url, "comfyui_server_restarts_total") == 1)
        assert scraped(url, "comfyui_generations_total", status="success") <= truth["success"]


def test_a_restarted_monitor_counts_on_from_its_state(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with SimulatorProcess(time_scale=SCALE) as simulator:
        arguments = ("--comfyui-url", simulator.url, "--state", str(state))
        with monitor(tmp_path, *arguments) as url:
            eventually(lambda: scraped(url, "comfyui_up") == 1)
            load(simulator.url, tmp_path, iterations=2)
            eventually(lambda: scraped(url, "comfyui_generations_total", status="success") == 8)
        load(simulator.url, tmp_path, iterations=3)
        with monitor(tmp_path, *arguments) as url:
            eventually(lambda: scraped(url, "comfyui_generations_total", status="success") == 20)
            assert scraped(url, "comfyui_prompt_seconds_count") == 20
    assert state.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".state")] == []


def test_a_server_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with SimulatorProcess(time_scale=SCALE) as gone:
        pass
    with monitor(tmp_path, "--comfyui-url", gone.url) as url:
        eventually(lambda: scraped(url, "comfyui_scrape_failures_total") >= 1)
        assert scraped(url, "comfyui_up") == 0
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert answer.read() == b'{"ok": true, "stuck": []}'
    assert "connection refused" in (tmp_path / "monitor.log").read_text()


def test_a_probe_is_timed_while_the_server_is_idle(tmp_path: Path) -> None:
    with (
        SimulatorProcess(time_scale=SCALE) as simulator,
        monitor(tmp_path, "--comfyui-url", simulator.url, "--probe", "txt2img", "--every", "1s") as url,
    ):
        eventually(lambda: scraped(url, "comfyui_probe_success") == 1)
        first = scraped(url, "comfyui_probe_timestamp_seconds")
        eventually(lambda: scraped(url, "comfyui_probe_timestamp_seconds") > first)
        assert 0.5 < scraped(url, "comfyui_probe_seconds", phase="generation") < 10
        assert scraped(url, "comfyui_probe_node_seconds", **{"class": "KSampler"}) > 0
        # Each probe is executed, as its seed is new.
        eventually(lambda: scraped(url, "comfyui_generations_total", status="success") >= 2)
        assert scraped(url, "comfyui_cached_prompts_total") == 0
        assert scraped(url, "comfyui_probe_failures_total") == 0


def test_a_probe_that_fails_says_why(tmp_path: Path) -> None:
    with (
        SimulatorProcess(time_scale=SCALE, faults={"oom": 1}) as simulator,
        monitor(tmp_path, "--comfyui-url", simulator.url, "--probe", "txt2img", "--every", "1h") as url,
    ):
        eventually(lambda: scraped(url, "comfyui_probe_failures_total") == 1)
        assert scraped(url, "comfyui_probe_success") == 0
    assert f"probe of {simulator.url}: oom: KSampler" in (tmp_path / "monitor.log").read_text()


def test_a_history_that_is_cleared_is_a_gap_and_no_restart(target: Target, tmp_path: Path) -> None:
    with monitor(tmp_path, "--comfyui-url", target.url) as url:
        eventually(lambda: scraped(url, "comfyui_up") == 1)
        for round_number in (1, 2):
            run(target, tmp_path, probe(0.01), users=1, iterations=3, warmup=0)
            eventually(
                lambda n=round_number: scraped(url, "comfyui_generations_total", status="success") == 3 * n  # type: ignore[misc]
            )
            post(f"{target.url}/history", {"clear": True})
            eventually(lambda n=round_number: scraped(url, "comfyui_history_gaps_total") == n)  # type: ignore[misc]
        assert scraped(url, "comfyui_server_restarts_total") == 0


def test_a_server_that_hangs_is_down_and_the_others_go_on(tmp_path: Path) -> None:
    with (
        SimulatorProcess(time_scale=SCALE) as hanging,
        SimulatorProcess(time_scale=SCALE) as good,
        monitor(tmp_path, "--comfyui-url", hanging.url, "--comfyui-url", good.url) as url,
    ):
        both = (label(hanging.url), label(good.url))
        eventually(lambda: all(scraped(url, "comfyui_up", server=server) == 1 for server in both))
        load(hanging.url, tmp_path, iterations=1)
        os.kill(hanging.pid, signal.SIGSTOP)
        try:
            load(good.url, tmp_path, iterations=2)
            success = {"server": label(good.url), "status": "success"}
            eventually(lambda: scraped(url, "comfyui_generations_total", **success) == 8)
            eventually(lambda: scraped(url, "comfyui_up", server=both[0]) == 0)
            with urllib.request.urlopen(f"{url}/healthz") as answer:
                assert answer.status == 200
        finally:
            os.kill(hanging.pid, signal.SIGCONT)
        eventually(lambda: scraped(url, "comfyui_up", server=both[0]) == 1)
        load(hanging.url, tmp_path, iterations=1)
        success = {"server": both[0], "status": "success"}
        eventually(lambda: scraped(url, "comfyui_generations_total", **success) == 8)
        assert scraped(url, "comfyui_server_restarts_total", server=both[0]) == 0


def test_events_count_what_was_accepted_and_what_was_deleted(target: Target, tmp_path: Path) -> None:
    graph = probe(8 if target.name == "real" else 8 * TIME_SCALE)
    with monitor(tmp_path, "--comfyui-url", target.url, "--events") as url:
        eventually(lambda: scraped(url, "comfyui_events_connected") == 1)
        for _ in range(5):
            graph["1"]["inputs"]["seed"] = time.monotonic_ns()
            post(f"{target.url}/prompt", {"prompt": graph})
        eventually(lambda: scraped(url, "comfyui_prompts_waiting") == 4)
        # Counting begins once nothing has left the queue between two polls.
        for _ in range(2):
            last = scraped(url, "comfyui_scrape_seconds")
            eventually(lambda last=last: scraped(url, "comfyui_scrape_seconds") != last)  # type: ignore[misc]
        waiting = [entry[1] for entry in fetched(f"{target.url}/queue")["queue_pending"]]
        post(f"{target.url}/queue", {"delete": waiting[:3]})

        def both_interrupted() -> bool:
            post(f"{target.url}/interrupt", {})
            return scraped(url, "comfyui_generations_total", status="interrupted") == 2

        eventually(both_interrupted)
        eventually(lambda: scraped(url, "comfyui_prompts_deleted_total") == 3)
        assert scraped(url, "comfyui_prompts_accepted_total") == 5


def test_logs_tell_the_pace_of_sampling_and_loads_of_models(target: Target, tmp_path: Path) -> None:
    with monitor(tmp_path, "--comfyui-url", target.url, "--logs") as url:
        eventually(lambda: scraped(url, "comfyui_log_readable") == 1)
        before = model_loads(target.url)
        run(target, tmp_path, "txt2img", iterations=2, warmup=0, inputs=SMALL)
        # The pace is in the simulator's virtual time, like all its figures.
        eventually(lambda: scraped(url, "comfyui_sampling_steps_per_second") == pytest.approx(last_pace(target.url)))
        assert scraped(url, "comfyui_model_loads_total") == model_loads(target.url) - before
        assert scraped(url, "comfyui_silent_ooms_total") == 0


def last_pace(url: str) -> float:
    """Return the steps per second of the last progress bar in a server's log."""
    log = "".join(entry["m"] for entry in fetched(f"{url}/internal/logs/raw")["entries"])
    value, unit = re.findall(r"([\d.]+)(it/s|s/it)\]", log)[-1]
    return float(value) if unit == "it/s" else 1 / float(value)


def model_loads(url: str) -> int:
    """Return how many model loads a server's log reports."""
    return sum(entry["m"].startswith("Requested to load") for entry in fetched(f"{url}/internal/logs/raw")["entries"])


def post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


def test_logs_tell_of_silent_retries(tmp_path: Path) -> None:
    with (
        SimulatorProcess(time_scale=SCALE, faults={"silent-oom": 1}) as simulator,
        monitor(tmp_path, "--comfyui-url", simulator.url, "--logs") as url,
    ):
        eventually(lambda: scraped(url, "comfyui_log_readable") == 1)
        load(simulator.url, tmp_path, users=1, iterations=3)
        eventually(lambda: scraped(url, "comfyui_silent_ooms_total") == 3)
        assert scraped(url, "comfyui_generations_total", status="success") == 3


def test_promtool_has_one_complaint_about_the_name_that_must_be_kept(tmp_path: Path) -> None:
    with (
        SimulatorProcess(time_scale=SCALE) as simulator,
        monitor(tmp_path, "--comfyui-url", simulator.url, "--events", "--logs") as url,
    ):
        eventually(lambda: scraped(url, "comfyui_gpu_memory_used_mb") > 0)
        load(simulator.url, tmp_path, iterations=1)
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            done = promtool("check", "metrics", content=answer.read().decode())
    complaints = (done.stdout + done.stderr).strip().splitlines()
    assert complaints == ["comfyui_gpu_memory_used_mb metric names should not contain abbreviated units"]


def test_tls_and_a_password(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    (tmp_path / "auth").write_text("prometheus:s3cret word\n")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    arguments = ("--tls-cert", str(tmp_path / "server.pem"), "--auth-file", str(tmp_path / "auth"))
    with (
        SimulatorProcess(time_scale=SCALE) as simulator,
        monitor(tmp_path, "--comfyui-url", simulator.url, *arguments) as url,
    ):
        assert url.startswith("https://")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/metrics", context=context)
        request = urllib.request.Request(
            f"{url}/metrics", headers={"Authorization": "Basic cHJvbWV0aGV1czpzM2NyZXQgd29yZA=="}
        )
        with urllib.request.urlopen(request, context=context) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"{url}/healthz", context=context) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no server: name one with --comfyui-url or COMFYUI_URL"),
        (("--comfyui-url", "x"), "not a server URL: 'x'"),
        (("--comfyui-url", "http://a", "--interval", "5m"), "--interval 5m: give 0.1s to 60s"),
        (("--comfyui-url", "http://a", "--gpu", "http://b=nvml"), "names a server that is not watched"),
        (("--comfyui-url", "http://a", "--host", "203.0.113.1"), "cannot listen on 203.0.113.1:0"),
        (("--comfyui-url", "http://a", "--tls-key", "k"), "--tls-key needs --tls-cert"),
        (("--comfyui-url", "http://a", "--tls-cert", "none.pem"), "--tls-cert none.pem cannot be used"),
        (("--comfyui-url", "http://a", "--auth-file", "none"), "--auth-file none cannot be read"),
        (("--comfyui-url", "http://a", "--state", "broken.json"), "--state broken.json cannot be read"),
        (
            ("--comfyui-url", "http://a", "--state", "other.json"),
            "--state other.json cannot be read (of another version)",
        ),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.delenv("COMFYUI_URL", raising=False)
    (tmp_path / "broken.json").write_text('{"version": 1,')
    (tmp_path / "other.json").write_text('{"version": 2, "servers": {}}')
    done = subprocess.run(
        [*COMFYLOAD, "monitor", "--port", "0", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
