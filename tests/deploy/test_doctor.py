"""Each check of the doctor: pass on what is sound, fail with a remedy on what is broken, neither without evidence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pytest_comfyload.cli import app
from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.deploy import worker_checks
from pytest_comfyload.deploy.doctor import CHECKS, Doctor
from pytest_comfyload.deploy.examined import ComposeFile, Deployment, Finding, send_tiny
from pytest_comfyload.deploy.render import render, write
from pytest_comfyload.deploy.stack import Stack
from pytest_comfyload.deploy.workflow_trial import Trial, check_vram
from pytest_comfyload.errors import UsageError
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.workflow.workflow import Workflow
from tests.deploy.front import nginx, rendered, rendered_prometheus
from tests.monitor.prometheus_server import eventually
from tests.monitor.test_monitor import label, monitor
from tests.plugin.suite import Suite

ADDRESS = ServerAddress.parse
TXT2IMG = Workflow.load("txt2img")


def find(name: str, deployment: Deployment) -> Finding:
    (check,) = (each for each in CHECKS if each.name == name)
    return asyncio.run(Doctor(deployment).examine(check))


def at(url: str, *workers: str, **more: Any) -> Deployment:
    return Deployment(front=ADDRESS(url), workers=list(map(ADDRESS, workers)), **more)


@contextlib.contextmanager
def answering(answers: Mapping[str, Any]) -> Iterator[str]:
    """Serve these paths as JSON, and 404 for all others; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            body = json.dumps(answers.get(path, {})).encode()
            self.send_response(200 if path in answers else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def stats(argv: str = "", *, device: str = "cuda", version: str = "0.3.75", ram_free: int = 50) -> dict[str, Any]:
    system = {
        "comfyui_version": version,
        "pytorch_version": "2.7.1",
        "argv": ["main.py", *argv.split()],
        "ram_total": 100,
        "ram_free": ram_free,
    }
    gpu = {"name": f"{device}:0", "type": device, "index": 0, "vram_total": 100, "vram_free": 50, "torch_vram_total": 0}
    return {"/system_stats": {"system": system, "devices": [gpu]}}


def docker(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program `docker` on the PATH, alone."""
    program = folder / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


# --- the container toolkit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "status", "evidence"),
    [
        ({"ServerVersion": "28", "Runtimes": {"nvidia": {}, "runc": {}}}, "pass", "docker info: the runtime nvidia; "),
        (
            {"ServerVersion": "28", "Runtimes": {"runc": {}}, "DiscoveredDevices": [{"ID": "nvidia.com/gpu=0"}]},
            "pass",
            "docker info: CDI with 1 device; ",
        ),
        (
            {"ServerVersion": "28", "Runtimes": {"runc": {}}},
            "fail",
            "docker info: runtimes runc, no NVIDIA CDI device",
        ),
        (
            {"ServerErrors": ["no daemon"], "Runtimes": {}},
            "cannot tell",
            "no Docker daemon answers here; the workers report ",
        ),
    ],
)
def test_toolkit(
    info: dict[str, Any], status: str, evidence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(tmp_path, monkeypatch, f"echo '{json.dumps(info)}'")
    with answering(stats()) as url:
        found = find("toolkit", at(url))
    assert (found.status, found.evidence[: len(evidence)]) == (status, evidence)
    assert ("nvidia-ctk runtime configure" in found.remedy) == (status == "fail")


def test_a_worker_without_a_gpu_fails_whatever_docker_says() -> None:
    with answering(stats(device="cpu")) as url:
        found = find("toolkit", at(url))
    assert (found.status, found.evidence) == ("fail", f"{url} runs on the CPU")


def test_no_docker_is_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with answering(stats()) as url:
        assert find("toolkit", at(url)).status == "cannot tell"


# --- the workflow on each worker --------------------------------------------------------------------------------------


def test_a_workflow_that_runs_passes_with_its_figure(simulator: str) -> None:
    models = find("models", at(simulator, simulator, workflow=TXT2IMG))
    assert models == Finding("pass", "txt2img runs on 1 worker with v1-5-pruned-emaonly.safetensors")
    vram = find("vram", at(simulator, simulator, workflow=TXT2IMG))
    assert vram.status == "pass"
    assert vram.evidence.startswith("peak ")
    assert "GiB (" in vram.evidence


def test_a_file_that_one_worker_lacks_fails(simulator: str) -> None:
    with SimulatorProcess(time_scale=100, strict=True, stock_models=False) as without:
        found = find("models", at(simulator, simulator, without.url, workflow=TXT2IMG))
        assert find("vram", at(without.url, without.url, workflow=TXT2IMG)).status == "cannot tell"
    assert found.status == "fail"
    assert found.evidence.startswith(f"{without.url}: ")
    assert "v1-5-pruned-emaonly.safetensors" in found.evidence
    assert "MODELS_DIR" in found.remedy


@pytest.mark.parametrize("fault", ["oom", "silent-oom"])
def test_a_card_that_is_too_small_fails(fault: str) -> None:
    with SimulatorProcess(time_scale=100, faults={fault: 1}) as small:
        found = find("vram", at(small.url, small.url, workflow=TXT2IMG))
        assert find("models", at(small.url, small.url, workflow=TXT2IMG)).status == "pass"
    assert found.status == "fail"
    assert "memory" in found.evidence
    assert "--lowvram" in found.remedy


@pytest.mark.parametrize(
    ("trial", "status", "evidence"),
    [
        (Trial("a", peak=12 * 2**30, total=16 * 2**30), "pass", "peak 12.0 of 16.0 GiB (75%) on a, by /system_stats"),
        # What else is loaded is unknown.
        (Trial("a", peak=2**30, total=2**30), "cannot tell", "peak 1.0 of 1.0 GiB (100%) on a, by /system_stats"),
        (Trial("a", retried="loaded partially 3.0"), "fail", "a: loaded partially 3.0"),
        (Trial("a", fault="KSampler: no memory", oom=True), "fail", "a: KSampler: no memory"),
        (Trial("a", fault="interrupted"), "cannot tell", "a did not run txt2img"),
        (Trial("a"), "cannot tell", "a worker reports no GPU memory: it runs on the CPU"),
    ],
)
def test_the_figure_of_the_memory_decides(trial: Trial, status: str, evidence: str) -> None:
    found = check_vram(at("http://a", workflow=TXT2IMG), [trial])
    assert (found.status, found.evidence) == (status, evidence)
    assert bool(found.remedy) == (status != "pass")


def test_without_a_workflow_or_the_workers_models_are_not_judged(simulator: str) -> None:
    assert find("models", at(simulator)).status == "cannot tell"
    assert find("vram", at(simulator)).status == "cannot tell"
    assert find("models", at(simulator, workflow=TXT2IMG)).status == "cannot tell"


# --- the front; with nginx in test_front ------------------------------------------------------------------------------


def test_the_spread_is_not_known_without_the_workers(simulator: str) -> None:
    found = find("balancer", at(simulator))
    assert (found.status, found.remedy) == ("cannot tell", "name each worker with --worker")


def test_prompts_that_are_refused_fail() -> None:
    with SimulatorProcess(time_scale=100, faults={"http-500": 1}) as full:
        found = find("buffering", at(full.url))
    assert found.status == "fail"
    assert found.evidence.startswith("of 4 prompts at once, 4 did not end: 4 × POST /prompt answered 500")
    assert "comfyload gateway" in found.remedy


@pytest.mark.parametrize(
    ("fault", "evidence"),
    [
        ({"lost-event": 1}, "12 of 12 users: 12 × no events"),
        ({"evicted-history": True}, "12 of 12 users: 12 × no history"),
        ({"missing-output": 1}, "12 of 12 users: 12 × GET /view answered 404"),
        ({"truncated-picture": 1}, "12 of 12 users: 12 × a damaged picture"),
    ],
)
def test_what_a_user_does_not_get_fails(fault: dict[str, float], evidence: str) -> None:
    with SimulatorProcess(time_scale=100, faults=fault) as bad:
        found = find("balancer", at(bad.url, bad.url))
    assert (found.status, found.evidence[: len(evidence)]) == ("fail", evidence)


def test_a_limit_by_address_alone_fails(simulator: str, tmp_path: Path) -> None:
    stack = rendered(tmp_path, [simulator], rate=1)
    conf = tmp_path / "nginx" / "nginx.conf"
    conf.write_text(conf.read_text().replace("1 $user_key;", "1 $remote_addr;"))
    with nginx(tmp_path, stack) as url:
        found = find("rate-limit", at(url))
    assert found.status == "fail"
    assert found.evidence == "429 after 6 prompts, and then for a second user of the same address, too"
    assert "limit by user first" in found.remedy


# --- what the compose file declares -----------------------------------------------------------------------------------


def composed(folder: Path, stack: Stack, **changes: dict[str, Any] | None) -> ComposeFile:
    """Render the stack with changed values for some services; None removes a service's restart policy."""
    write(render(stack), folder)
    path = folder / "docker-compose.yml"
    read = yaml.safe_load(path.read_text())
    for name, values in changes.items():
        service = read["services"][name.replace("_", "-")]
        service.update(values or {})
        if values is None:
            del service["restart"]
    path.write_text(yaml.safe_dump(read, sort_keys=False))
    return ComposeFile.read(folder)


def test_exposure_by_the_published_ports(simulator: str, tmp_path: Path) -> None:
    found = find("exposure", at(simulator, stack=composed(tmp_path / "a", Stack(gpus=2))))
    assert found == Finding("pass", "declared: only nginx is published, on the loopback address")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".env").write_text("PUBLISH=0.0.0.0\n")
    found = find("exposure", at(simulator, stack=composed(tmp_path / "b", Stack(gpus=2))))
    assert found.status == "fail"
    assert "anyone who reaches it can run prompts" in found.evidence
    found = find("exposure", at(simulator, stack=composed(tmp_path / "c", Stack(), worker_0={"ports": ["8188:8188"]})))
    assert (found.status, found.evidence) == (
        "fail",
        "worker-0, nginx are published: users can reach them past the balancer",
    )
    assert "comfyload deploy --domain" in found.remedy


def test_exposure_without_a_compose_file(simulator: str) -> None:
    assert find("exposure", at(simulator)).status == "cannot tell"
    with SimulatorProcess(faults={"login": True}) as guarded:
        assert find("exposure", at(guarded.url)) == Finding("pass", f"without a password {guarded.url} answers 401")


def test_restart_by_the_policies(simulator: str, tmp_path: Path) -> None:
    found = find("restart", at(simulator, stack=composed(tmp_path / "a", Stack(gpus=2, queue=True))))
    assert found == Finding("pass", "declared: unless-stopped for 9 services")
    found = find("restart", at(simulator, stack=composed(tmp_path / "b", Stack(), worker_0=None)))
    assert (found.status, found.evidence) == ("fail", "no restart policy: worker-0")
    assert "restart: unless-stopped" in found.remedy
    assert find("restart", at(simulator)).status == "cannot tell"


def test_restart_by_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = composed(tmp_path, Stack())
    docker(tmp_path, monkeypatch, 'echo "$@" > ' + str(tmp_path / "said"))
    # The server is down for a moment after its first prompt, as after a crash.
    with SimulatorProcess(faults={"restart": 1}) as server:
        found = find("restart", at(server.url, server.url, stack=stack, disruptive=True))
    assert found.status == "pass"
    assert found.evidence.startswith("worker-0 executed prompts ")
    crash = f"compose --project-directory {tmp_path} exec -T worker-0 python /opt/watchdog.py --crash"
    assert (tmp_path / "said").read_text().strip() == crash


def test_a_worker_that_stays_away_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_comfyload.deploy.stack_checks.RESTART", 1.0)
    stack = composed(tmp_path, Stack())
    with SimulatorProcess() as server:
        docker(tmp_path, monkeypatch, f"kill -9 {server.pid}")
        found = find("restart", at(server.url, server.url, stack=stack, disruptive=True))
    assert (found.status, found.evidence) == ("fail", "worker-0 did not come back within 1 s after a crash")
    assert found.remedy == "docker compose logs worker-0"


def test_a_crash_that_could_not_be_made_is_no_evidence(
    simulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(tmp_path, monkeypatch, "echo no such container; exit 1")
    stack = composed(tmp_path, Stack())
    found = find("restart", at(simulator, simulator, stack=stack, disruptive=True))
    assert (found.status, found.evidence) == ("cannot tell", "worker-0 could not be crashed: no such container")


def test_databases_by_volumes_and_by_flags(simulator: str, tmp_path: Path) -> None:
    found = find("database", at(simulator, stack=composed(tmp_path / "a", Stack(gpus=2))))
    assert found == Finding("pass", "declared: 2 volumes for 2 workers")
    shared = {"volumes": ["worker-0:/data"]}
    found = find("database", at(simulator, stack=composed(tmp_path / "b", Stack(gpus=2), worker_1=shared)))
    assert (found.status, found.evidence) == ("fail", "worker-0, worker-1 share worker-0")
    assert "its own volume at /data" in found.remedy
    with (
        answering(stats("--database-url sqlite:///a.db")) as one,
        answering(stats("--database-url=sqlite:///a.db")) as same,
        answering(stats("--database-url=sqlite:///b.db")) as other,
    ):
        assert find("database", at(one, one, other)).status == "pass"
        found = find("database", at(one, one, same))
    assert (found.status, found.evidence) == (
        "fail",
        f"{one} and {same} are on one host with one database (sqlite:///a.db)",
    )
    assert find("database", at(simulator)).status == "cannot tell"


@pytest.mark.parametrize("text", ["", "services: {}", "a: [", "- 1", "services: []"])
def test_a_compose_file_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(text)
    with pytest.raises(UsageError, match=r"--stack: .*docker-compose.yml"):
        ComposeFile.read(tmp_path)


# --- the servers ------------------------------------------------------------------------------------------------------


def test_cache_and_memory() -> None:
    with (
        answering(stats("--cache-lru 50")) as good,
        answering(stats("--cache-none")) as none,
        answering(stats(ram_free=5)) as full,
    ):
        found = find("cache", at(good, good))
        assert found == Finding("pass", "cache: lru; at least 50% of the RAM is free")
        found = find("cache", at(good, good, none))
        assert (found.status, found.evidence) == ("fail", f"{none}: --cache-none")
        found = find("cache", at(good, good, full))
        assert (found.status, found.evidence) == ("fail", f"{full}: 5% of the RAM is free")
        assert "--cache-lru" in found.remedy


def test_growth(simulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find("growth", at(simulator, simulator))
    assert found.status == "pass"
    monkeypatch.setattr(worker_checks, "MOST_FILES", -1)
    found = find("growth", at(simulator, simulator))
    assert found.status == "fail"
    assert "files in the output folder" in found.evidence
    assert "delete old pictures" in found.remedy
    assert find("growth", at(simulator)).status == "cannot tell"


def test_the_length_of_a_history_is_counted() -> None:
    with SimulatorProcess(time_scale=100) as server:
        for count in range(3):
            found = find("growth", at(server.url, server.url))
            assert f"the longest history has {count} entries" in found.evidence
            _send(server.url)
            eventually(partial(_has_entries, server.url, count + 1))


def _has_entries(url: str, count: int) -> bool:
    return f"has {count} entries" in find("growth", at(url)).evidence


def _send(url: str) -> None:
    async def send() -> None:
        async with ComfyClient(ADDRESS(url)) as client:
            await send_tiny(client)

    asyncio.run(send())


def test_versions() -> None:
    classes: dict[str, Any] = {"/object_info": {"KSampler": {}, "SaveImage": {}}}
    with (
        answering(stats() | classes) as one,
        answering(stats() | classes) as same,
        answering(stats(version="0.3.64") | classes) as older,
        answering(stats() | {"/object_info": {"KSampler": {}}}) as less,
    ):
        found = find("versions", at(one, one, same))
        assert found == Finding("pass", "2 workers with ComfyUI 0.3.75, torch 2.7.1 and 2 node classes")
        found = find("versions", at(one, one, older))
        assert found.status == "fail"
        assert f"{older}: ComfyUI 0.3.64, torch 2.7.1" in found.evidence
        found = find("versions", at(one, one, less))
        assert (found.status, found.evidence) == ("fail", f"{less} lacks 1 node classes (SaveImage …)")
        assert "custom nodes" in found.remedy
        assert find("versions", at(one)).status == "cannot tell"


# --- monitoring -------------------------------------------------------------------------------------------------------

UP = {"scrapeUrl": "http://monitor:9188/metrics", "health": "up"}
ALERT = {"groups": [{"rules": [{"name": "ComfyUIDown"}]}]}
SOUND: dict[str, Any] = {
    "/api/v1/targets": {"data": {"activeTargets": [UP]}},
    "/api/v1/rules": {"data": ALERT},
    "/api/v1/query": {"data": {"result": [{"metric": {"server": "a"}, "value": [0, "1"]}]}},
    "/api/health": {"database": "ok", "version": "11.4.0"},
}


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (
            {"/api/v1/targets": {"data": {"activeTargets": [{**UP, "health": "down"}]}}},
            "http://monitor:9188/metrics not up",
        ),
        ({"/api/v1/targets": {"data": {"activeTargets": []}}}, "Prometheus has no target"),
        ({"/api/v1/rules": {"data": {"groups": []}}}, "Prometheus has no alert named ComfyUI…"),
        ({"/api/v1/query": {"data": {"result": []}}}, "comfyui_up is 1 for 0 of 1 workers ()"),
        ({"/api/health": {"database": "failing"}}, "Grafana says database failing"),
    ],
)
def test_monitoring_that_is_broken(change: dict[str, Any], evidence: str) -> None:
    with answering(SOUND | change) as url:
        found = find("monitoring", at(url, prometheus=ADDRESS(url), grafana=ADDRESS(url)))
    assert found.status == "fail"
    assert evidence in found.evidence
    assert found.remedy


def test_monitoring_that_is_not_named_is_not_judged() -> None:
    with answering(SOUND) as url:
        assert find("monitoring", at(url)).status == "cannot tell"
        assert find("monitoring", at(url, prometheus=ADDRESS(url))).status == "cannot tell"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_each_finding_and_its_status_says_whether_one_failed(simulator: str) -> None:
    done = CliRunner().invoke(app, ["doctor", "--comfyui-url", simulator, "--worker", simulator])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines if "rate-limit" in line] == ["fail"]
    assert any(line.strip().startswith("→ limit POST /prompt") for line in lines)
    assert "1 failed" in lines[-1]


