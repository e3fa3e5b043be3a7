"""What users see and files contain, as text that restructuring the code must not change.

`python -m tests.golden.artefacts` rewrites the files in `data/`, after an intended change.
"""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer.main
from _pytest.config.argparsing import Parser

import pytest_comfyload
from pytest_comfyload.cli import app
from pytest_comfyload.history.exports import as_csv, as_json
from pytest_comfyload.history.index import row_of
from pytest_comfyload.history.record_file import encode
from pytest_comfyload.history.spool import Spool
from pytest_comfyload.plugin import options
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.run_data import run_data
from pytest_comfyload.report.markdown import summary_markdown
from pytest_comfyload.report.slo_table import TestSummary
from pytest_comfyload.report.terminal import summary_lines
from pytest_comfyload.simulator import SimulatorSettings
from pytest_comfyload.simulator.library import Library
from pytest_comfyload.simulator.pictures import Pictures
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.prompts import Source
from pytest_comfyload.workflow.workflow import Workflow
from tests.history.records import golden
from tests.report.html.stores import small_store

__all__ = ["ARTEFACTS", "DATA"]

DATA = Path(__file__).with_name("data")
WORKFLOWS = ("txt2img", "txt2img_sdxl", "img2img", "inpainting", "lora", "controlnet", "upscale")
DRAWN = 1000


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"


def run_file() -> str:
    """Return the export of a stored run's fields, and the digest of its bytes."""
    record = golden()
    packed = hashlib.sha256(gzip.decompress(encode(record))).hexdigest()
    return f"{packed}\n{as_json([record], outcomes=True)}\n"


def table() -> str:
    return as_csv([row_of("golden.run", golden())])


def spool() -> str:
    load = golden().load()
    with tempfile.TemporaryDirectory() as folder:
        with Spool(Path(folder), load.facts.run_id, {"title": load.facts.title}) as written:
            for outcome in load.all_outcomes:
                written.append(outcome)
            written.end(load, golden().pictures)
        return written.path.read_text(encoding="utf-8")


def page_data() -> str:
    """Return the data that the report's scripts read: for a store of several tests and for one run."""
    with tempfile.TemporaryDirectory() as folder:
        content = Content(small_store(Path(folder) / "store"), Path(folder), cache=Path(folder))
        trend = content.trend(content.newest_commits(3))
    return _json({"trend": trend, "run": run_data(golden())})


def summaries() -> str:
    record = golden()
    summary = TestSummary(record.facts.title, (dict(record.figures),), record.checks[0].checks)
    return "\n".join([*summary_lines([summary], color=False, width=120), summary_markdown([summary]), ""])


def drawn_graphs() -> str:
    """Return a digest of the first 1,000 prompts of each workflow, and of one with drawn inputs that always runs."""
    library = Library(SimulatorSettings(), Pictures(1, random.Random(0)))
    info = ObjectInfo({name: library.info(name) for name in library})
    drawn = {name: _digest(Workflow.load(name).on(info).with_inputs({})) for name in WORKFLOWS}
    inputs = {"KSampler.steps": [4, 8, 20], "KSampler.cfg": 7.5, "6.text": ["{index} of {user}", "a fox"]}
    varied = Workflow.load("txt2img").on(info).with_inputs(inputs).always_running(("VAEDecode",))
    return _json(drawn | {"txt2img, inputs drawn": _digest(varied)})


def _digest(workflow: Workflow) -> str:
    texts = ("a cat", "a dog in the rain")
    source = Source([([workflow, workflow], 1.0)], texts, "7", 3, "comfyload/run")
    digest = hashlib.sha256()
    for number in range(DRAWN):
        prompt = source(number % 3, number // 3)
        drawn = [prompt.graph, prompt.seeds, prompt.text, prompt.inputs, sorted(prompt.fresh), sorted(prompt.needed)]
        digest.update(json.dumps(drawn, sort_keys=True).encode())
    return digest.hexdigest()


def commands() -> str:
    """Return the command line: each command, its parameters, defaults and help."""
    group: Any = typer.main.get_command(app)
    described = {
        name: {"help": command.help, "parameters": [_parameter(each) for each in command.params]}
        for name, command in group.commands.items()
    }
    return _json(described)


def _parameter(parameter: Any) -> dict[str, Any]:
    default = None if callable(parameter.default) else parameter.default
    return {
        "names": [*parameter.opts, *parameter.secondary_opts],
        "help": getattr(parameter, "help", None),
        "default": str(default),
    }


def plugin_options() -> str:
    parser = Parser(_ispytest=True)
    options.add_options(parser)
    described = [
        {"names": option.names(), "help": option.attrs().get("help"), "default": option.attrs().get("default")}
        for group in parser._groups
        for option in group.options
    ]
    return _json({"options": described, "ini": {name: text for name, (text, *_) in parser._inidict.items()}})


def public_api() -> str:
    """Return the signature of each public name and of its public methods."""
    described: dict[str, Any] = {}
    for name in sorted(pytest_comfyload.__all__):
        value = getattr(pytest_comfyload, name)
        described[name] = _signature(value)
        if inspect.isclass(value):
            members = (member for member in dir(value) if not member.startswith("_"))
            described |= {f"{name}.{member}": _signature(getattr(value, member)) for member in members}
    return _json(described)


def _signature(value: Any) -> str:
    """Return the names and plain defaults of the parameters; mypy checks the annotations."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return "no callable"
    return ", ".join(_argument(each) for each in parameters)


def _argument(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return parameter.name
    plain = isinstance(parameter.default, str | int | float | tuple | None)
    return f"{parameter.name}={parameter.default!r}" if plain else f"{parameter.name}=..."


ARTEFACTS: Mapping[str, Callable[[], str]] = {
    "run_file.json": run_file,
    "runs.csv": table,
    "spool.jsonl": spool,
    "page_data.json": page_data,
    "summaries.txt": summaries,
    "drawn_graphs.json": drawn_graphs,
    "commands.json": commands,
    "plugin_options.json": plugin_options,
    "public_api.json": public_api,
}


if __name__ == "__main__":
    for name, make in ARTEFACTS.items():
        (DATA / name).write_text(make(), encoding="utf-8", newline="")
