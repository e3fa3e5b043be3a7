"""Bundled configuration for Prometheus, Alertmanager and Grafana."""

from __future__ import annotations

from pathlib import Path

from pytest_comfyload.errors import UsageError

__all__ = ["FILES", "shipped", "write_configuration"]

_HERE = Path(__file__).parent
FILES = ("prometheus.yml", "comfyui_rules.yml", "alertmanager.yml", "grafana_dashboard.json")
# Address of the exporter in prometheus.yml.
_EXPORTER = "127.0.0.1:9188"


def shipped(name: str) -> str:
    """Return the text of one of FILES."""
    return (_HERE / name).read_text(encoding="utf-8")


def write_configuration(folder: Path, exporter: str = _EXPORTER) -> list[Path]:
    """Write the files to a folder, with `exporter` (host:port) in place of the default.

    Raises: UsageError if one of them already exists, or cannot be written.
    """
    paths = [folder / name for name in FILES]
    if there := [path.name for path in paths if path.exists()]:
        raise UsageError(f"{folder} has {', '.join(there)} already; remove them, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.write_text(shipped(path.name).replace(_EXPORTER, exporter), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from None
    return paths
