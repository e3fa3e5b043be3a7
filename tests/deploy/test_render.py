"""The rendered files, checked by nginx, promtool, amtool, and the schemas of compose files and of Kubernetes."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import trustme
import yaml
from typer.testing import CliRunner

from pytest_comfyload.cli import app
from pytest_comfyload.deploy.examined import ComposeFile
from pytest_comfyload.deploy.render import MANIFEST, render, write
from pytest_comfyload.deploy.stack import IMAGES, Stack
from pytest_comfyload.errors import UsageError
from tests.monitor.prometheus_server import promtool

DOMAIN = "comfy.example.org"
STACKS = {
    f"{gpus}{'-queue' if queue else ''}{'-domain' if domain else ''}": Stack(gpus=gpus, queue=queue, domain=domain)
    for gpus, queue, domain in itertools.product((1, 2, 8), (False, True), ("", DOMAIN))
}
RENDERED = {name: render(stack) for name, stack in STACKS.items()}
KUBERNETES = "1.30"


def tool(name: str) -> str:
    """Return the path of a program, which may be in /usr/sbin. Skips the test if it is missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    return found or pytest.skip(f"needs {name} (Debian's package)")


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def on_loopback(stack: Stack) -> Stack:
    """Return the stack with every service on a port of this machine, as without Docker."""
    places = {name: f"127.0.0.1:{20000 + number}" for number, name in enumerate(stack.services)}
    return Stack(gpus=stack.gpus, queue=stack.queue, domain=stack.domain, addresses=places)


def make_secrets(folder: Path) -> None:
    """Write what the user provides: a certificate, and the password `word` of the user `ada`."""
    folder.mkdir(parents=True)
    certificate = trustme.CA().issue_cert(DOMAIN)
    certificate.private_key_pem.write_to_path(str(folder / "privkey.pem"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(folder / "fullchain.pem"), append=True)
    (folder / "htpasswd").write_text("ada:{PLAIN}word\n")


def compose(files: Mapping[str, str]) -> dict[str, Any]:
    read: dict[str, Any] = yaml.load(files["docker-compose.yml"], yaml.CSafeLoader)
    return read


def devices(service: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    )
    return found


def refuse_double_counts(composed: Mapping[str, Any]) -> None:
    """Refuse a device reserved by both count and id, as Docker does, but neither the schema nor `config`."""
    for name, service in composed["services"].items():
        for device in devices(service):
            assert not {"count", "device_ids"} <= device.keys(), f"{name} reserves GPUs by count and by id"


# --- compose ---------------------------------------------------------------------------------------------------------


def test_compose_files_are_of_the_published_schema(tmp_path: Path) -> None:
    files = []
    for name, rendered in RENDERED.items():
        files.append(tmp_path / f"{name}.yml")
        files[-1].write_text(rendered["docker-compose.yml"])
    run(Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *files)


@pytest.mark.parametrize("name", ["1", "8-queue-domain"])
def test_the_old_compose_takes_them_too(name: str, tmp_path: Path) -> None:
    program = shutil.which("docker-compose") or pytest.skip("needs docker-compose 1.29 (Debian's package)")
    write(RENDERED[name], tmp_path)
    shutil.copy(tmp_path / ".env.example", tmp_path / ".env")
    run(program, "-f", tmp_path / "docker-compose.yml", "config", "--quiet")


@pytest.mark.parametrize("name", STACKS)
def test_each_worker_has_a_gpu_and_a_volume_of_its_own(name: str) -> None:
    stack, services = STACKS[name], compose(RENDERED[name])["services"]
    workers = [services[worker.name] for worker in stack.workers]
    assert [device["device_ids"] for each in workers for device in devices(each)] == [
        [f"{n}"] for n in range(stack.gpus)
    ]
    assert len({volume for each in workers for volume in each["volumes"] if volume.endswith(":/data")}) == stack.gpus
    assert all(any(volume.endswith(":/data/models:ro") for volume in each["volumes"]) for each in workers)
    addresses = [each["networks"]["comfyui"]["ipv4_address"] for each in workers]
    assert len(set(addresses)) == stack.gpus


@pytest.mark.parametrize("name", STACKS)
def test_only_nginx_is_published_and_every_service_starts_anew(name: str) -> None:
    composed = compose(RENDERED[name])
    services = {name: each for name, each in composed["services"].items() if "profiles" not in each}
    assert [name for name, each in services.items() if "ports" in each] == ["nginx"]
    assert {each["restart"] for each in services.values()} == {"unless-stopped"}
    # Without a domain there is no password, so only this machine can reach it.
    published = services["nginx"]["ports"]
    assert all(
        port.startswith("${PUBLISH:-127.0.0.1}:" if not STACKS[name].domain else "${PUBLISH:-0.0.0.0}:")
        for port in published
    )
    if STACKS[name].queue:
        # Custom nodes are foreign code: workers have no access to the queue.
        users = [name for name, each in services.items() if "queue" in each["networks"]]
        assert users == ["redis", "gateway"]
        assert composed["networks"]["queue"] == {"internal": True}


@pytest.mark.parametrize("name", STACKS)
def test_nginx_starts_after_all_that_it_must_resolve(name: str) -> None:
    named = re.findall(r"(?:server |proxy_pass http://)([a-z0-9-]+):\d", RENDERED[name]["nginx/nginx.conf"])
    assert "grafana" in named
    assert set(compose(RENDERED[name])["services"]["nginx"]["depends_on"]) == set(named)


def test_gpus_reserved_by_count_and_by_id_are_refused() -> None:
    for files in RENDERED.values():
        refuse_double_counts(compose(files))
    wrong = compose(RENDERED["1"])
    devices(wrong["services"]["worker-0"])[0]["count"] = 1
    with pytest.raises(AssertionError, match="worker-0 reserves GPUs by count and by id"):
        refuse_double_counts(wrong)


def test_images_have_versions_and_no_secret_is_written() -> None:
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in IMAGES.values())
    for files in RENDERED.values():
        assert not [path for path in files if "secrets/" in path or path.endswith("/.env")]
        named = {line.split("=")[0] for line in files[".env.example"].splitlines() if "=" in line and line[0] != "#"}
        assert named <= {
            "MODELS_DIR",
            "CUSTOM_NODES_DIR",
            "WORKER_MEMORY",
            "COMFYUI_ARGS",
            "PUBLISH",
            "HTTP_PORT",
            "HTTPS_PORT",
        }
        used = set(re.findall(r"\$\{(\w+)", files["docker-compose.yml"]))
        assert used == named