def test_a_sound_stack_is_green_throughout(simulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nginx, the monitor and Prometheus are real processes with the rendered configuration."""
    stack = rendered(tmp_path, [simulator], rate=60)
    write(render(Stack()), tmp_path / "declared")
    with (
        nginx(tmp_path, stack) as url,
        monitor(tmp_path, "--comfyui-url", simulator, "--port", stack.services["monitor"].port),
        rendered_prometheus(tmp_path, stack) as watched,
        answering(SOUND) as grafana,
    ):
        docker(tmp_path, monkeypatch, """echo '{"ServerVersion": "28", "Runtimes": {"nvidia": {}}}'""")
        deployment = at(url, simulator, prometheus=ADDRESS(watched), grafana=ADDRESS(grafana))
        eventually(lambda: find("monitoring", deployment).status == "pass")
        command = ["--comfyui-url", url, "--worker", simulator, "--workflow", "txt2img", "--json"]
        command += ["--prometheus", watched, "--grafana", grafana, "--stack", str(tmp_path / "declared")]
        done = CliRunner().invoke(app, ["doctor", *command])
    found = json.loads(done.stdout)
    assert {each["check"]: each["status"] for each in found} == {check.name: "pass" for check in CHECKS}, found
    assert done.exit_code == 0
    (monitoring,) = (each["evidence"] for each in found if each["check"] == "monitoring")
    assert monitoring == f"Prometheus: 1 target up, 12 alerts, values of {label(simulator)}; Grafana 11.4.0 runs"


def test_the_sample_suite_passes_skips_and_fails_as_the_checks_do(
    pytester: pytest.Pytester, simulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without Docker
    suite = Suite(pytester)
    checklist = Path(__file__).parents[2] / "sample_suites" / "test_deployment_checklist.py"
    (suite.folder / checklist.name).write_text(checklist.read_text(encoding="utf-8"), encoding="utf-8")
    with nginx(tmp_path, rendered(tmp_path, [simulator], rate=60)) as url:
        result = suite.run("-rs", "--comfyui-url", url, "--comfyui-worker", simulator)
        result.assert_outcomes(passed=9, skipped=4)
        result.stdout.fnmatch_lines(["*cannot tell: no Prometheus was given; give --prometheus URL"])
    result = suite.run("-k", "rate-limit", "--comfyui-url", simulator)
    result.assert_outcomes(failed=1, deselected=len(CHECKS) - 1)
    result.stdout.fnmatch_lines(["*300 prompts of one user in a row, and no 429; limit POST /prompt*"])


def test_what_does_not_answer_is_named_with_what_to_do() -> None:
    nothing = "http://127.0.0.1:9"
    command = ["doctor", "--comfyui-url", nothing, "--prometheus", nothing, "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    found = {each["check"]: each for each in json.loads(done.stdout)}
    for name in ("balancer", "buffering", "cache", "rate-limit"):
        assert found[name]["evidence"].startswith(f"{nothing}: connection refused"), found[name]
    assert found["monitoring"]["evidence"] == f"Prometheus at {nothing}: connection refused"
    assert {each["remedy"] for each in found.values() if each["status"] == "fail"} == {
        "check that it runs and can be reached from here: docker compose ps"
    }
