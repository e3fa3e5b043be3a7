"""Validated options: one frozen PluginSettings, or a UsageError before any test runs."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.history.location import STORE, home_of
from pytest_comfyload.plugin.benchmark import MODES
from pytest_comfyload.plugin.endpoints import (
    addresses,
    collector_url,
    gpu_specs,
    launch_request,
    report_url,
    webhook_address,
)
from pytest_comfyload.plugin.options import OPTIONS, SIMULATED_GPU, ini_name, simulator_name, value_of
from pytest_comfyload.plugin.project import refuse_lost_configuration
from pytest_comfyload.user_paths import user_path

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.gpu.spec import GpuSpec
    from pytest_comfyload.run.launching import LaunchRequest

__all__ = ["PluginSettings", "read_settings"]

# Of each load in one session; a baseline consists of 20 sessions at most.
MOST_RUNS = 20
VerdictMode = Literal["point", "confident"]


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Settings of a session.

    Args:
        servers: Servers to load; empty: `launch`, or else the embedded simulator.
        workers: Servers behind those, if they are load balancers.
        overrides: Inputs by address, as text.
        store: A URL, a path, or a path relative to the root of a test's project; None: runs are not stored.
        label: The label of this session's runs.
        gpus: Sources of GPU figures, by the URL of the server.
        markdown: The file for the summary as Markdown, or None.
        report_url: Where the report is published.
        webhook: Where verdicts are posted.
        otlp: The URL of a collector for traces and metrics.
        baseline: The REF to compare with; empty: the commit where the branch left its base branch.
        html: The file for the report, or None.
        recheck: The REF of the runs that tests judge again; empty: loads are run.
        object_info: A file with node classes for the embedded simulator.
        node_times: Seconds by node class, for the embedded simulator.
        calibrate: The run from which the embedded simulator takes its other times.
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
    report_url: str = ""
    annotations: str = "auto"
    webhook: ServerAddress | None = None
    otlp: str = ""
    prometheus: int | None = None
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
    generators: tuple[str, ...] = ()
    launch: LaunchRequest | None = None

    def store_of(self, project: Path) -> str | None:
        """Return where the runs of a project's tests are stored; None if they are not."""
        if self.store is None or "://" in self.store:
            return self.store
        return str((home_of(project) if self.store == STORE else project) / self.store)

    @property
    def target(self) -> str:
        """Target of the loads, as shown in pytest's header."""
        if self.recheck:
            return f"stored runs are judged again ({self.recheck}); no server is contacted"
        if self.servers:
            workers = f" (workers: {', '.join(worker.url for worker in self.workers)})" if self.workers else ""
            return ", ".join(server.url for server in self.servers) + workers
        if self.launch is not None:
            return f"launched from {self.launch.directory}"
        if self.require_server:
            return "no server named; simulation refused"
        return simulator_name(self.simulated_gpu, self.time_scale)