def test_services_elsewhere_are_not_in_the_compose_file() -> None:
    stack = Stack(gpus=2, queue=True, addresses={"worker-1": "gpu2.lan:8188", "redis": "db.lan:6379"})
    composed = compose(render(stack))
    assert {"worker-1", "redis"}.isdisjoint(composed["services"])
    assert {"worker-1", "redis"}.isdisjoint(composed["volumes"])
    assert "--worker=http://gpu2.lan:8188" in composed["services"]["gateway"]["command"]
    assert "--redis=redis://db.lan:6379" in composed["services"]["gateway"]["command"]


# --- the programs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STACKS)
def test_nginx_takes_its_configuration(name: str, tmp_path: Path) -> None:
    nginx = tool("nginx")
    write(render(on_loopback(STACKS[name])), tmp_path)
    make_secrets(tmp_path / "nginx" / "secrets")
    run(nginx, "-t", "-q", "-p", tmp_path / "nginx", "-c", "nginx.conf", "-g", f"pid {tmp_path}/nginx.pid;")


@pytest.mark.parametrize("name", ["1", "1-queue"])
def test_prometheus_and_alertmanager_take_theirs(name: str, tmp_path: Path) -> None:
    write(RENDERED[name], tmp_path)
    done = promtool("check", "config", str(tmp_path / "prometheus" / "prometheus.yml"))
    assert done.returncode == 0, done.stderr
    assert f"SUCCESS: {2 if STACKS[name].queue else 1} rule files found" in done.stdout
    amtool = shutil.which("amtool") or pytest.skip("needs amtool (Debian's prometheus-alertmanager)")
    run(amtool, "check-config", tmp_path / "alertmanager" / "alertmanager.yml")


