"""`comfyload deploy` and `doctor`: render a deployment of ComfyUI, and check it while it runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_comfyload.cli.options import HeaderFiles, address_groups, only
from pytest_comfyload.cli.output import echo, echo_json

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.deploy.doctor import ChecklistItem, Doctor
    from pytest_comfyload.deploy.examined import Finding

__all__ = ["deploy", "doctor"]


class TargetName(StrEnum):
    COMPOSE = "compose"
    KUBERNETES = "kubernetes"


# Manual steps after rendering.
_NEXT = {
    TargetName.COMPOSE: (
        "cp .env.example .env, and set MODELS_DIR in it",
        "mkdir -p grafana/secrets && openssl rand -base64 24 > grafana/secrets/password (Grafana's password)",
        "set the receiver in alertmanager/alertmanager.yml and the thresholds in prometheus/comfyui_rules.yml",
    ),
    TargetName.KUBERNETES: (
        "build worker/ and comfyload/, push them, and name your registry in kubernetes/kustomization.yaml",
        "fill the volume comfyui-models",
        "set Prometheus' address in kubernetes/scaling.yaml and the thresholds in kubernetes/monitoring.yaml",
    ),
}
_WITH_DOMAIN = {
    TargetName.COMPOSE: (
        "put fullchain.pem, privkey.pem and htpasswd (htpasswd -cB htpasswd NAME) into nginx/secrets",
    ),
    TargetName.KUBERNETES: ("make the secrets comfyui-tls and comfyui-htpasswd, as kubernetes/front.yaml says",),
}
_START = {
    TargetName.COMPOSE: "docker compose up -d --build, then docker compose run --rm doctor",
    TargetName.KUBERNETES: "kubectl apply -k kubernetes",
}


def deploy(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to write; files that you edited there are kept.")
    ],
    gpus: Annotated[int, typer.Option(help="ComfyUI workers, one on each GPU; with kubernetes, the maximum.")] = 1,
    queue: Annotated[
        bool, typer.Option("--queue", help="Prompts wait in Redis behind `comfyload gateway`, not in a worker.")
    ] = False,
    domain: Annotated[str, typer.Option(metavar="NAME", help="Public domain name; adds TLS and a password.")] = "",
    target: Annotated[TargetName, typer.Option(help="Platform to render for.")] = TargetName.COMPOSE,
    rate: Annotated[int, typer.Option(help="Prompts per minute of one user; ten times that of one address.")] = 60,
    upload: Annotated[int, typer.Option(help="Largest request body, in MB.")] = 100,
    address: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=HOST:PORT",
            help="Address of a service that runs elsewhere; of nginx, the address to listen on.",
        ),
    ] = None,
) -> None:
    """Render a deployment of ComfyUI: workers, nginx, monitoring, and with --queue Redis and a gateway.

    Rendering again keeps the files that you have edited; the new version of such a file is written as FILE.new.
    No secret is written.
    """
    from pytest_comfyload.deploy.render import render, write
    from pytest_comfyload.deploy.stack import Stack, parse_addresses

    stack = Stack(
        gpus=gpus, queue=queue, domain=domain, rate=rate, upload=upload, addresses=parse_addresses(address or ())
    )
    for file in write(render(stack, target.value), folder):
        beside = f"; the new one is {file.path}.new" if file.state == "conflict" else ""
        echo(f"{file.state:<9} {file.path}{beside}")
    steps = [*_NEXT[target], *(_WITH_DOMAIN[target] if domain else ()), _START[target]]
    echo(f"next, in {folder}:")
    for number, step in enumerate(steps, 1):
        echo(f"  {number}. {step}")


def doctor(
    url: Annotated[
        str, typer.Option("--comfyui-url", envvar="COMFYUI_URL", metavar="URL", help="URL that users reach.")
    ],
    worker: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A ComfyUI server behind it; repeatable.")
    ] = None,
    header_files: HeaderFiles = None,
    stack: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with its docker-compose.yml.")] = None,
    workflow: Annotated[
        str | None,
        typer.Option(metavar="WORKFLOW", help="Workflow that its users send: a file, or the name of a shipped one."),
    ] = None,
    prometheus: Annotated[str | None, typer.Option(metavar="URL", help="Its Prometheus.")] = None,
    grafana: Annotated[str | None, typer.Option(metavar="URL", help="Its Grafana.")] = None,
    disruptive: Annotated[
        bool, typer.Option("--disruptive", help="Crash a worker to check that it restarts; its prompts are lost.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a deployment of ComfyUI: each check passes, fails or cannot tell, with evidence and a remedy.

    Sends small prompts, one of the workflow to each worker, and up to 300 empty ones, which are refused.

    Exit status: 0 if no check failed, 1 if one did, 2 for an error.
    """
    from pytest_comfyload.deploy.doctor import CHECKS, Doctor
    from pytest_comfyload.deploy.examined import ComposeFile, Deployment
    from pytest_comfyload.workflow.workflow import Workflow

    fronts, workers = address_groups([url], worker or (), header_files=header_files or ())
    examined = Doctor(
        Deployment(
            front=only(fronts),
            workers=workers,
            stack=None if stack is None else ComposeFile.read(stack),
            workflow=None if workflow is None else Workflow.load(workflow, root=Path.cwd()),
            prometheus=_one(prometheus),
            grafana=_one(grafana),
            disruptive=disruptive,
        )
    )
    found = asyncio.run(_examined(examined, CHECKS, quiet=as_json))
    counts = Counter(finding.status for _, finding in found)
    if as_json:
        echo_json([_as_data(check, finding) for check, finding in found])
    else:
        echo(f"{counts['pass']} passed, {counts['fail']} failed, {counts['cannot tell']} could not be determined")
    raise typer.Exit(1 if counts["fail"] else 0)


def _one(url: str | None) -> ServerAddress | None:
    """Raises: UsageError."""
    from pytest_comfyload.client.address import ServerAddress

    return None if url is None else ServerAddress.parse(url)


async def _examined(
    doctor: Doctor, checks: Sequence[ChecklistItem], quiet: bool
) -> list[tuple[ChecklistItem, Finding]]:
    found = []
    for check in checks:
        finding = await doctor.examine(check)
        found.append((check, finding))
        if not quiet:
            echo(f"{finding.status:<12}{check.name:<12}{finding.evidence}")
            if finding.remedy:
                echo(f"{'':<24}→ {finding.remedy}")
    return found


def _as_data(check: ChecklistItem, finding: Finding) -> dict[str, str]:
    return {
        "check": check.name,
        "holds": check.holds,
        "status": finding.status,
        "evidence": finding.evidence,
        "remedy": finding.remedy,
    }
