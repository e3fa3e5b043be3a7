"""Code that reads untrusted or mistyped input: each target takes an input and may raise only documented errors."""

from __future__ import annotations

import contextlib
import gzip
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_comfyload.client.address import ServerAddress, parse_headers
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.gpu.prometheus import parse_metrics
from pytest_comfyload.gpu.spec import parse_specs
from pytest_comfyload.history.adoption import adopt_all, adoptable
from pytest_comfyload.history.exports import from_json, parsed
from pytest_comfyload.history.index import FILE
from pytest_comfyload.history.pytest_benchmark import from_benchmark, is_benchmark
from pytest_comfyload.history.record_file import decode
from pytest_comfyload.history.store import Store
from pytest_comfyload.metrics.slo import Slo
from pytest_comfyload.metrics.units import parse_duration, parse_size
from pytest_comfyload.plugin import options
from pytest_comfyload.plugin.settings import read_settings
from pytest_comfyload.protocol import bodies, outputs, system_stats
from pytest_comfyload.protocol.json_values import NotJson, parse_json
from pytest_comfyload.protocol.messages import parse_frame
from pytest_comfyload.protocol.prompt_state import PromptState
from pytest_comfyload.scenario.pacing import parse_rate
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.simulator.faults import parse_fault
from pytest_comfyload.simulator.settings import CacheMode, parse_node_time
from pytest_comfyload.workflow.graph import NodeGraph
from pytest_comfyload.workflow.inputs import parse_override
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.preflight import objections
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["ARGUMENTS", "BYTES", "OPTIONS", "TEXTS", "build_scenario", "judge_workflow", "read_options"]

PROMPT_ID = "prompt-1"


def _try(*calls: Callable[[], object]) -> None:
    """Make each call, which may raise one of our own errors, and consume its result if it is iterable."""
    for call in calls:
        with contextlib.suppress(ComfyloadError, NotJson):
            result = call()
            if isinstance(result, Iterable):
                list(result)


# --- data from servers ---


def _frames(content: bytes) -> None:
    """Apply each line to one prompt, as a text and as a binary frame, and compute the prompt's times."""
    state = PromptState(PROMPT_ID, {"1": "KSampler"})
    state.send(0.0)
    for number, line in enumerate(content.split(b"\n")):
        for frame in (line, line.decode("utf-8", "replace")):
            state.apply(parse_frame(frame), 1.0 + number)
    state.answer(0.5)
    timeline = state.timeline(0.0, 0.0)
    _ = timeline.total_time, timeline.generation_time, state.offset_bounds(), state.steps_per_second


def _body(content: bytes) -> None:
    try:
        body = parse_json(content)
    except NotJson:
        return
    _try(
        lambda: bodies.parse_prompt_answer(body),
        lambda: bodies.parse_rejection(body),
        lambda: bodies.parse_queue(body),
        lambda: system_stats.parse_system_stats(body),
        lambda: system_stats.used_memory(system_stats.parse_system_stats(body)),
        lambda: bodies.parse_object_info(body),
        lambda: bodies.parse_guessed_times(body),
        lambda: bodies.parse_log(body),
    )
    with contextlib.suppress(ComfyloadError):
        entry = bodies.parse_history_entry(body, PROMPT_ID)
        if entry is not None:
            state = PromptState(PROMPT_ID, {"1": "KSampler"})
            state.send(0.0)
            state.answer(0.5)
            state.apply_history(entry, 1.0)
            state.timeline(0.0, 0.0)
            list(outputs.output_files(state.outputs))
            outputs.output_texts(state.outputs)


def _metrics(content: bytes) -> None:
    _try(lambda: parse_metrics(content.decode("utf-8", "replace")))


# --- data from disk ---


def _run_file(content: bytes) -> None:
    _try(lambda: decode(content).load().to_dict(), lambda: decode(gzip.compress(content, 1)).load().to_dict())


