"""The `declared` directive: reference pages generated from what the code declares.

    ```{declared} metrics
    ```

Each argument, metric, option and command becomes an object that other pages link to and that the search finds.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import typer
from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

import pytest_comfyload
from pytest_comfyload.cli import app as commands_app
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.spec import MetricSpec
from pytest_comfyload.plugin import fixtures as fixtures_module
from pytest_comfyload.plugin import hookspecs
from pytest_comfyload.plugin.options import add_options, ini_name
from pytest_comfyload.scenario.arguments import ARGUMENTS, Argument, legal_in_group
from pytest_comfyload.simulator.__main__ import build_parser
from pytest_comfyload.simulator.faults import FAULTS, Kind

if TYPE_CHECKING:
    import pytest
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

__all__ = ["OBJECTS", "RETURNED", "command_options", "plugin_options", "setup"]

Lines = Iterator[str]

# The object types and their display names: `{argument}` and `{metric}` are directives and roles.
OBJECTS: Mapping[str, str] = {"argument": "scenario argument", "metric": "metric"}

# Classes that the public classes return and users call methods of: module and name.
RETURNED = (
    ("metrics.distribution", "Distribution"),
    ("metrics.metric", "Metric"),
    ("result.baseline", "Baseline"),
    ("result.baseline", "Regressions"),
    ("result.load_result", "LoadCapacity"),
    ("result.ab_figure", "ABFigure"),
    ("result.gpu_usage", "GpuUsage"),
)


# Classes that extensions construct; fixtures and results give tests the objects of the others.
CONSTRUCTED = ("CustomMetric", "GpuReading")


def plugin_options() -> dict[str, dict[str, Any]]:
    """Return the options that the plugin declares to pytest: by name, the arguments of `addoption`."""
    declared: dict[str, dict[str, Any]] = {}

    class Recorder:
        def getgroup(self, *_: object, **__: object) -> Recorder:
            return self

        def addoption(self, name: str, **attributes: Any) -> None:
            declared[name] = attributes

        def addini(self, *_: object, **__: object) -> None:
            pass

    add_options(cast("pytest.Parser", Recorder()))
    return declared


def command_options() -> dict[str, dict[str, str]]:
    """Return the commands of `comfyload`: by name, the arguments and options as `--help` shows them."""
    group: Any = typer.main.get_command(commands_app)
    declared = {name: dict(_help_records(name, command)) for name, command in sorted(group.commands.items())}
    declared["simulate"] = dict(_simulate_options())
    return declared


def _help_records(name: str, command: Any) -> Iterator[tuple[str, str]]:
    context = command.make_context(name, [], resilient_parsing=True)
    for parameter in command.params:
        if not parameter.hidden:
            usage, text = parameter.get_help_record(context) or (parameter.metavar or parameter.name.upper(), "")
            yield _words(usage), _words(text or parameter.help or "")


def _simulate_options() -> Iterator[tuple[str, str]]:
    parser = build_parser("comfyload simulate", calibrated=True)
    for action in parser._actions:
        text = action.help or ""
        if text == "==SUPPRESS==":
            continue
        value = "" if action.nargs == 0 else action.metavar or action.dest.upper()
        if action.choices:
            value = "[" + "|".join(map(str, action.choices)) + "]"
        yield f"{', '.join(action.option_strings)} {value}".strip(), _words(text % {"prog": parser.prog})


def _arguments() -> Lines:
    own = legal_in_group()
    parameters = inspect.signature(pytest_comfyload.load_scenario).parameters
    for argument in ARGUMENTS.values():
        annotation = str(parameters[argument.name].annotation)
        yield from _object("argument", f"{argument.name}: {annotation} = {argument.default!r}", _about(argument, own))


def _about(argument: Argument, own: tuple[str, ...]) -> Lines:
    yield _escaped(argument.help)
    notes = ["Each of `groups` may have its own."] if argument.name in own else []
    notes += [f"Not for `{fixture}`, which decides it." for fixture in sorted(argument.fixed_by)]
    if notes:
        yield from ("", *notes)


def _metrics() -> Lines:
    for spec in METRICS.values():
        name = f'{spec.name}["CLASS"]' if spec.by_class else spec.name
        yield from _object("metric", f"{name}: {spec.unit or 'count'}", _explained(spec))


def _explained(spec: MetricSpec) -> Lines:
    stats = ", ".join(f"`.{stat}`" for stat in spec.stats)
    uses = [f"Figures: {stats}."] if stats else []
    if spec.scale is None:
        uses.append("Commits are not compared by it.")
    elif spec.scale.relative:
        better = "higher" if spec.scale.higher_is_better else "lower"
        uses.append(f"Compared by ratio, {better} is better; changes below {spec.scale.effect:g} % do not count.")
    else:
        better = "higher" if spec.scale.higher_is_better else "lower"
        uses.append(
            f"Compared by difference, {better} is better; changes below {spec.scale.floor:g} {spec.unit} do not count."
        )
    if spec.slo:
        uses.append("`find_capacity` and `comfyload plan` accept it as an SLO.")
    yield " ".join((_escaped(spec.help), *uses))


def _options() -> Lines:
    yield from ("```{program} pytest", "```", "")
    for option, attributes in plugin_options().items():
        takes = "" if attributes["action"] == "store_true" else f" {attributes.get('metavar') or 'VALUE'}"
        text = str(attributes["help"]).replace("%%", "%")
        yield from _object("option", option + takes, iter([_escaped(text), "", f"ini: `{ini_name(option)}`"]))


def _commands() -> Lines:
    group: Any = typer.main.get_command(commands_app)
    for name, options in command_options().items():
        yield from (f"## comfyload {name}", "", f"```{{program}} comfyload {name}", "```", "")
        yield from (_escaped(inspect.cleandoc(group.commands[name].help or "")), "")
        for usage, text in options.items():
            if usage.startswith("-"):
                yield from _object("option", usage, iter([_escaped(text)]))
            else:
                yield from (f"`{usage}`", f": {_escaped(text)}", "") if text else (f"`{usage}`", "")


def _faults() -> Lines:
    yield from ("| Fault | Value | Meaning |", "|---|---|---|")
    for fault in FAULTS.values():
        default = "" if fault.kind is Kind.SWITCH else f"; {fault.default:g}"
        yield f"| `{fault.name}` | {fault.kind.value}{default} | {_escaped(fault.meaning)} |"


def _fixtures() -> Lines:
    for name in fixtures_module.__all__:
        yield from _object(
            "py:function", name, iter((inspect.getdoc(getattr(fixtures_module, name)) or "").split("\n"))
        )


def _hooks() -> Lines:
    for name in hookspecs.__all__:
        if name.startswith("pytest_"):
            yield from _documented("pytest_comfyload.plugin.hookspecs", name)


def _api() -> Lines:
    for name in pytest_comfyload.__all__:
        yield from _documented("pytest_comfyload", name)


def _returned() -> Lines:
    for module, name in RETURNED:
        yield from _documented(f"pytest_comfyload.{module}", name)


def _documented(module: str, name: str) -> Lines:
    kind = "class" if inspect.isclass(getattr(import_module(module), name)) else "function"
    yield from ("```{eval-rst}", f".. auto{kind}:: {module}.{name}")
    if kind == "class":
        hidden = "__new__" if name in CONSTRUCTED else "__new__, __init__"
        yield from ("   :members:", "   :inherited-members: tuple, float, int, dict", f"   :exclude-members: {hidden}")
    yield from ("```", "")


_PAGES: Mapping[str, Callable[[], Lines]] = {
    "api": _api,
    "arguments": _arguments,
    "commands": _commands,
    "faults": _faults,
    "fixtures": _fixtures,
    "hooks": _hooks,
    "metrics": _metrics,
    "options": _options,
    "returned": _returned,
}


def _object(directive: str, signature: str, content: Lines) -> Lines:
    yield from (f"````{{{directive}}} {signature}", *content, "````", "")


def _words(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    """Return a help text as Markdown: text in backticks unchanged, options as code, all other markup escaped."""
    parts = text.split("`")
    plain = (
        re.sub(r"(?<![\w-])(--[a-z][\w-]*)", r"`\1`", re.sub(r"([\\<*_\[])", r"\\\1", part)) for part in parts[::2]
    )
    mixed = [each for pair in zip(plain, [*(f"`{code}`" for code in parts[1::2]), ""], strict=True) for each in pair]
    return "".join(mixed)


class Declared(SphinxDirective):
    """The directive `{declared} NAME`, which inserts one of the pages above."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            text = "\n".join(_PAGES[self.arguments[0]]())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _signature(_: BuildEnvironment, text: str, node: addnodes.desc_signature) -> str:
    """Show `name: description`, and return the name of the object."""
    name, _colon, about = text.partition(": ")
    node += addnodes.desc_name(name, name)
    node += addnodes.desc_annotation("", f" {about}")
    return name


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("declared", Declared)
    for name, title in OBJECTS.items():
        app.add_object_type(name, name, f"pair: %s; {title}", _signature, objname=title)
    return {"parallel_read_safe": True}
