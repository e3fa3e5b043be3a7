"""The plugin's options, each with its ini twin. Every pytest run loads this module: it declares, and checks nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_comfyload.history.location import STORE

__all__ = [
    "OPTIONS", "SIMULATED_GPU", "TIME_SCALE", "VARIABLES", "add_options", "are_given", "ini_name", "simulator_name",
    "value_of",
]  # fmt: skip

# Of the embedded simulator.
SIMULATED_GPU, TIME_SCALE = "rtx4090", "20"
# Of the environment, those that can be wrong before a load runs.
VARIABLES = ("COMFYUI_URL", "COMFYUI_HEADERS", "COMFYLOAD_WEBHOOK_URL", "COMFYLOAD_REPORT_URL")
# Option, ini type, default, help. The ini twin has underscores for dashes.
OPTIONS: tuple[tuple[str, str, Any, str], ...] = (
    ("--comfyui-url", "linelist", [], "a ComfyUI server, http://host:port; repeat for several (env: COMFYUI_URL)"),
    (
        "--comfyui-worker",
        "linelist",
        [],
        "a ComfyUI server behind the balancer that --comfyui-url names, http://host:port; repeat for several; "
        "warmed up directly, watched, and asked which prompts it ran; the load itself goes through the balancer",
    ),
    (
        "--comfyui-launch",
        "string",
        "",
        "DIR: start ComfyUI servers from this installation, one on each GPU, without writing into it; they end with "
        "the session",
    ),
    (
        "--comfyui-python",
        "string",
        "",
        "FILE: the Python that runs launched servers; default: that of the installation's virtual environment",
    ),
    ("--comfyui-args", "string", "", "ARGUMENTS of launched servers, as in a shell: --comfyui-args='--cpu --fast'"),
    (
        "--comfyui-node",
        "linelist",
        [],
        "PATH[@REF]: a custom node of launched servers, as it is in this folder or at this commit of its repository, "
        "in the place of the installation's; repeat for several",
    ),
    (
        "--comfyui-count",
        "string",
        "",
        "N: how many servers are launched; default: one on each GPU, without GPUs one",
    ),
    (
        "--comfyui-header-file",
        "linelist",
        [],
        "FILE with `Name: value` lines sent to every server, or URL=FILE for one (env: COMFYUI_HEADERS, the lines)",
    ),
    (
        "--comfyui-input",
        "linelist",
        [],
        "NODE.INPUT=VALUE, by node id, title or class: sets an input in every scenario that has it; repeat for several",
    ),
    (
        "--comfyload-max-response",
        "string",
        "",
        "SIZE: the largest response accepted from a server, after decompression, such as 2GiB; "
        "default: 256MiB for one output, 32MiB for any other",
    ),
    (
        "--comfyload-tx",
        "linelist",
        [],
        "SPEC: send loads from processes of their own, by execnet's specs: 4*popen, ssh=user@host//python=python3; "
        "repeat for several (pip install 'pytest-comfyload[distributed]')",
    ),
    ("--comfyload-require-server", "bool", False, "fail instead of running on a simulated server"),
    ("--comfyload-allow-busy", "bool", False, "let stress, spike and breakpoint loads go to servers that are in use"),
    (
        "--comfyload-delete-leftovers",
        "bool",
        False,
        "before a load, take prompts of earlier load runs that were killed out of the servers' queues; "
        "not while another machine loads the same servers",
    ),
    (
        "--comfyload-gpu",
        "linelist",
        [],
        "URL=SOURCE: where the GPUs of a server are read: metrics:http://host:9400/metrics (DCGM exporter), "
        "nvml:GPU-<uuid>, system_stats or none; repeat for several; without it the best that answers is taken",
    ),
    (
        "--comfyload-benchmark-mirror",
        "string",
        "auto",
        "whether pytest-benchmark, if installed, gets the load results too, to save and to compare: "
        "on, off, or auto: where it saves or compares",
    ),
    (
        "--comfyload-store",
        "string",
        STORE,
        "where runs are kept: a folder (relative to the top of the tests' repository, in an ini file to that file), "
        "a URL that fsspec reads, or `none`",
    ),
    (
        "--comfyload-baseline",
        "string",
        "",
        "REF: compare with the runs at or before this commit, branch, tag, label, date (2026-01-31), run id, latest or "
        "latest~3; default: where the branch leaves its base branch, on that branch the commit before",
    ),
    (
        "--comfyload-baseline-runs",
        "string",
        "1",
        "N: run each load N times and keep all runs, so that the next commit has a baseline; sessions differ by more "
        "than runs of one session, so that `comfyload baseline` makes a better one",
    ),
    (
        "--comfyload-require-baseline",
        "bool",
        False,
        "a test that compares with earlier runs itself fails, too, where there are too few to tell",
    ),
    (
        "--comfyload-fail-on-regression",
        "bool",
        False,
        "a test fails whose load got slower than in the runs before, or for which there are too few of them to tell",
    ),
    (
        "--comfyload-allow-no-baseline",
        "bool",
        False,
        "with --comfyload-fail-on-regression: a test passes for which there are too few earlier runs to tell, such as "
        "one that is new",
    ),
    (
        "--comfyload-keep-pictures",
        "string",
        "sample",
        "sample: each run is kept with up to six thumbnails, of the slowest prompts, a typical one and blank ones; "
        "none: without",
    ),
    ("--comfyload-label", "string", "", "a name for this session's runs, by which other commands find them"),
    (
        "--comfyload-verdict",
        "string",
        "point",
        "point: a value that meets its bound passes, and the summary says whether so few samples can tell; "
        "confident: it passes only if its 90 % interval meets the bound too",
    ),
    (
        "--comfyload-markdown",
        "string",
        "",
        "write the summary to this file, as Markdown that fits into a comment on GitHub",
    ),
    (
        "--comfyload-report-url",
        "string",
        "",
        "URL where the HTML report is published, such as https://team.github.io/project: the summary for CI links to "
        "it, and to the commit's own page (env: COMFYLOAD_REPORT_URL)",
    ),
    (
        "--comfyload-prometheus",
        "string",
        "",
        "PORT: while loads run, serve /metrics on the loopback interface, of their servers as `comfyload monitor` does "
        "and of the prompts sent (pip install 'pytest-comfyload[monitor]'); 0 for any free port",
    ),
    (
        "--comfyload-otlp",
        "string",
        "",
        "URL: at the end of the session, export its prompts as traces and its figures as metrics to this OpenTelemetry "
        "collector, http://host:4318 (pip install 'pytest-comfyload[otlp]'; env: OTEL_EXPORTER_OTLP_HEADERS and the "
        "other variables of OTLP exporters)",
    ),
    (
        "--comfyload-webhook",
        "string",
        "",
        "URL: at the end of the session, POST its verdicts there as JSON "
        "(env: COMFYLOAD_WEBHOOK_URL; COMFYLOAD_WEBHOOK_HEADERS, `Name: value` lines)",
    ),
    (
        "--comfyload-annotations",
        "string",
        "auto",
        "annotate the source line of every violated SLO on GitHub: on, off, or auto: where GITHUB_ACTIONS=true",
    ),
    (
        "--comfyload-html",
        "string",
        "",
        "FILE for an HTML report of all runs that are kept, written at the end; it needs nothing beside it",
    ),
    (
        "--comfyload-recheck",
        "string",
        "",
        "REF: judge these stored runs again instead of running loads: a run id, commit, branch, label, @DATE, latest "
        "or latest~3; no server is contacted and nothing is stored",
    ),
    ("--comfyload-simulated-gpu", "string", SIMULATED_GPU, "the embedded simulator's GPU model"),
    ("--comfyload-time-scale", "string", TIME_SCALE, "virtual seconds per second of the embedded simulator"),
    (
        "--comfyload-object-info",
        "string",
        "",
        "FILE with node classes for the embedded simulator, as `comfyload record-nodes URL` prints a server's; "
        "without it, those that the simulator does not know are inferred from the workflows",
    ),
    (
        "--comfyload-node-time",
        "linelist",
        [],
        "CLASS=SECONDS: how long the nodes of a class take on the embedded simulator, models loaded; "
        "repeat for several",
    ),
    (
        "--comfyload-calibrate",
        "string",
        "",
        "RUN: the embedded simulator takes the times of prompts and nodes from this stored run "
        "(run id, label, commit, latest~3 ...)",
    ),
)


def simulator_name(gpu: str, time_scale: float) -> str:
    return f"embedded simulator ({gpu} at ×{time_scale:g})"


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("comfyload", "load tests for ComfyUI")
    for option, kind, default, text in OPTIONS:
        action = {"linelist": "append", "bool": "store_true", "string": "store"}[kind]
        if kind == "string" and default:
            text = f"{text} (default: {default})"
        # argparse formats a help text with %.
        group.addoption(option, action=action, default=None, help=text.replace("%", "%%"))
        parser.addini(ini_name(option), text, type=kind, default=default)  # type: ignore[arg-type]


def ini_name(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def value_of(config: pytest.Config, option: str) -> Any:
    """Return the value of the command line, else that of the ini file, else the default."""
    given = config.getoption(ini_name(option))
    return config.getini(ini_name(option)) if given is None else given


def are_given(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether any option is given, also in the ini file: there is something to check before tests run."""
    if any(environ.get(variable) for variable in VARIABLES):
        return True
    return any(
        config.getoption(name := ini_name(option)) is not None or config.getini(name) != default
        for option, _, default, _ in OPTIONS
    )