def _store(content: bytes) -> None:
    """Read `content` both as an index and as a run file of a store."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "runs").mkdir()
        (Path(folder) / FILE).write_bytes(content)
        (Path(folder) / "runs" / "a.run").write_bytes(content)
        store = Store.open(folder)
        list(store.records(store.runs()))
        store.set_aside()


def _spool(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spools = Path(folder) / ".comfyload" / "spool"
        spools.mkdir(parents=True)
        (spools / "a.jsonl").write_bytes(content)
        adoptable(spools, "mine")
        adopt_all(Path(folder), "mine", lambda project: str(project / ".comfyload"), lambda line: None)


def _import(content: bytes) -> None:
    def read() -> object:
        plain = parsed(content, "a.json")
        return from_benchmark(plain, "a.json") if is_benchmark(plain) else from_json(plain, "a.json")

    _try(read)


def _workflow_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.json").write_bytes(content)
        _try(lambda: judge_workflow(Workflow.load("a.json", root=Path(folder)), ObjectInfo({})))


def judge_workflow(workflow: Workflow, object_info: ObjectInfo) -> None:
    """Run the checks that a workflow undergoes before a load. Raises: ComfyloadError."""
    workflow = workflow.on(object_info)
    _try(
        lambda: workflow.node_counts(),
        lambda: workflow.pictures_to_vary(),
        lambda: workflow.models(),
        lambda: workflow.taking_texts([]),
        lambda: objections(NodeGraph(workflow.graph, object_info)),
        lambda: workflow.with_inputs({"KSampler.steps": 3, "1.text": "a", "2.seed": 1e400}),
        lambda: workflow.vary(random.Random(0), text="a cat", filename_prefix="a"),
    )


# --- user input ---


def _texts(text: str) -> None:
    _try(
        lambda: parse_duration(text, "timeout"),
        lambda: parse_size(text, "--comfyload-max-response"),
        lambda: parse_rate(text, "rate"),
        lambda: Slo.parse(text),
        lambda: parse_fault(text),
        lambda: parse_node_time(text),
        lambda: CacheMode.parse(text),
        lambda: parse_override(text),
        lambda: ServerAddress.parse(text),
        lambda: ServerAddress.parse(f"http://{text}").socket_url("client"),
        lambda: parse_headers(text, "COMFYUI_HEADERS"),
        lambda: parse_specs([text], ["http://gpu1:8188"]),
        lambda: parse_specs([f"http://gpu1:8188={text}"], ["http://gpu1:8188"]),
    )


def _ini(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


class _Config:
    """The part of a pytest configuration that options are read from: what was given on the command line."""

    def __init__(self, given: Mapping[str, Any], folder: Path) -> None:
        self._given = given
        self._defaults = {_ini(option): default for option, _, default, *_ in options.OPTIONS}
        self.invocation_params = SimpleNamespace(dir=folder, args=())
        self.args: list[str] = []
        self.rootpath, self.inipath = folder, None

    def getoption(self, name: str) -> Any:
        return self._given.get(name)

    def getini(self, name: str) -> Any:
        return self._defaults[name]


def read_options(given: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Read `given`, texts or lists of texts by the name of their option."""
    with tempfile.TemporaryDirectory() as folder:
        config: Any = _Config(given, Path(folder))
        _try(lambda: read_settings(config, environ).label)


# Options by the kind of value that they take.
OPTIONS = {_ini(option): kind for option, kind, *_ in options.OPTIONS}


def build_scenario(arguments: Mapping[str, Any]) -> None:
    """Build a scenario, and what the header and the summary show of it."""

    def build() -> object:
        scenario = Scenario.build("txt2img", **arguments)
        return str(scenario), scenario.planned

    _try(build)


BYTES: dict[str, Callable[[bytes], None]] = {
    "frames": _frames,
    "body": _body,
    "metrics": _metrics,
    "run file": _run_file,
    "store": _store,
    "spool": _spool,
    "import": _import,
    "workflow file": _workflow_file,
}
TEXTS: dict[str, Callable[[str], None]] = {"texts": _texts}
# The arguments of `load_scenario`, with the values that are tried for each in addition to arbitrary ones.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "users": (3, [("1m", 2)], [("1m", 2), ("3m", 8)]),
    "iterations": (3,),
    "shared_iterations": (3,),
    "duration": ("10m", 60),
    "burst": (15,),
    "rate": ("6/min", [("1m", "2/min")]),
    "arrival": ("constant", "poisson"),
    "trace": ("week.jsonl",),
    "window": ("all", "busiest 1h", "9h..11h"),
    "speed": (1.4,),
    "max_in_flight": (20,),
    "think_time": ("2s", ("1s", "5s")),
    "preset": ("smoke", "load", "breakpoint"),
    "groups": ({"light": {"users": 2, "duration": "5m"}},),
    "inputs": ({"KSampler.steps": 20}, {"KSampler.steps": [1, 2]}),
    "prompts": (["a", "b"], "texts.txt"),
    "extra_data": ({"a": 1},),
    "vary_text": (True,),
    "must_run": (["KSampler"],),
    "seed": (7,),
    "warmup": (1,),
    "timeout": ("300s",),
    "queue_timeout": ("1m",),
    "drain": ("1m",),
    "servers": (2, "all", [0, 1], ["http://gpu1:8188"]),
    "balance": ("sticky",),
    "on_foreign": ("wait",),
    "abort_on_failure_rate": (20,),
    "abort_on_saturation": (True,),
    "max_send_lag": ("100ms",),
    "gate": ("generation_time.p50", ["node_time[KSampler].p50"]),
    "allow_cached": (True,),
    "fetch": (False,),
    "id": ("a",),
    "allow_api_nodes": (True,),
}
