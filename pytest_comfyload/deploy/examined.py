"""The deployment that the doctor examines, and the findings of checks."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.errors import UsageError
from pytest_comfyload.protocol.json_values import as_dict, as_list
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["ComposeFile", "Deployment", "Finding", "Status", "cannot_tell", "failed", "passed", "send_tiny"]

Status: TypeAlias = Literal["pass", "fail", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding of a check; `remedy` is what to do about it, empty if it passed."""

    status: Status
    evidence: str
    remedy: str = ""


def passed(evidence: str) -> Finding:
    return Finding("pass", evidence)


def failed(evidence: str, remedy: str) -> Finding:
    return Finding("fail", evidence, remedy)


def cannot_tell(evidence: str, remedy: str) -> Finding:
    """Return the finding for evidence that supports neither result; `remedy` says which evidence would."""
    return Finding("cannot tell", evidence, remedy)


@dataclass(frozen=True, slots=True)
class ComposeFile:
    """The parts of a compose file that checks need; `services` are those that always run."""

    folder: Path
    services: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> ComposeFile:
        """Read docker-compose.yml and .env of a folder. Raises: UsageError."""
        path = folder / "docker-compose.yml"
        try:
            import yaml
        except ModuleNotFoundError:
            raise UsageError("--stack needs PyYAML: pip install 'pytest-comfyload[deploy]'") from None
        try:
            services = as_dict(as_dict(yaml.safe_load(path.read_text(encoding="utf-8"))).get("services"))
            env = folder / ".env"
            lines = env.read_text(encoding="utf-8").splitlines() if env.exists() else []
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UsageError(f"--stack: {path} cannot be read ({' '.join(str(error).split())})") from None
        if not services:
            raise UsageError(f"--stack: {path} has no services; name a folder of `comfyload deploy`")
        pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
        return cls(
            folder,
            {str(name): as_dict(each) for name, each in services.items() if not as_dict(each).get("profiles")},
            {name.strip(): value.strip() for name, _, value in pairs},
        )

    def filled(self, text: object) -> str:
        """Return a value with `${NAME:-default}` replaced as compose replaces it."""
        return re.sub(
            r"\$\{(\w+)(?::?-([^}]*))?[^}]*\}",
            lambda found: self.environment.get(found[1]) or found[2] or "",
            str(text),
        )

    @property
    def gpu_services(self) -> Mapping[str, Mapping[str, Any]]:
        """The services that reserve a GPU: the workers."""
        return {name: each for name, each in self.services.items() if _computes(each)}


def _computes(service: Mapping[str, Any]) -> bool:
    resources = as_dict(as_dict(service.get("deploy")).get("resources"))
    devices = as_list(as_dict(resources.get("reservations")).get("devices"))
    return any("gpu" in as_list(as_dict(device).get("capabilities")) for device in devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is known about a deployment from outside.

    Args:
        front: What users reach: a load balancer, a gateway, or the only server.
        workers: The ComfyUI servers behind it that can be reached from here.
        stack: Its compose file.
        workflow: The workflow that its users send.
        prometheus: Its Prometheus.
        grafana: Its Grafana.
        disruptive: Whether checks may crash a worker.
    """

    front: ServerAddress
    workers: Sequence[ServerAddress] = ()
    stack: ComposeFile | None = None
    workflow: Workflow | None = None
    prometheus: ServerAddress | None = None
    grafana: ServerAddress | None = None
    disruptive: bool = False

    @property
    def servers(self) -> Sequence[ServerAddress]:
        """The servers whose setup is examined: the workers, or the front if no worker is known."""
        return self.workers or (self.front,)


async def send_tiny(client: ComfyClient, width: int = 16) -> str:
    """Send a prompt that needs no model, and return its id. Raises: ServerError.

    Its image is `width` by 16 pixels, in a random colour, so that no earlier result is reused from the cache. All
    images have the same file name, like those of people who use the same workflow.
    """
    prompt_id = str(uuid.uuid4())
    image = {"width": width, "height": 16, "batch_size": 1, "color": random.randrange(1 << 24)}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "comfyload-doctor/tiny"}},
    }
    await client.submit(client.expect(prompt_id, graph), graph)
    return prompt_id
