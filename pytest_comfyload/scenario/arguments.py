"""The arguments of `load_scenario`, declared once: defaults, checks, groups and help derive from here."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.redaction import hide_named
from pytest_comfyload.scenario.extra_data import read_extra_data
from pytest_comfyload.scenario.pacing import ThinkTime
from pytest_comfyload.scenario.server_selection import ServerChoice

__all__ = [
    "ARGUMENTS",
    "DEFAULTS",
    "Argument",
    "Param",
    "described",
    "fixed_by",
    "legal_in_group",
    "positive_duration",
    "shape_arguments",
    "whole_number",
]


@dataclass(frozen=True, slots=True)
class Param:
    """Stands for the value of a parametrised argument of the test, in `inputs`."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of `load_scenario`.

    Args:
        name: As users write it.
        default: What holds where it is not given.
        parse: Called with the value and the name; returns what a Scenario holds. Raises: UsageError.
        help: What it means, its unit and its legal values, for `help(load_scenario)`.
        scope: "shape": when prompts are sent, which with `groups` only a group can say; "group": a group can have its
            own; "scenario": the same for all groups.
        fixed_by: Fixtures that decide it themselves.
    """

    name: str
    default: object
    parse: Callable[[Any, str], Any]
    help: str
    scope: Literal["scenario", "group", "shape"] = "scenario"
    fixed_by: frozenset[str] = frozenset()


def whole_number(value: object, name: str, least: int = 1) -> int:
    """Raises: UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name}={value!r} is not a whole number of at least {least}")
    return value


def positive_duration(value: object, name: str) -> float:
    """Return seconds. Raises: UsageError."""
    seconds = parse_duration(value, name)
    if seconds == 0:
        raise UsageError(f'{name}={value!r} is not positive; give seconds, or a text such as "45m"')
    return seconds


def _optional(parse: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, name: None if value is None else parse(value, name)


def _as_given(value: object, name: str) -> object:
    """Of arguments that are judged together with others."""
    return value


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is neither True nor False")
    return value


def _percentage(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise UsageError(f"{name}={value!r} is not a percentage from 0 to 100")
    return float(value)


def _one_of(*legal: str) -> Callable[[Any, str], str]:
    def parse(value: object, name: str) -> str:
        if value not in legal:
            raise UsageError(f"{name}={value!r}; legal: {', '.join(legal)}")
        return str(value)

    return parse


def _inputs(value: object, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        hide_named(value)
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and "." in key for key in value):
        raise UsageError(f"{name}={value!r} is not a dict of 'node.input' to value, such as {{'KSampler.steps': 20}}")
    return value


def _prompts(value: object, name: str) -> Sequence[str] | str | os.PathLike[str] | None:
    if value is None or isinstance(value, str | os.PathLike):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(text, str) for text in value):
        return value
    raise UsageError(f"{name}={value!r} is neither a list of texts nor the path of a text file")


def _classes(value: object, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) and each for each in value):
        raise UsageError(f"{name}={value!r} is not a list of node classes, such as ['KSampler']")
    return tuple(value)


def _gates(value: object, name: str) -> tuple[str, ...]:
    gates = value if isinstance(value, list | tuple) else [value]
    if not gates or not all(isinstance(each, str) and each for each in gates):
        raise UsageError(f"{name}={value!r}: give the name of a figure, such as {GATE!r}, or a list of names")
    return tuple(dict.fromkeys(gates))


def _id(value: object, name: str) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise UsageError(f"{name}={value!r} is not a text")
    return value


_COUNT, _SECONDS = _optional(whole_number), _optional(positive_duration)
_CAPACITY = frozenset({"find_capacity"})

