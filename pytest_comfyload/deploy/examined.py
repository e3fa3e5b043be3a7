"""What the doctor examines, and what a check finds."""

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
    """What a check has found; `remedy` is what to do about it, empty where it passed."""

    status: Status
    evidence: str
    remedy: str = ""


def passed(evidence: str) -> Finding:
    return Finding("pass", evidence)


def failed(evidence: str, remedy: str) -> Finding:
    return Finding("fail", evidence, remedy)


def cannot_tell(evidence: str, remedy: str) -> Finding:
    """The finding where the evidence supports neither; `remedy` says what would."""
    return Finding("cannot tell", evidence, remedy)


@dataclass(frozen=True, slots=True)
class ComposeFile:
    """A compose file as far as checks need it; `services` are those that always run."""

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
        """Return a value with `${NAME:-default}` replaced as compose does."""
        return re.sub(
            r"\$\{(\w+)(?::?-([^}]*))?[^}]*\}",
            lambda found: self.environment.get(found[1]) or found[2] or "",
            str(text),
        )

    @property
    def gpu_services(self) -> Mapping[str, Mapping[str, Any]]:
        """The services that compute on a GPU: the workers."""
        return {name: each for name, each in self.services.items() if _computes(each)}


def _computes(service: Mapping[str, Any]) -> bool:
    resources = as_dict(as_dict(service.get("deploy")).get("resources"))
    devices = as_list(as_dict(resources.get("reservations")).get("devices"))
    return any("gpu" in as_list(as_dict(device).get("capabilities")) for device in devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is known of a deployment from outside.

    Args:
        front: What users reach: a balancer, a gateway, or the only server.
        workers: The ComfyUI servers behind it, as far as they are reached from here.
        stack: Its compose file.
        workflow: What its users send.
        prometheus: Its Prometheus.
        grafana: Its Grafana.
        disruptive: A worker may be crashed.
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
        """The workers, or the front where none is known: what says how a server is set up."""
        return self.workers or (self.front,)


async def send_tiny(client: ComfyClient, width: int = 16) -> str:
    """Send a prompt that needs no model; its id. Raises: ServerError.

    Its picture has this width and 16 pixels of height, and no earlier prompt had its colour. All have the same file
    name, as the pictures of people with the same workflow do.
    """
    prompt_id = str(uuid.uuid4())
    image = {"width": width, "height": 16, "batch_size": 1, "color": random.randrange(1 << 24)}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "comfyload-doctor/tiny"}},
    }
    await client.submit(client.expect(prompt_id, graph), graph)
    return prompt_id
