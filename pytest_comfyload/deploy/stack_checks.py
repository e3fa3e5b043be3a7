"""Checks of the workers' environment: the container toolkit, monitoring, and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.deploy.examined import ComposeFile, Deployment, Finding, cannot_tell, failed, passed, send_tiny
from pytest_comfyload.deploy.worker_checks import stats_of
from pytest_comfyload.errors import ConnectionRefused, ServerError
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.protocol.json_values import as_dict, as_list
from pytest_comfyload.run.target import unsocketed

__all__ = ["check_monitoring", "check_restart", "check_toolkit"]

# Seconds to wait for docker, and for a crashed worker to execute prompts again.
ANSWER, RESTART = 20.0, 300.0
_RESTARTING = ("always", "unless-stopped", "on-failure")


async def check_toolkit(deployment: Deployment) -> Finding:
    """Check that containers get the GPUs."""
    install = "install nvidia-container-toolkit, run nvidia-ctk runtime configure --runtime=docker, restart Docker"
    stats = await stats_of(deployment.servers)
    devices = "; ".join(f"{url}: {', '.join(each.devices) or 'no device'}" for url, each in stats.items())
    on_cpu = [url for url, each in stats.items() if _device_type(each.raw) == "cpu"]
    if on_cpu:
        return failed(f"{', '.join(on_cpu)} runs on the CPU", install)
    info = await _docker_info()
    if info is None:
        return cannot_tell(
            f"no Docker daemon answers here; the workers report {devices}", "run it on the machine with the GPUs"
        )
    runtimes = sorted(as_dict(info.get("Runtimes")))
    found = [str(as_dict(each).get("ID")) for each in as_list(info.get("DiscoveredDevices"))]
    gpus = [each for each in found if each.startswith("nvidia.com/gpu=")]
    if "nvidia" not in runtimes and not gpus:
        return failed(f"docker info: runtimes {', '.join(runtimes) or 'none'}, no NVIDIA CDI device", install)
    how = "the runtime nvidia" if "nvidia" in runtimes else f"CDI with {counted(len(gpus), 'device')}"
    return passed(f"docker info: {how}; {devices}")


def _device_type(stats: Mapping[str, Any]) -> object:
    devices = as_list(stats.get("devices"))
    return as_dict(devices[0]).get("type") if devices else None


async def _docker_info() -> Mapping[str, Any] | None:
    """Return the output of `docker info`; None if no daemon answers."""
    status, output = await _run("docker", "info", "--format", "{{json .}}")
    with contextlib.suppress(ValueError):
        info = as_dict(json.loads(output))
        # The client also answers without a daemon.
        return info if status == 0 and info.get("ServerVersion") else None
    return None


async def _run(*command: str) -> tuple[int, str]:
    """Run a program, and return its exit status and output; 127 if it is missing, 124 if it took too long."""
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError:
        return 127, ""
    try:
        async with asyncio.timeout(ANSWER):
            output, _ = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        return 124, ""
    return child.returncode or 0, output.decode(errors="replace")


async def check_monitoring(deployment: Deployment) -> Finding:
    """Check that Prometheus scrapes every worker and has the alerts, and that Grafana runs."""
    if deployment.prometheus is None:
        return cannot_tell("no Prometheus was given", "give --prometheus URL")
    targets = as_list(as_dict(await _asked(deployment.prometheus, "targets", state="active")).get("activeTargets"))
    down = [str(as_dict(each).get("scrapeUrl")) for each in targets if as_dict(each).get("health") != "up"]
    if down or not targets:
        return failed(
            f"{', '.join(down)} not up" if targets else "Prometheus has no target",
            "start `comfyload monitor`, and name it in prometheus.yml: docker compose logs monitor prometheus",
        )
    if not (alerts := await _alerts(deployment.prometheus)):
        return failed("Prometheus has no alert named ComfyUI…", "load comfyui_rules.yml: rule_files in prometheus.yml")
    answer = as_dict(await _asked(deployment.prometheus, "query", query="comfyui_up == 1"))
    servers = {str(as_dict(as_dict(each).get("metric")).get("server")) for each in as_list(answer.get("result"))}
    expected = max(1, len(deployment.workers))
    if len(servers) < expected:
        return failed(
            f"comfyui_up is 1 for {len(servers)} of {expected} workers ({', '.join(sorted(servers))})",
            "give the monitor the URL of each worker: --comfyui-url in its command",
        )
    watched = (
        f"{counted(len(targets), 'target')} up, {counted(alerts, 'alert')}, values of {', '.join(sorted(servers))}"
    )
    return await _with_grafana(deployment.grafana, watched)


async def _with_grafana(grafana: ServerAddress | None, watched: str) -> Finding:
    if grafana is None:
        return cannot_tell(f"Prometheus: {watched}; no Grafana was given", "give --grafana URL")
    try:
        health = as_dict(await _get("Grafana", grafana, "/api/health"))
    except ServerError as error:
        return failed(f"Prometheus: {watched}; {error}", "docker compose logs grafana")
    if health.get("database") != "ok":
        return failed(
            f"Prometheus: {watched}; Grafana says database {health.get('database')}", "docker compose logs grafana"
        )
    return passed(f"Prometheus: {watched}; Grafana {health.get('version', '')} runs")


async def _alerts(prometheus: ServerAddress) -> int:
    """Return the number of our alerts that Prometheus has. Raises: ServerError."""
    groups = as_list(as_dict(await _asked(prometheus, "rules", type="alert")).get("groups"))
    rules = [as_dict(rule) for group in groups for rule in as_list(as_dict(group).get("rules"))]
    return sum(str(rule.get("name")).startswith("ComfyUI") for rule in rules)


async def _asked(prometheus: ServerAddress, route: str, **query: str) -> Any:
    """Return the data of a Prometheus API answer. Raises: ServerError."""
    return as_dict(await _get("Prometheus", prometheus, f"/api/v1/{route}", query)).get("data")


async def _get(name: str, server: ServerAddress, path: str, query: Mapping[str, str] | None = None) -> Any:
    """Return the JSON answer of a service called `name`. Raises: ServerError."""
    transport = Transport(server)
    try:
        return await transport.get_json(path, query)
    except ConnectionRefused:
        # The client's own message asks whether ComfyUI is running there.
        raise ServerError(f"{name} at {server.url}: connection refused") from None
    finally:
        await transport.aclose()


async def check_restart(deployment: Deployment) -> Finding:
    """Check that a worker that crashes, or runs out of memory, restarts automatically."""
    declare = "restart: unless-stopped for every service in docker-compose.yml"
    if deployment.stack is None:
        return cannot_tell("no compose file was given", "give --stack DIR, and --disruptive to crash a worker")
    policies = {name: str(service.get("restart", "no")) for name, service in deployment.stack.services.items()}
    if without := [name for name, policy in policies.items() if policy.split(":")[0] not in _RESTARTING]:
        return failed(f"no restart policy: {', '.join(without)}", declare)
    if not deployment.disruptive:
        return passed(f"declared: {', '.join(sorted(set(policies.values())))} for {counted(len(policies), 'service')}")
    if not deployment.workers or not deployment.stack.gpu_services:
        return cannot_tell("--disruptive crashes a worker, and none is known", "name each worker with --worker")
    return await _crash(deployment.stack, next(iter(deployment.stack.gpu_services)), deployment.workers[0])


async def _crash(stack: ComposeFile, service: str, worker: ServerAddress) -> Finding:
    """Kill ComfyUI in a container, and wait until it executes prompts again. Raises: ServerError."""
    async with unsocketed(worker) as client:
        earlier = await send_tiny(client)
    loop = asyncio.get_running_loop()
    crash = ("exec", "-T", service, "python", "/opt/watchdog.py", "--crash")
    status, said = await _run("docker", "compose", "--project-directory", str(stack.folder), *crash)
    if status != 0:
        return cannot_tell(
            f"{service} could not be crashed: {' '.join(said.split())[:200]}", "run doctor where Docker is"
        )
    begun = loop.time()
    while loop.time() - begun < RESTART:
        await asyncio.sleep(0.5)
        with contextlib.suppress(ServerError):
            # The crash deletes the history: an earlier prompt in it means that the old process still answers.
            async with ComfyClient(worker) as client:
                if await client.history(earlier) is None and await _executes(client):
                    return passed(f"{service} executed prompts {loop.time() - begun:.0f} s after a crash")
    return failed(f"{service} did not come back within {RESTART:g} s after a crash", f"docker compose logs {service}")


async def _executes(client: ComfyClient) -> bool:
    """Return whether a server executes a tiny prompt. Raises: ServerError."""
    prompt_id = await send_tiny(client)
    for _ in range(100):
        if await client.history(prompt_id) is not None:
            return True
        await asyncio.sleep(0.2)
    return False