# In the order of the signature.
ARGUMENTS: Mapping[str, Argument] = {
    each.name: each
    for each in (
        Argument(
            name="workflow", default=None, parse=_as_given, scope="group",
            help="A shipped name ('txt2img'), the path of an API-format file, or the graph as a dict.",
        ),
        Argument(
            name="mix", default=None, parse=_as_given, scope="group",
            help="Several workflows, drawn by weight: {'txt2img': 3, 'lora': 1}.",
        ),
        Argument(
            name="groups", default=None, parse=_as_given,
            help="Several loads at once, by name: {'light': dict(users=2, duration='5m'), 'flood': dict(burst=50, "
            "start='2m')}; `start` is seconds from the begin.",
        ),
        Argument(
            name="users", default=None, parse=_as_given, scope="shape", fixed_by=_CAPACITY,
            help="Closed load: how many users, each of which sends its next prompt when it has the last one's outputs; "
            "or stages, [('1m', 2), ('3m', 8)]: within each duration the number changes evenly to the one given.",
        ),
        Argument(
            name="iterations", default=None, parse=_COUNT, scope="shape", fixed_by=_CAPACITY,
            help="So many prompts of each user (1 where nothing else limits the load).",
        ),
        Argument(
            name="shared_iterations", default=None, parse=_COUNT, scope="shape", fixed_by=_CAPACITY,
            help="So many prompts of all users together.",
        ),
        Argument(
            name="duration", default=None, parse=_SECONDS, scope="shape", fixed_by=_CAPACITY,
            help="Users send, or prompts arrive, for so long: seconds, or '500ms', '30s', '10m', '1h30m'.",
        ),
        Argument(
            name="burst", default=None, parse=_COUNT, scope="shape", fixed_by=_CAPACITY,
            help="Send this many prompts at once.",
        ),
        Argument(
            name="rate", default=None, parse=_as_given, scope="shape", fixed_by=_CAPACITY,
            help="Open load: prompts arrive at '6/min' whether earlier ones are done or not; or stages, "
            "[('1m', '2/min'), ('3m', '8/min')].",
        ),
        Argument(
            name="arrival", default="constant", parse=_as_given, scope="shape",
            help="How they arrive: 'constant', evenly; 'poisson', at random.",
        ),
        Argument(
            name="max_in_flight", default=None, parse=_COUNT, scope="shape", fixed_by=_CAPACITY,
            help="Arrivals beyond so many unfinished prompts are dropped, and counted.",
        ),
        Argument(
            name="think_time", default=0, parse=lambda value, name: ThinkTime.read(value), scope="group",
            help="A user's pause before its next prompt: seconds, a range ('1s', '5s'), or a distribution such as "
            "exponential('5s').",
        ),
        Argument(
            name="preset", default=None, parse=_as_given, scope="shape", fixed_by=_CAPACITY,
            help="A shape by its purpose: 'smoke', 'load', 'stress', 'spike', 'soak' or 'breakpoint'; `users` is the "
            "ordinary number of users.",
        ),
        Argument(
            name="warmup", default=1, parse=partial(whole_number, least=0),
            help="Prompts of each workflow to each server before the measured window.",
        ),
        Argument(
            name="timeout", default="300s", parse=positive_duration, scope="group",
            help="How long a prompt may execute; submitting it and downloading its outputs may take as long each.",
        ),
        Argument(
            name="queue_timeout", default=None, parse=_SECONDS, scope="group",
            help="How long a prompt may wait in the queue (None: as long as the server shows signs of life).",
        ),
        Argument(
            name="drain", default=None, parse=_optional(parse_duration), fixed_by=_CAPACITY,
            help="How long prompts in flight may go on after the end (None: as long as timeout).",
        ),
        Argument(
            name="inputs", default=None, parse=_inputs, scope="group",
            help="{'KSampler.steps': 20}, by node id, title or class. Each prompt draws from a list, [20, 30], from a "
            "dict of value to weight, or from a distribution, uniform(20, 30); a pathlib.Path is a file to upload.",
        ),
        Argument(
            name="prompts", default=None, parse=_prompts, scope="group",
            help="Texts for the positive prompt, or a .txt, .csv or .jsonl file; {seed}, {index}, {user} and "
            "{iteration} in a text name the prompt.",
        ),
        Argument(
            name="extra_data", default=None, parse=lambda value, name: read_extra_data(value), scope="group",
            help="What is sent with each prompt beside the graph, {'extra_pnginfo': {...}}, over what a file brings.",
        ),
        Argument(
            name="vary_text", default=True, parse=_flag, scope="group",
            help="End each text with white space of its own, so that no prompt has its text encoded by an earlier one.",
        ),
        Argument(
            name="seed", default=None, parse=_optional(partial(whole_number, least=0)),
            help="Makes the run reproducible (None: drawn, and printed).",
        ),
        Argument(
            name="must_run", default=None, parse=_classes,
            help="Node classes that get new input in each prompt; were they cached, the run is invalid.",
        ),
        Argument(
            name="allow_cached", default=False, parse=_flag, help="Measure prompts from the server's cache, too."
        ),
        Argument(
            name="servers", default="all", parse=lambda value, name: ServerChoice.parse(value), scope="group",
            help="Of the servers that were named: 'all', the first so many, or some by URL or by place (from 0).",
        ),
        Argument(
            name="balance", default="least_queue", parse=_one_of("least_queue", "round_robin", "sticky"),
            help="Which of several servers gets a prompt: 'least_queue', 'round_robin', or 'sticky', one per user.",
        ),
        Argument(name="fetch", default=True, parse=_flag, scope="group", help="Download the outputs."),
        Argument(
            name="max_send_lag", default="100ms", parse=positive_duration,
            help="A run is invalid where the generator sent its prompts later than this (p99, real time).",
        ),
        Argument(
            name="on_foreign", default="mark", parse=_one_of("mark", "fail", "wait"),
            help="Of foreign prompts in the queue: 'mark' the run contaminated, 'fail', or 'wait' until they are done.",
        ),
        Argument(
            name="abort_on_failure_rate", default=None, parse=_optional(_percentage),
            help="Stop when more than so many percent of the prompts fail.",
        ),
        Argument(
            name="abort_on_saturation", default=False, parse=_flag, help="Stop when the backlog only grows."
        ),
        Argument(
            name="gate", default=GATE, parse=_gates,
            help="The figure that decides whether a commit made it slower, or a list of several: "
            "'node_time[KSampler].p50', 'gpu.vram.peak'.",
        ),
        Argument(name="id", default=None, parse=_id, help="Names the series of runs (None: the test's name)."),
        Argument(name="allow_api_nodes", default=False, parse=_flag, help="Accept nodes that cost money."),
    )
}  # fmt: skip

DEFAULTS: Mapping[str, Any] = {name: argument.default for name, argument in ARGUMENTS.items()}


def shape_arguments() -> tuple[str, ...]:
    """Return the arguments that say when prompts are sent."""
    return tuple(name for name, argument in ARGUMENTS.items() if argument.scope == "shape")


def legal_in_group() -> tuple[str, ...]:
    """Return the arguments of a group: its shape first, and what it may say otherwise than the whole scenario."""
    return *shape_arguments(), *(name for name, argument in ARGUMENTS.items() if argument.scope == "group")


def fixed_by(fixture: str) -> tuple[str, ...]:
    """Return the arguments that a fixture such as `find_capacity` decides itself."""
    return tuple(name for name, argument in ARGUMENTS.items() if fixture in argument.fixed_by)


def described(width: int = 100) -> str:
    """Return the Args section of a docstring: each argument, its meaning and its default."""
    lines = ["Args:"]
    for argument in ARGUMENTS.values():
        default = "" if argument.default is None else f" Default: {argument.default!r}."
        text = f"{argument.name}: {argument.help}{default}"
        lines += textwrap.wrap(text, width, initial_indent=" " * 4, subsequent_indent=" " * 8)
    return "\n".join(lines)