def read_settings(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> PluginSettings:
    """Read and check all options: the command line overrides the environment, which overrides the ini file.

    Raises: UsageError.
    """
    if not hasattr(config, "workerinput"):
        refuse_lost_configuration(config, [option for option, *_ in OPTIONS])
    _refuse_contradictions(config)
    servers, workers = addresses(config, environ)
    launch = launch_request(config, servers)
    return PluginSettings(
        servers=servers,
        workers=workers,
        overrides=_overrides(value_of(config, "--comfyui-input")),
        require_server=bool(value_of(config, "--comfyload-require-server")),
        simulated_gpu=_gpu(str(value_of(config, "--comfyload-simulated-gpu"))),
        time_scale=_scale(value_of(config, "--comfyload-time-scale")),
        launch=launch,
        **_simulation(config, real=bool(servers or launch)),
        allow_busy=bool(value_of(config, "--comfyload-allow-busy")),
        delete_leftovers=bool(value_of(config, "--comfyload-delete-leftovers")),
        gpus=gpu_specs(config, [server.url for server in workers or servers]),
        benchmark_mirror=_mode(config, "--comfyload-benchmark-mirror", MODES),
        store=_store(config),
        label=str(value_of(config, "--comfyload-label")),
        verdict=_verdict(value_of(config, "--comfyload-verdict")),
        markdown=_markdown(str(value_of(config, "--comfyload-markdown")), config.invocation_params.dir),
        baseline=str(value_of(config, "--comfyload-baseline")),
        require_baseline=bool(value_of(config, "--comfyload-require-baseline")),
        allow_no_baseline=bool(value_of(config, "--comfyload-allow-no-baseline")),
        baseline_runs=_count(config, "--comfyload-baseline-runs"),
        fail_on_regression=bool(value_of(config, "--comfyload-fail-on-regression")),
        report_url=report_url(str(value_of(config, "--comfyload-report-url")), environ),
        annotations=_mode(config, "--comfyload-annotations", MODES),
        prometheus=_port(config),
        webhook=webhook_address(str(value_of(config, "--comfyload-webhook")), environ),
        otlp=collector_url(str(value_of(config, "--comfyload-otlp")), environ),
        keep_pictures=_mode(config, "--comfyload-keep-pictures", ("sample", "none")) == "sample",
        html=_html(config),
        recheck=_recheck(config),
        generators=_generators(value_of(config, "--comfyload-tx")),
    )


def _port(config: pytest.Config) -> int | None:
    """Return the port of --comfyload-prometheus; None if it is not set. Raises: UsageError."""
    text = str(value_of(config, "--comfyload-prometheus"))
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise UsageError(f"--comfyload-prometheus {text!r}: give a port, 0 to 65535")
    if importlib.util.find_spec("prometheus_client") is None:
        raise UsageError("--comfyload-prometheus needs prometheus-client: pip install 'pytest-comfyload[monitor]'")
    return int(text)


def _mode(config: pytest.Config, option: str, modes: Sequence[str]) -> str:
    mode = str(value_of(config, option))
    if mode not in modes:
        raise UsageError(f"{option} {mode!r}: legal: {', '.join(modes)}")
    return mode


def _refuse_contradictions(config: pytest.Config) -> None:
    """Refuse options on earlier runs that exclude each other. Raises: UsageError."""
    allowed = bool(value_of(config, "--comfyload-allow-no-baseline"))
    if allowed and value_of(config, "--comfyload-require-baseline"):
        raise UsageError(
            "--comfyload-require-baseline and --comfyload-allow-no-baseline contradict each other: give one"
        )
    if str(value_of(config, "--comfyload-store")) == "none":
        comparing = ("--comfyload-fail-on-regression", "--comfyload-require-baseline")
        needed = [option for option in comparing if not allowed and value_of(config, option)]
        needed += ["--comfyload-baseline-runs"] if _count(config, "--comfyload-baseline-runs") > 1 else []
        if needed:
            raise UsageError(f"{needed[0]} is about runs that are kept, and --comfyload-store=none keeps none")


def _count(config: pytest.Config, option: str) -> int:
    text = str(value_of(config, option))
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= MOST_RUNS:
        raise UsageError(f"{option} {text!r}: give a whole number from 1 to {MOST_RUNS}")
    return int(text)


def _overrides(arguments: list[str]) -> dict[str, str]:
    if not arguments:
        return {}
    from pytest_comfyload.workflow.inputs import parse_override

    overrides = [parse_override(argument) for argument in arguments]
    return {override.address: override.text for override in overrides}


def _generators(given: list[str]) -> tuple[str, ...]:
    """Return the specs of --comfyload-tx. Raises: UsageError."""
    if not given:
        return ()
    if importlib.util.find_spec("execnet") is None:
        raise UsageError("--comfyload-tx needs execnet: pip install 'pytest-comfyload[distributed]'")
    from pytest_comfyload.run.distributed import generator_specs

    return generator_specs(given)


def _store(config: pytest.Config) -> str | None:
    where = str(value_of(config, "--comfyload-store"))
    if where == "none":
        return None
    if not where:
        raise UsageError("--comfyload-store is empty; give a folder, a URL, or `none`")
    if "://" in where:
        return where
    path = user_path(where)
    configured = config.getoption("comfyload_store") is None and where != STORE
    return str(config.inipath.parent / path if configured and config.inipath is not None else path)


def _markdown(file: str, folder: Path) -> Path | None:
    """Return a path relative to where pytest was started, as with --junitxml."""
    return folder / user_path(file) if file else None


def _verdict(text: object) -> VerdictMode:

    match text:
        case "point" | "confident":
            return text
    raise UsageError(f"--comfyload-verdict={text} is unknown; legal: {nearest(str(text), get_args(VerdictMode))}")


def _html(config: pytest.Config) -> Path | None:
    """Return the file of the report, relative to where pytest was started, as with --junitxml. Raises: UsageError."""
    file = str(value_of(config, "--comfyload-html"))
    if not file:
        return None
    if str(value_of(config, "--comfyload-store")) == "none":
        raise UsageError("--comfyload-html shows the runs that are kept, and --comfyload-store=none keeps none")
    from pytest_comfyload.report.html.page import require_libraries

    require_libraries()
    return config.invocation_params.dir / user_path(file)


def _recheck(config: pytest.Config) -> str:
    ref = str(value_of(config, "--comfyload-recheck"))
    if ref and str(value_of(config, "--comfyload-store")) == "none":
        raise UsageError("--comfyload-recheck reads the store, and --comfyload-store=none has no runs")
    return ref


def _simulation(config: pytest.Config, *, real: bool) -> dict[str, Any]:
    """Return the settings of the embedded simulator for node classes.

    Those in an ini file are ignored if there is a real server. Raises: UsageError.
    """
    options = ("--comfyload-object-info", "--comfyload-node-time", "--comfyload-calibrate")
    given = [option for option in options if config.getoption(ini_name(option))]
    if real:
        if given:
            raise UsageError(f"{given[0]} is for the embedded simulator, and servers are named: leave one out")
        return {}
    if not any(value_of(config, option) for option in options):
        return {}
    from pytest_comfyload.simulator.settings import parse_node_time, read_object_info

    file = str(value_of(config, "--comfyload-object-info"))
    folder = config.invocation_params.dir if config.getoption("comfyload_object_info") else config.rootpath
    path = str(folder / user_path(file)) if file else ""
    read_object_info(path)
    return {
        "object_info": path,
        "node_times": dict(map(parse_node_time, value_of(config, "--comfyload-node-time"))),
        "calibrate": str(value_of(config, "--comfyload-calibrate")),
    }


def _gpu(name: str) -> str:
    if name == SIMULATED_GPU:
        return name
    # Imported here: most runs use the default, and need not import the simulator's settings.
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
