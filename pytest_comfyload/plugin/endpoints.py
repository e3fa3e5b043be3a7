"""Servers and other endpoints named by options and environment: their addresses, headers and GPU sources."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.plugin.options import ini_name, value_of
from pytest_comfyload.redaction import hide, hide_header
from pytest_comfyload.user_paths import user_path

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.gpu.spec import GpuSpec
    from pytest_comfyload.run.launching import LaunchRequest

__all__ = ["addresses", "collector_url", "gpu_specs", "launch_request", "report_url", "webhook_address"]

# On one machine.
_MOST_SERVERS = 64


def addresses(
    config: pytest.Config, environ: Mapping[str, str]
) -> tuple[tuple[ServerAddress, ...], tuple[ServerAddress, ...]]:
    """Return the servers, and the workers behind them, each with its headers. Raises: UsageError."""
    given = config.getoption("comfyui_url")
    urls = given or environ.get("COMFYUI_URL", "").replace(",", " ").split() or config.getini("comfyui_url")
    worker_urls = value_of(config, "--comfyui-worker")
    if not urls:
        _refuse_workers_alone(worker_urls)
        _refuse_headers_alone(config, environ)
        return (), ()
    # Imported here: a pytest run without a server must not pay for it.
    from pytest_comfyload.client.address import server_addresses

    files, lines = value_of(config, "--comfyui-header-file"), environ.get("COMFYUI_HEADERS", "")
    servers, workers = server_addresses(urls, worker_urls, header_files=files, header_lines=lines)
    if both := {server.url for server in servers} & {worker.url for worker in workers}:
        raise UsageError(
            f"{min(both)} is a --comfyui-url and a --comfyui-worker; no load goes to a worker: name it once"
        )
    largest = _max_response(str(value_of(config, "--comfyload-max-response")))
    return tuple(replace(each, max_response=largest) for each in servers), tuple(
        replace(each, max_response=largest) for each in workers
    )


def launch_request(config: pytest.Config, servers: Sequence[ServerAddress]) -> LaunchRequest | None:
    """Return the request to launch servers; None if there is none. Raises: UsageError."""
    directory = _path_of(config, "--comfyui-launch")
    if directory is None:
        of_launches = ("--comfyui-python", "--comfyui-args", "--comfyui-node", "--comfyui-count")
        if given := [option for option in of_launches if config.getoption(ini_name(option))]:
            raise UsageError(
                f"{given[0]} applies to launched servers: add --comfyui-launch=DIR, the ComfyUI installation"
            )
        return None
    if servers:
        raise UsageError(f"--comfyui-launch starts servers, and {servers[0].url} is named: leave one out")
    from pytest_comfyload.run.launching import LaunchRequest, split_arguments

    request = LaunchRequest(
        directory,
        _path_of(config, "--comfyui-python"),
        split_arguments(str(value_of(config, "--comfyui-args"))),
        tuple(str(_below_ini(config, "--comfyui-node", node)) for node in value_of(config, "--comfyui-node")),
        _count(str(value_of(config, "--comfyui-count"))),
    )
    request.check()
    return request


def _path_of(config: pytest.Config, option: str) -> Path | None:
    text = str(value_of(config, option))
    return _below_ini(config, option, text) if text else None


def _below_ini(config: pytest.Config, option: str, text: str) -> Path:
    """Return a path relative to where pytest was started or, if it is from an ini file, to the folder of that file."""
    configured = not config.getoption(ini_name(option)) and config.inipath is not None
    folder = config.inipath.parent if configured and config.inipath else config.invocation_params.dir
    return folder / user_path(text)


def _count(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= _MOST_SERVERS:
        raise UsageError(f"--comfyui-count {text!r}: give a whole number from 1 to {_MOST_SERVERS}")
    return int(text)


def _max_response(size: str) -> int | None:
    from pytest_comfyload.metrics.units import parse_size

    return parse_size(size, "--comfyload-max-response") if size else None


def _refuse_workers_alone(urls: Sequence[str]) -> None:
    """Refuse workers without a server: the load would go to a simulator. Raises: UsageError."""
    if urls:
        raise UsageError("--comfyui-worker is given, but no balancer: add --comfyui-url URL or set COMFYUI_URL")


def _refuse_headers_alone(config: pytest.Config, environ: Mapping[str, str]) -> None:
    """Refuse headers without a server, since credentials imply a real one; those in an ini file are ignored instead.

    Raises: UsageError.
    """
    given = {
        "--comfyui-header-file": bool(config.getoption("comfyui_header_file")),
        "COMFYUI_HEADERS": bool(environ.get("COMFYUI_HEADERS", "").strip()),
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{name} is given, but headers need a server: add --comfyui-url URL or set COMFYUI_URL")


def webhook_address(option: str, environ: Mapping[str, str]) -> ServerAddress | None:
    """Return the address that verdicts are posted to; None if there is none.

    Its path is treated as a secret, since it is one in the incoming webhooks of chat services. Raises: UsageError.
    """
    url = option or environ.get("COMFYLOAD_WEBHOOK_URL", "").strip()
    if not url:
        return None
    from pytest_comfyload.client.address import ServerAddress, parse_headers

    source = "COMFYLOAD_WEBHOOK_HEADERS"
    address = ServerAddress.parse(url, parse_headers(environ.get(source, ""), source))
    hide(urlsplit(address.url).path)
    return address


def report_url(option: str, environ: Mapping[str, str]) -> str:
    """Return the URL of the published report, without a trailing slash; empty if there is none. Raises: UsageError."""
    url = option or environ.get("COMFYLOAD_REPORT_URL", "").strip()
    if url and not _PUBLIC.fullmatch(url):
        raise UsageError(f"--comfyload-report-url {url!r} is not the address of a page; give https://HOST/PATH")
    return url.removesuffix("index.html").rstrip("/")


# Allows no character that ends a link in Markdown, and no credentials.
_PUBLIC = re.compile(r"https?://[\w.-]+(?::\d+)?(?:/[\w./~%+-]*)?", re.ASCII)


def collector_url(option: str, environ: Mapping[str, str]) -> str:
    """Return the URL of the collector for traces and metrics, without the path of a signal; empty if there is none.

    Raises: UsageError, also if the extra is not installed.
    """
    if not option:
        return ""
    from pytest_comfyload.client.address import ServerAddress, without_credentials

    address = ServerAddress.parse(option)
    if address.headers or address.query:
        raise UsageError(
            f"--comfyload-otlp {without_credentials(option)!r}: no credentials in the URL; "
            "give OTEL_EXPORTER_OTLP_HEADERS, such as `authorization=Bearer%20TOKEN`"
        )
    try:
        missing = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        raise UsageError("--comfyload-otlp needs the OpenTelemetry SDK: pip install 'pytest-comfyload[otlp]'")
    for signal in ("", "TRACES_", "METRICS_"):
        for pair in environ.get(f"OTEL_EXPORTER_OTLP_{signal}HEADERS", "").split(","):
            name, _, value = pair.partition("=")
            hide_header(name.strip(), unquote(value).strip())
    return address.url.removesuffix("/v1/traces").removesuffix("/v1/metrics")


def gpu_specs(config: pytest.Config, watched: Sequence[str]) -> Mapping[str, GpuSpec]:
    """Return the GPU sources by server URL; those in an ini file are used only if a server is named.

    Raises: UsageError.
    """
    given = config.getoption("comfyload_gpu") or (config.getini("comfyload_gpu") if watched else [])
    if not given:
        return {}
    from pytest_comfyload.gpu.spec import parse_specs

    return parse_specs(given, watched)
