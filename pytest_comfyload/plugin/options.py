"""The plugin's options, each with its ini twin; together they become one frozen PluginSettings, or a UsageError."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.plugin.benchmark import MODES
from pytest_comfyload.plugin.project import refuse_lost_configuration
from pytest_comfyload.user_paths import user_path

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.gpu.spec import GpuSpec

__all__ = ["PluginSettings", "add_options", "read_settings"]


VerdictMode = Literal["point", "confident"]


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """No servers: the embedded simulator. `workers` stand behind them. `overrides` are inputs by address, as text.

    `store`: a URL, a path, or a path from the top of a test's project; None to keep no runs. `label` names this
    session's runs. `gpus` says by URL where a server's GPUs are read. `markdown`, `html`: files, or None. `baseline`:
    the REF to compare with; empty: where the branch leaves its base. `recheck`: the REF of the runs that tests judge
    again; empty: loads are run. Of the embedded simulator: `object_info` is a file with node classes, `node_times` are
    seconds by class, `calibrate` names the run that has others.
    """

    servers: tuple[ServerAddress, ...]
    workers: tuple[ServerAddress, ...]
    overrides: Mapping[str, str]
    require_server: bool
    simulated_gpu: str
    time_scale: float
    allow_busy: bool
    delete_leftovers: bool
    verdict: VerdictMode
    store: str | None
    label: str
    gpus: Mapping[str, GpuSpec]
    benchmark_mirror: str = "auto"
    markdown: Path | None = None
    annotations: str = "auto"
    baseline: str = ""
    require_baseline: bool = False
    allow_no_baseline: bool = False
    baseline_runs: int = 1
    fail_on_regression: bool = False
    keep_pictures: bool = True
    html: Path | None = None
    recheck: str = ""
    object_info: str = ""
    node_times: Mapping[str, float] = field(default_factory=dict)
    calibrate: str = ""

    def store_of(self, project: Path) -> str | None:
        """Return where the runs of a project's tests are kept; None: nowhere."""
        if self.store is None or "://" in self.store:
            return self.store
        return str(project / self.store)


_STORE = ".comfyload"
# Of each load in one session; a baseline is made of 20 sessions at most.
MOST_RUNS = 20
# Option, ini type, default, help. The ini twin has underscores for dashes.
_OPTIONS: tuple[tuple[str, str, Any, str], ...] = (
    ("--comfyui-url", "linelist", [], "a ComfyUI server, http://host:port; repeat for several (env: COMFYUI_URL)"),
    (
        "--comfyui-worker",
        "linelist",
        [],
        "a ComfyUI server behind the balancer that --comfyui-url names, http://host:port; repeat for several; "
        "warmed up directly, watched, and asked which prompts it ran; the load itself goes through the balancer",
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
        _STORE,
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
    ("--comfyload-simulated-gpu", "string", "rtx4090", "the embedded simulator's GPU model"),
    ("--comfyload-time-scale", "string", "20", "virtual seconds per second of the embedded simulator"),
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
        "RUN: the embedded simulator takes the median time of each node class from this stored run "
        "(run id, label, commit, latest~3 ...)",
    ),
)


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("comfyload", "load tests for ComfyUI")
    for option, kind, default, text in _OPTIONS:
        action = {"linelist": "append", "bool": "store_true", "string": "store"}[kind]
        if kind == "string" and default:
            text = f"{text} (default: {default})"
        # argparse formats a help text with %.
        group.addoption(option, action=action, default=None, help=text.replace("%", "%%"))
        parser.addini(_ini(option), text, type=kind, default=default)  # type: ignore[arg-type]


