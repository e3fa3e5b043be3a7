"""The plugin's options and their ini settings. Every pytest run imports this module, so it only declares them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pytest

from pytest_comfyload.history.location import STORE

__all__ = [
    "OPTIONS", "SIMULATED_GPU", "TIME_SCALE", "VARIABLES", "add_options", "are_given", "ini_name", "simulator_name",
    "value_of",
]  # fmt: skip

# Defaults of the embedded simulator.
SIMULATED_GPU, TIME_SCALE = "rtx4090", "20"
# Environment variables that are checked before a load runs.
VARIABLES = ("COMFYUI_URL", "COMFYUI_HEADERS", "COMFYLOAD_WEBHOOK_URL", "COMFYLOAD_REPORT_URL")


class PluginOption(NamedTuple):
    """A command-line option of pytest, and the ini setting of the same name, with underscores for dashes.

    `kind` is the ini type; `metavar` represents the value in `pytest --help`: the legal values, if there are few.
    """

    name: str
    kind: Literal["string", "linelist", "bool"]
    default: Any
    metavar: str | None
    help: str


def _flag(name: str, text: str) -> PluginOption:
    return PluginOption(name, "bool", False, None, text)


def _text(name: str, metavar: str, text: str, default: str = "") -> PluginOption:
    return PluginOption(name, "string", default, metavar, text)


def _list(name: str, metavar: str, text: str) -> PluginOption:
    return PluginOption(name, "linelist", [], metavar, f"{text}; repeatable")


OPTIONS: tuple[PluginOption, ...] = (
    _list("--comfyui-url", "URL", "ComfyUI server to load, http://host:port (env: COMFYUI_URL)"),
    _list(
        "--comfyui-worker",
        "URL",
        "ComfyUI server behind the load balancer that --comfyui-url names, http://host:port: it is warmed up directly, "
        "watched, and asked which prompts it ran, while the load goes through the balancer",
    ),
    _list(
        "--comfyui-header-file",
        "[URL=]FILE",
        "file of `Name: value` lines sent to every server, or to the server URL only (env: COMFYUI_HEADERS, the lines)",
    ),
    _list(
        "--comfyui-input",
        "NODE.INPUT=VALUE",
        "set this input, named by node id, title or class, in every scenario that has it",
    ),
    _text(
        "--comfyui-launch",
        "DIR",
        "start ComfyUI servers from this installation, one on each GPU, for the time of the session; nothing is "
        "written into it",
    ),
    _text(
        "--comfyui-python",
        "FILE",
        "Python that runs launched servers (default: that of the installation's virtual environment)",
    ),
    _text("--comfyui-args", "ARGUMENTS", "arguments of launched servers, as in a shell: --comfyui-args='--cpu --fast'"),
    _list(
        "--comfyui-node",
        "PATH[@REF]",
        "custom node for launched servers, as it is in this folder or at this commit of its repository; it replaces "
        "the installation's",
    ),
    _text("--comfyui-count", "N", "number of servers to launch (default: one on each GPU, without GPUs one)"),
    _flag("--comfyload-require-server", "fail instead of running on a simulated server"),
    _flag("--comfyload-allow-busy", "allow stress, spike and breakpoint loads on servers that are in use"),
    _flag(
        "--comfyload-delete-leftovers",
        "before a load, delete the prompts of killed load runs from the servers' queues; not for servers that another "
        "machine loads at the same time",
    ),
    _text(
        "--comfyload-max-response",
        "SIZE",
        "largest response accepted from a server, after decompression, such as 2GiB (default: 256MiB for one output, "
        "32MiB for any other response)",
    ),
    _list(
        "--comfyload-tx",
        "SPEC",
        "send loads from processes of their own, named as execnet specs: 4*popen, ssh=user@host//python=python3 "
        "(pip install 'pytest-comfyload[distributed]')",
    ),
    _list(
        "--comfyload-gpu",
        "URL=SOURCE",
        "source of the GPU figures of a server: metrics:http://host:9400/metrics (DCGM exporter), nvml:GPU-<uuid>, "
        "system_stats or none (default: the best source that answers)",
    ),
    _text(
        "--comfyload-verdict",
        "{point,confident}",
        "point: the measured value decides, and the summary says where the samples are too few to be certain; "
        "confident: the 90 % interval must meet the bound too",
        "point",
    ),
    _text(
        "--comfyload-store",
        "PLACE",
        "where runs are stored: a folder (relative to the top of the tests' repository; in an ini file, to that file), "
        "a URL that fsspec reads, or none",
        STORE,
    ),
    _text("--comfyload-label", "NAME", "label for this session's runs, by which `comfyload` commands find them"),
    _text(
        "--comfyload-keep-pictures",
        "{sample,none}",
        "sample: store up to six thumbnails with each run, of the slowest prompts, a typical one and blank ones",
        "sample",
    ),
    _text(
        "--comfyload-baseline",
        "REF",
        "compare with the runs at or before this commit, branch, tag, label, date (2026-01-31), run id, latest or "
        "latest~3 (default: the commit where the branch left its base branch; on the base branch, the commit before)",
    ),
    _text(
        "--comfyload-baseline-runs",
        "N",
        "run each load N times and store all runs, as a baseline for the next commit; `comfyload baseline` makes a "
        "better one, since sessions differ by more than the runs of one session",
        "1",
    ),
    _flag(
        "--comfyload-fail-on-regression",
        "fail tests whose load became slower than in earlier runs, or that have too few earlier runs for a verdict",
    ),
    _flag(
        "--comfyload-allow-no-baseline",
        "with --comfyload-fail-on-regression: pass tests that have too few earlier runs, such as new ones",
    ),
    _flag(
        "--comfyload-require-baseline",
        "fail tests that use load.baseline or load.regressions() and have too few earlier runs for a verdict",
    ),
    _text(
        "--comfyload-recheck",
        "REF",
        "judge these stored runs again instead of running loads: a run id, commit, branch, label, @DATE, latest or "
        "latest~3; no server is contacted and nothing is stored",
    ),
    _text("--comfyload-html", "FILE", "write a self-contained HTML report of all stored runs at the end"),
    _text(
        "--comfyload-report-url",
        "URL",
        "address where the HTML report is published, such as https://team.github.io/project: the summary for CI links "
        "to it and to the commit's page (env: COMFYLOAD_REPORT_URL)",
    ),
    _text("--comfyload-markdown", "FILE", "write the summary as Markdown that fits into a comment on GitHub"),
    _text(
        "--comfyload-annotations",
        "{on,off,auto}",
        "annotate the source line of every violated SLO on GitHub; auto: if GITHUB_ACTIONS=true",
        "auto",
    ),
    _text(
        "--comfyload-benchmark-mirror",
        "{on,off,auto}",
        "pass load results to pytest-benchmark; auto: if it is installed and saves or compares",
        "auto",
    ),
    _text(
        "--comfyload-prometheus",
        "PORT",
        "while loads run, serve /metrics on the loopback interface: of the servers, as `comfyload monitor` does, and "
        "of the prompts sent; 0: any free port (pip install 'pytest-comfyload[monitor]')",
    ),
    _text(
        "--comfyload-otlp",
        "URL",
        "at the end of the session, export prompts as traces and figures as metrics to this OpenTelemetry collector, "
        "http://host:4318 (pip install 'pytest-comfyload[otlp]'; env: OTEL_EXPORTER_OTLP_HEADERS and the other "
        "variables of OTLP exporters)",
    ),
    _text(
        "--comfyload-webhook",
        "URL",
        "at the end of the session, POST its verdicts there as JSON "
        "(env: COMFYLOAD_WEBHOOK_URL; COMFYLOAD_WEBHOOK_HEADERS, `Name: value` lines)",
    ),
    _text(
        "--comfyload-simulated-gpu",
        "{rtx3060,rtx3090,rtx4090,a100,h100}",
        "GPU model of the embedded simulator",
        SIMULATED_GPU,
    ),
    _text(
        "--comfyload-time-scale",
        "FACTOR",
        "virtual seconds per second of the embedded simulator, above 0 and at most 1000",
        TIME_SCALE,
    ),
    _text(
        "--comfyload-object-info",
        "FILE",
        "node classes for the embedded simulator, as `comfyload record-nodes URL` prints a server's; without it, "
        "unknown classes are inferred from the workflows",
    ),
    _list(
        "--comfyload-node-time",
        "CLASS=SECONDS",
        "time that nodes of this class take on the embedded simulator, with models loaded",
    ),
    _text(
        "--comfyload-calibrate",
        "RUN",
        "take the embedded simulator's times of prompts and nodes from this stored run (run id, label, commit, "
        "latest~3 …)",
    ),
)


def simulator_name(gpu: str, time_scale: float) -> str:
    return f"embedded simulator ({gpu} at ×{time_scale:g})"


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("comfyload", "load tests for ComfyUI")
    for name, kind, default, metavar, text in OPTIONS:
        action = {"linelist": "append", "bool": "store_true", "string": "store"}[kind]
        if kind == "string" and default:
            text = f"{text} (default: {default})"
        shown = {} if metavar is None else {"metavar": metavar}
        # argparse formats help texts with %.
        group.addoption(name, action=action, default=None, help=text.replace("%", "%%"), **shown)
        parser.addini(ini_name(name), text, type=kind, default=default)


def ini_name(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def value_of(config: pytest.Config, option: str) -> Any:
    """Return the value of the command line, else that of the ini file, else the default."""
    given = config.getoption(ini_name(option))
    return config.getini(ini_name(option)) if given is None else given


def are_given(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether any option is set, also in the ini file or the environment, and has to be checked before tests."""
    if any(environ.get(variable) for variable in VARIABLES):
        return True
    return any(
        config.getoption(name := ini_name(option)) is not None or config.getini(name) != default
        for option, _, default, *_ in OPTIONS
    )