@pytest.mark.parametrize(
    ("alert", "series", "bad", "good"),
    [
        ("ComfyUIGatewayQueueGrowing", 'comfyload_gateway_waiting{instance="a"}', "0+1x60", "40-0.3x60"),
        ("ComfyUIGatewayDown", 'up{job="gateway",instance="a"}', "0x60", "1x60"),
    ],
)
def test_alerts_of_the_gateway_fire_by_their_cause(
    alert: str, series: str, bad: str, good: str, tmp_path: Path
) -> None:
    (tmp_path / "rules.yml").write_text(RENDERED["2-queue"]["prometheus/gateway_rules.yml"])
    expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values}],
            "promql_expr_test": [
                {"expr": expression, "eval_time": "40m", "exp_samples": [{"labels": "{}", "value": value}]}
            ],
        }
        for values, value in ((bad, 1), (good, 0))
    ]
    suite = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(json.dumps(suite))
    done = promtool("test", "rules", str(tmp_path / "tests.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_its_dashboard_and_its_data() -> None:
    files = RENDERED["2"]
    assert json.loads(files["grafana/dashboards/comfyui.json"])["uid"] == "comfyui-comfyload"
    (source,) = yaml.safe_load(files["grafana/provisioning/datasources/prometheus.yml"])["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load(files["grafana/provisioning/dashboards/comfyload.yml"])["providers"]
    mounts = compose(RENDERED["2"])["services"]["grafana"]["volumes"]
    assert any(mount.split(":")[1] == provider["options"]["path"] for mount in mounts)


# --- Kubernetes ------------------------------------------------------------------------------------------------------

# Required fields of the objects for which no schema is published.
FOREIGN = {
    "ScaledObject": {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers"},
    "PodMonitor": {"selector", "podMetricsEndpoints"},
    "PrometheusRule": {"groups"},
}


def objects_of(files: Mapping[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects that `kubectl apply -k` would create, by kind and name."""
    (kustomization,) = yaml.safe_load_all(files["kubernetes/kustomization.yaml"])
    listed = [f"kubernetes/{name}" for name in kustomization["resources"]]
    assert {*listed, "kubernetes/kustomization.yaml"} == {path for path in files if path.startswith("kubernetes/")}
    found = [each for path in listed for each in yaml.safe_load_all(files[path])]
    named = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert len(named) == len(found)
    return named


@pytest.mark.parametrize("domain", ["", DOMAIN])
@pytest.mark.parametrize("queue", [False, True])
def test_kubernetes_objects_are_of_the_published_schemas(queue: bool, domain: str) -> None:
    files = render(Stack(gpus=4, queue=queue, domain=domain), "kubernetes")
    objects = objects_of(files)
    for (kind, _), each in objects.items():
        if kind in FOREIGN:
            assert FOREIGN[kind] <= each["spec"].keys()
        else:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
    scaled = objects["ScaledObject", "comfyui"]["spec"]
    pool = objects["StatefulSet" if queue else "Deployment", "comfyui"]
    target = scaled["scaleTargetRef"]
    assert (target.get("kind", "Deployment"), target["name"]) == (pool["kind"], pool["metadata"]["name"])
    assert scaled["maxReplicaCount"] == 4
    assert "replicas" not in pool["spec"]
    (kustomization,) = yaml.safe_load_all(files["kubernetes/kustomization.yaml"])
    built = {each["name"] for each in kustomization["images"]}
    assert {each["image"] for each in pool["spec"]["template"]["spec"]["containers"]} == built
    assert (DOMAIN in files["kubernetes/front.yaml"]) == bool(domain)


def test_services_of_kubernetes_lead_to_ports_of_their_pods() -> None:
    objects = objects_of(render(Stack(gpus=2, queue=True), "kubernetes"))
    pods = [each["spec"]["template"] for (kind, _), each in objects.items() if kind in ("Deployment", "StatefulSet")]
    ports = {
        (pod["metadata"]["labels"]["app.kubernetes.io/name"], port["name"])
        for pod in pods
        for container in pod["spec"]["containers"]
        for port in container["ports"]
    }
    services = {name: each["spec"] for (kind, name), each in objects.items() if kind == "Service"}
    for spec in services.values():
        assert (spec["selector"]["app.kubernetes.io/name"], spec["ports"][0]["targetPort"]) in ports
    for name in ("comfyui", "comfyui-prompt"):
        paths = objects["Ingress", name]["spec"]["rules"][0]["http"]["paths"]
        assert {path["backend"]["service"]["name"] for path in paths} == {"gateway"}
    (gateway,) = objects["Deployment", "gateway"]["spec"]["template"]["spec"]["containers"]
    pool = objects["StatefulSet", "comfyui"]["spec"]["serviceName"]
    workers = [f"--worker=http://comfyui-{number}.{pool}:{services[pool]['ports'][0]['port']}" for number in range(2)]
    assert [each for each in gateway["args"] if each.startswith("--worker")] == workers


def test_rules_in_kubernetes_are_those_of_prometheus() -> None:
    objects, files = objects_of(render(Stack(queue=True), "kubernetes")), render(Stack(queue=True))
    for name, path in (("comfyui", "comfyui_rules.yml"), ("gateway", "gateway_rules.yml")):
        assert objects["PrometheusRule", name]["spec"] == yaml.safe_load(files[f"prometheus/{path}"])
        # Pods are scraped under the job names that the alerts use.
        scraped = objects["PodMonitor", name]["spec"]
        assert scraped["selector"]["matchLabels"][scraped["jobLabel"]] == name
        assert f'job="{name}"' in files[f"prometheus/{path}"]
    assert objects["ConfigMap", "redis"]["data"]["redis.conf"].strip() == files["redis/redis.conf"].strip()


def test_kubernetes_takes_no_addresses() -> None:
    with pytest.raises(UsageError, match="--address is for compose: kubernetes finds its pods itself"):
        render(Stack(addresses={"worker-0": "a:1"}), "kubernetes")


# --- rendered again --------------------------------------------------------------------------------------------------


def states(folder: Path, stack: Stack) -> dict[str, str]:
    return {file.path: file.state for file in write(render(stack), folder)}


def test_a_second_rendering_keeps_what_was_edited(tmp_path: Path) -> None:
    assert set(states(tmp_path, Stack(gpus=1)).values()) == {"new"}
    assert set(states(tmp_path, Stack(gpus=1)).values()) == {"unchanged"}
    conf, rules = tmp_path / "nginx" / "nginx.conf", tmp_path / "prometheus" / "comfyui_rules.yml"
    mine = conf.read_text().replace("worker_processes auto", "worker_processes 2")
    conf.write_text(mine)
    rules.write_text("groups: []\n")

    found = states(tmp_path, Stack(gpus=2))
    assert found["docker-compose.yml"] == "updated"
    assert found["nginx/nginx.conf"] == "conflict"
    assert found["prometheus/comfyui_rules.yml"] == "edited"
    assert conf.read_text() == mine
    assert conf.with_name("nginx.conf.new").read_text() == render(Stack(gpus=2))["nginx/nginx.conf"]
    assert not rules.with_name("comfyui_rules.yml.new").exists()

    # The file counts as edited until the user adopts the new version.
    assert states(tmp_path, Stack(gpus=2))["nginx/nginx.conf"] == "edited"
    shutil.move(conf.with_name("nginx.conf.new"), conf)
    assert states(tmp_path, Stack(gpus=2))["nginx/nginx.conf"] == "unchanged"
    assert states(tmp_path, Stack(gpus=1))["nginx/nginx.conf"] == "updated"


def test_files_that_were_there_before_stay(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text("services: {}\n")
    assert states(tmp_path, Stack())["docker-compose.yml"] == "conflict"
    assert (tmp_path / "docker-compose.yml").read_text() == "services: {}\n"


def test_what_the_stack_no_longer_has_is_removed_unless_it_was_edited(tmp_path: Path) -> None:
    states(tmp_path, Stack(queue=True))
    assert states(tmp_path, Stack())["redis/redis.conf"] == "removed"
    assert not (tmp_path / "redis" / "redis.conf").exists()
    states(tmp_path, Stack(queue=True))
    (tmp_path / "redis" / "redis.conf").write_text("port 1\n")
    assert states(tmp_path, Stack())["redis/redis.conf"] == "edited"
    assert (tmp_path / "redis" / "redis.conf").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"../../etc/passwd": "x"}', '{"a": 1}'])
def test_a_manifest_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match=r"remove it, and edited files stay"):
        write(render(Stack()), tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write(render(Stack()), tmp_path / "file")


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_became_of_each_file_and_what_is_next(tmp_path: Path) -> None:
    command = ["deploy", str(tmp_path / "stack"), "--gpus", "2", "--domain", DOMAIN]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert "new       docker-compose.yml" in done.stdout
    assert "put fullchain.pem, privkey.pem and htpasswd (htpasswd -cB htpasswd NAME) into nginx/secrets" in done.stdout
    (tmp_path / "stack" / "nginx" / "nginx.conf").write_text("events {}\n")
    done = CliRunner().invoke(app, [*command, "--rate", "5"])
    assert "conflict  nginx/nginx.conf; the new one is nginx/nginx.conf.new" in done.stdout
    done = CliRunner().invoke(app, [*command, "--address", "worker-0"])
    assert str(done.exception) == "--address 'worker-0': write NAME=HOST:PORT, such as worker-1=gpu2.lan:8188"


@pytest.mark.parametrize("module", ["jinja2", "yaml"])
def test_what_an_extra_brings_is_named_where_it_is_missing(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"pip install 'pytest-comfyload\[deploy\]'"):
        render(Stack()) if module == "jinja2" else ComposeFile.read(tmp_path)