def read_settings(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> PluginSettings:
    """The command line beats the environment, the environment the ini file. Raises: UsageError."""
    if not hasattr(config, "workerinput"):
        refuse_lost_configuration(config, [option for option, *_ in _OPTIONS])
    _refuse_contradictions(config)
    servers, workers = _addresses(config, environ)
    return PluginSettings(
        servers=servers,
        workers=workers,
        overrides=_overrides(_value(config, "--comfyui-input")),
        require_server=bool(_value(config, "--comfyload-require-server")),
        simulated_gpu=_gpu(str(_value(config, "--comfyload-simulated-gpu"))),
        time_scale=_scale(_value(config, "--comfyload-time-scale")),
        **_simulation(config, servers),
        allow_busy=bool(_value(config, "--comfyload-allow-busy")),
        delete_leftovers=bool(_value(config, "--comfyload-delete-leftovers")),
        gpus=_gpus(config, [server.url for server in workers or servers]),
        benchmark_mirror=_mode(config, "--comfyload-benchmark-mirror", MODES),
        store=_store(config),
        label=str(_value(config, "--comfyload-label")),
        verdict=_verdict(_value(config, "--comfyload-verdict")),
        markdown=_markdown(str(_value(config, "--comfyload-markdown")), config.invocation_params.dir),
        baseline=str(_value(config, "--comfyload-baseline")),
        require_baseline=bool(_value(config, "--comfyload-require-baseline")),
        allow_no_baseline=bool(_value(config, "--comfyload-allow-no-baseline")),
        baseline_runs=_count(config, "--comfyload-baseline-runs"),
        fail_on_regression=bool(_value(config, "--comfyload-fail-on-regression")),
        annotations=_mode(config, "--comfyload-annotations", MODES),
        keep_pictures=_mode(config, "--comfyload-keep-pictures", ("sample", "none")) == "sample",
        html=_html(config),
        recheck=_recheck(config),
    )


def _mode(config: pytest.Config, option: str, modes: Sequence[str]) -> str:
    mode = str(_value(config, option))
    if mode not in modes:
        raise UsageError(f"{option} {mode!r}: legal are {', '.join(modes)}")
    return mode


def _refuse_contradictions(config: pytest.Config) -> None:
    """Options on earlier runs that exclude each other. Raises: UsageError."""
    allowed = bool(_value(config, "--comfyload-allow-no-baseline"))
    if allowed and _value(config, "--comfyload-require-baseline"):
        raise UsageError(
            "--comfyload-require-baseline and --comfyload-allow-no-baseline contradict each other: give one"
        )
    if str(_value(config, "--comfyload-store")) == "none":
        comparing = ("--comfyload-fail-on-regression", "--comfyload-require-baseline")
        needed = [option for option in comparing if not allowed and _value(config, option)]
        needed += ["--comfyload-baseline-runs"] if _count(config, "--comfyload-baseline-runs") > 1 else []
        if needed:
            raise UsageError(f"{needed[0]} is about runs that are kept, and --comfyload-store=none keeps none")


def _count(config: pytest.Config, option: str) -> int:
    text = str(_value(config, option))
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= MOST_RUNS:
        raise UsageError(f"{option} {text!r}: give a whole number from 1 to {MOST_RUNS}")
    return int(text)


def _ini(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _value(config: pytest.Config, option: str) -> Any:
    given = config.getoption(_ini(option))
    return config.getini(_ini(option)) if given is None else given


def _addresses(
    config: pytest.Config, environ: Mapping[str, str]
) -> tuple[tuple[ServerAddress, ...], tuple[ServerAddress, ...]]:
    """The servers, and the workers behind them; each with its headers."""
    given = config.getoption("comfyui_url")
    urls = given or environ.get("COMFYUI_URL", "").replace(",", " ").split() or config.getini("comfyui_url")
    worker_urls = _value(config, "--comfyui-worker")
    if not urls:
        _refuse_workers_alone(worker_urls)
        _refuse_headers_alone(config, environ)
        return (), ()
    # Here and not above: a pytest run without a server must not pay for this import.
    from pytest_comfyload.client.address import ServerAddress

    servers, workers = (
        {address.url: address for address in map(ServerAddress.parse, each)} for each in (urls, worker_urls)
    )
    if both := [url for url in workers if url in servers]:
        raise UsageError(f"{both[0]} is a --comfyui-url and a --comfyui-worker; no load goes to a worker: name it once")
    headers = _headers(config, environ, [*servers, *workers])
    largest = _max_response(str(_value(config, "--comfyload-max-response")))

    def with_headers(addresses: Mapping[str, ServerAddress]) -> tuple[ServerAddress, ...]:
        return tuple(
            replace(address, headers={**address.headers, **headers[None], **headers.get(url, {})}, max_response=largest)
            for url, address in addresses.items()
        )

    return with_headers(servers), with_headers(workers)


def _max_response(size: str) -> int | None:
    from pytest_comfyload.metrics.units import parse_size

    return parse_size(size, "--comfyload-max-response") if size else None


def _headers(
    config: pytest.Config, environ: Mapping[str, str], urls: Sequence[str]
) -> Mapping[str | None, dict[str, str]]:
    """By URL; None: for all."""
    from pytest_comfyload.client.address import parse_headers, read_header_file

    by_url: dict[str | None, dict[str, str]] = {
        None: parse_headers(environ.get("COMFYUI_HEADERS", ""), "COMFYUI_HEADERS")
    }
    for argument in _value(config, "--comfyui-header-file"):
        url, headers = read_header_file(argument)
        by_url[url] = {**by_url.get(url, {}), **headers}
    if unknown := [url for url in by_url if url is not None and url not in urls]:
        known = ", ".join(urls)
        raise UsageError(
            f"--comfyui-header-file names {unknown[0]}, which is no --comfyui-url or --comfyui-worker; {known}"
        )
    return by_url


def _refuse_workers_alone(urls: Sequence[str]) -> None:
    """The load would go to a simulator, although real workers are named."""
    if urls:
        raise UsageError("--comfyui-worker is given, but no balancer: add --comfyui-url URL or set COMFYUI_URL")


def _refuse_headers_alone(config: pytest.Config, environ: Mapping[str, str]) -> None:
    """Credentials mean a real server; in an ini file they may wait for the run that names one."""
    given = {
        "--comfyui-header-file": bool(config.getoption("comfyui_header_file")),
        "COMFYUI_HEADERS": bool(environ.get("COMFYUI_HEADERS", "").strip()),
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{name} is given, but headers need a server: add --comfyui-url URL or set COMFYUI_URL")


def _overrides(arguments: list[str]) -> dict[str, str]:
    if not arguments:
        return {}
    from pytest_comfyload.workflow.inputs import parse_override

    overrides = [parse_override(argument) for argument in arguments]
    return {override.address: override.text for override in overrides}


def _store(config: pytest.Config) -> str | None:
    where = str(_value(config, "--comfyload-store"))
    if where == "none":
        return None
    if not where:
        raise UsageError("--comfyload-store is empty; give a folder, a URL, or `none`")
    if "://" in where:
        return where
    path = user_path(where)
    configured = config.getoption("comfyload_store") is None and where != _STORE
    return str(config.inipath.parent / path if configured and config.inipath is not None else path)


def _markdown(file: str, folder: Path) -> Path | None:
    """Relative to where pytest was started, as --junitxml is."""
    return folder / user_path(file) if file else None


def _verdict(text: object) -> VerdictMode:
    from pytest_comfyload.errors import nearest

    match text:
        case "point" | "confident":
            return text
    raise UsageError(f"--comfyload-verdict={text} is unknown; legal: {nearest(str(text), get_args(VerdictMode))}")


def _gpus(config: pytest.Config, watched: Sequence[str]) -> Mapping[str, GpuSpec]:
    """In an ini file they may wait for the run that names a server."""
    given = config.getoption("comfyload_gpu") or (config.getini("comfyload_gpu") if watched else [])
    if not given:
        return {}
    from pytest_comfyload.gpu.spec import parse_specs

    return parse_specs(given, watched)


def _html(config: pytest.Config) -> Path | None:
    """Relative to where pytest was started, as --junitxml is."""
    file = str(_value(config, "--comfyload-html"))
    if not file:
        return None
    if str(_value(config, "--comfyload-store")) == "none":
        raise UsageError("--comfyload-html shows the runs that are kept, and --comfyload-store=none keeps none")
    from pytest_comfyload.report.html.page import require_libraries

    require_libraries()
    return config.invocation_params.dir / user_path(file)


def _recheck(config: pytest.Config) -> str:
    ref = str(_value(config, "--comfyload-recheck"))
    if ref and str(_value(config, "--comfyload-store")) == "none":
        raise UsageError("--comfyload-recheck reads the store, and --comfyload-store=none has no runs")
    return ref


def _simulation(config: pytest.Config, servers: Sequence[ServerAddress]) -> dict[str, Any]:
    """What the embedded simulator is told of node classes. In an ini file it may wait for the run without a server."""
    options = ("--comfyload-object-info", "--comfyload-node-time", "--comfyload-calibrate")
    given = [option for option in options if config.getoption(_ini(option))]
    if servers:
        if given:
            raise UsageError(f"{given[0]} is for the embedded simulator, and servers are named: leave one out")
        return {}
    if not any(_value(config, option) for option in options):
        return {}
    from pytest_comfyload.simulator.settings import parse_node_time, read_object_info

    file = str(_value(config, "--comfyload-object-info"))
    folder = config.invocation_params.dir if config.getoption("comfyload_object_info") else config.rootpath
    path = str(folder / user_path(file)) if file else ""
    read_object_info(path)
    return {
        "object_info": path,
        "node_times": dict(map(parse_node_time, _value(config, "--comfyload-node-time"))),
        "calibrate": str(_value(config, "--comfyload-calibrate")),
    }


def _gpu(name: str) -> str:
    from pytest_comfyload.simulator.settings import SimulatorSettings

    return SimulatorSettings(gpu=name).gpu


def _scale(text: object) -> float:
    try:
        scale = float(str(text))
    except ValueError:
        scale = 0.0
    if not 0 < scale <= 1000:
        raise UsageError(f"--comfyload-time-scale={text} is not a number above 0 and at most 1000")
    return scale
