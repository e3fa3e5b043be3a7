"""Rendering of a stack into a folder. Files that a user has edited are kept; the new text is written to `*.new`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_comfyload.deploy.stack import COMFYUI_VERSION, COOKIE, IMAGES, RenderTarget, Stack
from pytest_comfyload.errors import UsageError
from pytest_comfyload.monitor.configuration import shipped

__all__ = ["MANIFEST", "RenderedFile", "render", "write"]

MANIFEST = ".comfyload-deploy.json"
# Prefix of the network that the containers share; the last number of an address identifies a container.
SUBNET = "172.30.188"
_HERE = Path(__file__).parent

# The files that are written for each target, with their templates.
_IMAGES = {"worker/Dockerfile": "worker/Dockerfile", "comfyload/Dockerfile": "comfyload/Dockerfile"}
_COMPOSE = {
    "docker-compose.yml": "docker-compose.yml",
    ".env.example": "env.example",
    ".gitignore": "gitignore",
    "nginx/nginx.conf": "nginx/nginx.conf",
    "prometheus/prometheus.yml": "prometheus/prometheus.yml",
    "grafana/provisioning/datasources/prometheus.yml": "grafana/datasource.yml",
    "grafana/provisioning/dashboards/comfyload.yml": "grafana/dashboards.yml",
}
_QUEUE = {
    "redis/redis.conf": "redis/redis.conf",
    "prometheus/gateway_rules.yml": "prometheus/gateway_rules.yml",
}
_KUBERNETES = {
    f"kubernetes/{name}.yaml": f"kubernetes/{name}.yaml"
    for name in ("kustomization", "worker", "front", "scaling", "monitoring")
}
# The monitor's own files, which are copied unchanged.
_SHIPPED = {
    "prometheus/comfyui_rules.yml": "comfyui_rules.yml",
    "alertmanager/alertmanager.yml": "alertmanager.yml",
    "grafana/dashboards/comfyui.json": "grafana_dashboard.json",
}


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """The result of writing one file.

    `edited`: the user has changed it, and our text is the same as before. `conflict`: our text has changed, too, and is
    in the `.new` file.
    """

    path: str
    state: Literal["new", "updated", "unchanged", "edited", "conflict", "removed"]


def render(stack: Stack, target: RenderTarget = "compose") -> Mapping[str, str]:
    """Return the text of each file, by its path in the folder. Raises: UsageError."""
    if target == "kubernetes" and stack.addresses:
        raise UsageError("--address is for compose: kubernetes finds its pods itself")
    copied = {"worker/watchdog.py": (_HERE / "watchdog.py").read_text(encoding="utf-8")}
    if target == "kubernetes":
        queue = {"kubernetes/queue.yaml": "kubernetes/queue.yaml"} if stack.queue else {}
        return copied | _filled(_IMAGES | _KUBERNETES | queue, stack)
    copied |= {path: shipped(name) for path, name in _SHIPPED.items()}
    return copied | _filled(_IMAGES | _COMPOSE | (_QUEUE if stack.queue else {}), stack)


def write(files: Mapping[str, str], folder: Path) -> list[RenderedFile]:
    """Write rendered files into a folder, which may contain an earlier rendering. Raises: UsageError."""
    try:
        manifest = _read_manifest(folder)
        done = [_write(folder / path, path, text, manifest) for path, text in sorted(files.items())]
        done += [_remove(folder / path, path, manifest[path]) for path in sorted(manifest.keys() - files.keys())]
        hashes = {path: _hash(text) for path, text in sorted(files.items())}
        (folder / MANIFEST).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from None
    return done


def _filled(templates: Mapping[str, str], stack: Stack) -> dict[str, str]:
    """Render templates, and return their texts by path. Raises: UsageError."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise UsageError(f"deploy needs {error.name}: pip install 'pytest-comfyload[deploy]'") from None
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    values = {
        "stack": stack,
        "images": IMAGES,
        "comfyui_version": COMFYUI_VERSION,
        "cookie": COOKIE,
        "subnet": SUBNET,
        "rules": shipped("comfyui_rules.yml"),
    }
    return {path: environment.get_template(name).render(values) for path, name in templates.items()}


def _write(file: Path, path: str, text: str, manifest: Mapping[str, str]) -> RenderedFile:
    """Write one file, unless it has been edited since it was written. Raises: OSError."""
    there = file.read_bytes().decode("utf-8", "replace") if file.exists() else None
    beside = file.with_name(f"{file.name}.new")
    if there is not None and there != text and manifest.get(path) != _hash(there):
        if manifest.get(path) == _hash(text):
            return RenderedFile(path, "edited")
        beside.write_text(text, encoding="utf-8", newline="")
        return RenderedFile(path, "conflict")
    # A `.new` file of an earlier rendering is obsolete: the file now has that text, or a newer one.
    if manifest:
        beside.unlink(missing_ok=True)
    if there == text:
        return RenderedFile(path, "unchanged")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", newline="")
    return RenderedFile(path, "new" if there is None else "updated")


def _remove(file: Path, path: str, written: str) -> RenderedFile:
    """Remove a file that the stack no longer has, unless it has been edited. Raises: OSError."""
    if file.exists() and _hash(file.read_bytes().decode("utf-8", "replace")) != written:
        return RenderedFile(path, "edited")
    file.unlink(missing_ok=True)
    return RenderedFile(path, "removed")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, str]:
    """Return the hash of each file as last written; empty for a new folder. Raises: OSError, UsageError."""
    try:
        read = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        return {}
    except ValueError as error:
        raise UsageError(f"{folder / MANIFEST} cannot be read ({error}); remove it, and edited files stay") from None
    if not isinstance(read, dict) or not all(isinstance(each, str) and _inside(path) for path, each in read.items()):
        raise UsageError(
            f"{folder / MANIFEST} is not a manifest of `comfyload deploy`; remove it, and edited files stay"
        )
    return read


def _inside(path: str) -> bool:
    """Return whether a path of the manifest is inside its folder, since files in the manifest may be removed."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts
