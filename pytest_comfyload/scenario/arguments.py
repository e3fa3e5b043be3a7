"""Arguments of `load_scenario`, declared once: defaults, checks, groups and help derive from here."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.scenario.argument_values import (
    as_given,
    flag,
    gates,
    inputs,
    node_classes,
    one_of,
    optional,
    percentage,
    positive_duration,
    prompts,
    series_id,
    whole_number,
)
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
    "shape_arguments",
]


@dataclass(frozen=True, slots=True)
class Param:
    """Placeholder in `inputs` for the value of a parametrized argument of the test."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of `load_scenario`.

    Args:
        name: As users write it.
        default: The value if it is not given.
        parse: Called with the value and the name; returns the value for a Scenario. Raises: UsageError.
        help: Its meaning, unit and legal values, for `help(load_scenario)`.
        scope: "shape": it affects when prompts are sent, and with `groups` may only be given in a group; "group": a
            group may override it; "scenario": it is the same for all groups.
        fixed_by: Fixtures that set it themselves.
    """

    name: str
    default: object
    parse: Callable[[Any, str], Any]
    help: str
    scope: Literal["scenario", "group", "shape"] = "scenario"
    fixed_by: frozenset[str] = frozenset()


_COUNT, _SECONDS = optional(whole_number), optional(positive_duration)
_CAPACITY = frozenset({"find_capacity"})

# In the order of the signature of `load_scenario`.
ARGUMENTS: Mapping[str, Argument] = {
    each.name: each
    for each in (
        Argument(
            name="workflow", default=None, parse=as_given, scope="group",
            help="A shipped name (`'txt2img'`), the path of an API-format file, or the graph as a dict.",
        ),
        Argument(
            name="mix", default=None, parse=as_given, scope="group",
            help="Several workflows, drawn by weight: `{'txt2img': 3, 'lora': 1}`.",
        ),
        Argument(
            name="groups", default=None, parse=as_given,
            help="Several loads at once, by name: `{'light': dict(users=2, duration='5m'), 'flooder': dict(burst=50, "
            "start='2m')}`. `start` counts from the beginning of the load.",
        ),
        Argument(
            name="users", default=None, parse=as_given, scope="shape", fixed_by=_CAPACITY,
            help="Closed load: this many users, each of which sends its next prompt when it has the outputs of its "
            "last one. Or stages, `[('1m', 2), ('3m', 8)]`: during each, the number changes evenly to the one given.",
        ),
        Argument(
            name="iterations", default=None, parse=_COUNT, scope="shape", fixed_by=_CAPACITY,
            help="Each user sends this many prompts; 1 where nothing else limits the load.",
        ),
        Argument(
            name="shared_iterations", default=None, parse=_COUNT, scope="shape", fixed_by=_CAPACITY,
            help="All users together send this many prompts: the next free user sends the next one.",
        ),
        Argument(
            name="duration", default=None, parse=_SECONDS, scope="shape", fixed_by=_CAPACITY,
            help="Users send, or prompts arrive, for this long: seconds, or `'500ms'`, `'30s'`, `'10m'`, `'1h30m'`.",
        ),
        Argument(
            name="burst", default=None, parse=_COUNT, scope="shape", fixed_by=_CAPACITY,
            help="Send this many prompts at once.",
        ),
        Argument(
            name="rate", default=None, parse=as_given, scope="shape", fixed_by=_CAPACITY,
            help="Open load: prompts arrive at `'6/min'`, whether earlier ones are done or not; or stages, `[('1m', "
            "'2/min'), ('3m', '8/min')]`.",
        ),
        Argument(
            name="arrival", default="constant", parse=as_given, scope="shape",
            help="How they arrive: `'constant'` (evenly) or `'poisson'` (at random).",
        ),
        Argument(
            name="trace", default=None, parse=as_given, scope="shape", fixed_by=_CAPACITY,
            help="Open load: prompts arrive at the times that `comfyload record` wrote to this file. What is sent are "
            "the scenario's workflows, whatever the recorded ones were.",
        ),
        Argument(
            name="window", default=None, parse=as_given, scope="shape", fixed_by=_CAPACITY,
            help="The part of the trace: `'all'` (None), `'busiest 1h'`, `'9h..11h'` from its start, or "
            "`'2026-11-03T09:00..2026-11-03T11:00'`.",
        ),
        Argument(
            name="speed", default=None, parse=as_given, scope="shape", fixed_by=_CAPACITY,
            help="How many times faster than recorded prompts arrive; 1.4 is growth by 40 %.",
        ),
        Argument(
            name="max_in_flight", default=None, parse=_COUNT, scope="shape", fixed_by=_CAPACITY,
            help="Arrivals beyond this many unfinished prompts are dropped, and counted.",
        ),
        Argument(
            name="think_time", default=0, parse=lambda value, name: ThinkTime.read(value), scope="group",
            help="A user's pause before its next prompt: seconds, a range (`('1s', '5s')`) or a distribution "
            "(`exponential('5s')`).",
        ),
        Argument(
            name="preset", default=None, parse=as_given, scope="shape", fixed_by=_CAPACITY,
            help="A shape by its purpose: `'smoke'`, `'load'`, `'stress'`, `'spike'`, `'soak'` or `'breakpoint'`; "
            "`users` is the ordinary number of users.",
        ),
        Argument(
            name="warmup", default=1, parse=partial(whole_number, least=0),
            help="Prompts of each workflow to each server before the measured window; they load the models. A load of "
            "which none was executed does not start, and its run is kept as invalid.",
        ),
        Argument(
            name="timeout", default="300s", parse=positive_duration, scope="group",
            help="How long a prompt may execute; submitting it and downloading its outputs may take as long each. "
            "Each answer before the load may take as long too, from 5 s to 60 s.",
        ),
        Argument(
            name="queue_timeout", default=None, parse=_SECONDS, scope="group",
            help="How long a prompt may wait in the queue; None: as long as the server responds.",
        ),
        Argument(
            name="drain", default=None, parse=optional(parse_duration), fixed_by=_CAPACITY,
            help="How long prompts in flight may go on after the end; None: as long as `timeout`.",
        ),
        Argument(
            name="inputs", default=None, parse=inputs, scope="group",
            help="`{'KSampler.steps': 20}`, by node id, title or class; `KSampler[*]` is every node of a class. Each "
            "prompt draws from a list, by weight from a dict (`{20: 3, 30: 1}`), or from a distribution (`uniform(20, "
            "30)`). `param('name')` is a parametrised argument of the test; a `pathlib.Path` is uploaded.",
        ),
        Argument(
            name="prompts", default=None, parse=prompts, scope="group",
            help="Texts for the positive prompt: a list, or a .txt, .csv or .jsonl file; a line of .jsonl may bring "
            "inputs. `{seed}`, `{index}`, `{user}` and `{iteration}` in a text name the prompt.",
        ),
        Argument(
            name="extra_data", default=None, parse=lambda value, name: read_extra_data(value), scope="group",
            help="Sent with each prompt beside its graph, over what a file brings: `{'extra_pnginfo': {...}}`.",
        ),
        Argument(
            name="vary_text", default=True, parse=flag, scope="group",
            help="End each text with white space of its own, so that no text encoder's result comes from the server's "
            "cache.",
        ),
        Argument(
            name="seed", default=None, parse=optional(partial(whole_number, least=0)),
            help="Makes seeds, texts and arrivals the same in every run; None: drawn, printed and stored. Leave it "
            "out where a server may keep results: a rerun has seeds derived from it, but another session has the same.",
        ),
        Argument(
            name="must_run", default=None, parse=node_classes,
            help="Node classes that get new input in each prompt: a seed, white space after a text or, where nothing "
            "else feeds a node, a picture with other last bits in some pixels. A run in which one came from the cache "
            "is invalid.",
        ),
        Argument(
            name="allow_cached", default=False, parse=flag,
            help="Measure prompts whose work came from the server's cache, too.",
        ),
        Argument(
            name="servers", default="all", parse=lambda value, name: ServerChoice.parse(value), scope="group",
            help="Which of the servers that `--comfyui-url` names: `'all'`, a number of free ones, or some by URL "
            "or index (`[0, 2]`). Without `--comfyui-url`: that many simulators.",
        ),
        Argument(
            name="balance", default="least_queue", parse=one_of("least_queue", "round_robin", "sticky"),
            help="Which of several servers gets a prompt: `'least_queue'`, `'round_robin'`, or `'sticky'` (always the "
            "same for a user).",
        ),
        Argument(
            name="sockets", default=None, parse=optional(one_of("per_user", "shared")), scope="group",
            help="`'per_user'`: each user has a WebSocket, connections and cookies of its own, as a browser. "
            "`'shared'`: the users of a server share theirs, as the prompts of one program do. None: shared in open "
            "loads, but not behind a balancer whose workers are named.",
        ),
        Argument(
            name="fetch", default=True, parse=flag, scope="group",
            help="Download the outputs.",
        ),
        Argument(
            name="max_send_lag", default="100ms", parse=positive_duration,
            help="A run is invalid if the generator sent prompts later than this (p99, wall time).",
        ),
        Argument(
            name="on_foreign", default="mark", parse=one_of("mark", "fail", "wait"),
            help="What foreign prompts in the queue mean: `'mark'` the run contaminated, `'fail'`, or `'wait'` until "
            "they are done.",
        ),
        Argument(
            name="abort_on_failure_rate", default=None, parse=optional(percentage),
            help="Stop when more than this percentage of the prompts failed.",
        ),
        Argument(
            name="abort_on_saturation", default=False, parse=flag,
            help="Stop when the backlog only grows.",
        ),
        Argument(
            name="gate", default=GATE, parse=gates,
            help="The figure that decides whether a commit made it slower, or a list of several: "
            "`'node_time[KSampler].p50'`, `'gpu.vram.peak'`.",
        ),
        Argument(
            name="id", default=None, parse=series_id,
            help="Names the series of runs; None: the test's name.",
        ),
        Argument(
            name="allow_api_nodes", default=False, parse=flag,
            help="Accept nodes that cost money.",
        ),
    )
}  # fmt: skip

DEFAULTS: Mapping[str, Any] = {name: argument.default for name, argument in ARGUMENTS.items()}


def shape_arguments() -> tuple[str, ...]:
    """Return the arguments that determine when prompts are sent."""
    return tuple(name for name, argument in ARGUMENTS.items() if argument.scope == "shape")


def legal_in_group() -> tuple[str, ...]:
    """Return the arguments of a group: first those of its shape, then those of the scenario that it may override."""
    return *shape_arguments(), *(name for name, argument in ARGUMENTS.items() if argument.scope == "group")


def fixed_by(fixture: str) -> tuple[str, ...]:
    """Return the arguments that a fixture such as `find_capacity` sets itself."""
    return tuple(name for name, argument in ARGUMENTS.items() if fixture in argument.fixed_by)


def described(width: int = 100) -> str:
    """Return the Args section of a docstring: each argument, its meaning and its default."""
    lines = ["Args:"]
    for argument in ARGUMENTS.values():
        default = "" if argument.default is None else f" Default: {argument.default!r}."
        text = f"{argument.name}: {argument.help}{default}"
        lines += textwrap.wrap(text, width, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join(lines)
