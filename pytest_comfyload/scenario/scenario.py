"""Scenarios: the load to apply, built from the arguments of `load_scenario`, and its expected duration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.metrics.units import format_duration, parse_duration
from pytest_comfyload.scenario.argument_values import hint_for
from pytest_comfyload.scenario.arguments import ARGUMENTS, DEFAULTS, legal_in_group, shape_arguments
from pytest_comfyload.scenario.distributions import DistributionSpec
from pytest_comfyload.scenario.executors import Executor, planned
from pytest_comfyload.scenario.pacing import NO_PAUSE, ThinkTime
from pytest_comfyload.scenario.server_selection import ALL_SERVERS, ServerChoice
from pytest_comfyload.scenario.shape import executor_of

__all__ = [
    "NO_PAUSE",
    "LoadPart",
    "Scenario",
    "ThinkTime",
    "WorkflowSource",
    "expected_duration",
    "planned_duration",
    "planned_prompts",
]

WorkflowSource = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scenario:
    """The load to apply. Times are in seconds; with `queue_timeout` None, prompts wait as long as the server responds.

    `workflows` are drawn by weight. If there are `groups`, each is a separate scenario, all run at once, and of this
    one only the settings that they have in common apply.
    """

    workflows: tuple[tuple[WorkflowSource, float], ...]
    executor: Executor
    think_time: ThinkTime = NO_PAUSE
    start: float = 0.0
    groups: Mapping[str, Scenario] = field(default_factory=dict)
    preset: str | None = None
    warmup: int = 1
    timeout: float = 300.0
    queue_timeout: float | None = None
    drain: float = 300.0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] | str | os.PathLike[str] | None = None
    extra_data: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may contain API keys
    vary_text: bool = True
    seed: int | None = None
    must_run: tuple[str, ...] = ()
    allow_cached: bool = False
    servers: ServerChoice = ALL_SERVERS
    balance: str = "least_queue"
    on_foreign: str = "mark"
    abort_on_failure_rate: float | None = None
    abort_on_saturation: bool = False
    sockets: str | None = None
    fetch: bool = True
    max_send_lag: float = 0.1
    gates: tuple[str, ...] = (GATE,)
    id: str | None = None
    allow_api_nodes: bool = False

    @classmethod
    def build(cls, *args: Any, **kwargs: Any) -> Scenario:
        """Build a scenario from the arguments of `load_scenario`.

        A relative trace path starts at the working directory. Raises: UsageError, naming the argument and the remedy.
        """
        return cls.build_in(Path(), *args, **kwargs)

    @classmethod
    def build_in(cls, folder: Path, /, *args: Any, **kwargs: Any) -> Scenario:
        """Build a scenario; a relative trace path starts at `folder`. Raises: UsageError."""
        given = _given(args, kwargs)
        if given.get("groups") is not None:
            return _with_groups(given, folder)
        value = {**DEFAULTS, **given}
        workflows, executor = _workflows(value), executor_of(value, folder)
        read = {name: argument.parse(value[name], name) for name, argument in ARGUMENTS.items()}
        own = {name: read[name] for name in cls.__dataclass_fields__ if name in ARGUMENTS}
        own |= {
            "drain": read["timeout"] if read["drain"] is None else read["drain"],
            "abort_on_saturation": read["abort_on_saturation"] or value["preset"] == "breakpoint",
        }
        return cls(workflows=workflows, executor=executor, gates=read["gate"], **{**own, "groups": {}})

    @property
    def parts(self) -> Sequence[tuple[str | None, Scenario]]:
        """The scenarios to run: the groups with their names, or this scenario itself with None."""
        return tuple(self.groups.items()) if self.groups else ((None, self),)

    @property
    def planned(self) -> int | None:
        """The number of measured prompts; None if it depends on the server or on chance."""
        counts = [planned(part.executor) for _, part in self.parts]
        return None if None in counts else sum(filter(None, counts))

    @property
    def workflow(self) -> WorkflowSource:
        """The first workflow, for callers that know there is only one."""
        return self.workflows[0][0]

    @property
    def workflow_name(self) -> str:
        if len(self.workflows) == 1:
            return _name_of(self.workflow)
        return " + ".join(f"{weight:g} {_name_of(source)}" for source, weight in self.workflows)

    @property
    def shape(self) -> str:
        """A description of the load, without what is sent."""
        late = f", from {format_duration(self.start)}" if self.start else ""
        preset = f"{self.preset}: " if self.preset else ""
        sockets = {None: "", "shared": ", one socket per server", "per_user": ", one socket per user"}[self.sockets]
        return f"{preset}{self.executor}{self.think_time}{late}{sockets}"

    def __str__(self) -> str:
        if self.groups:
            return "; ".join(f"{name}: {group}" for name, group in self.groups.items())
        return f"{self.workflow_name}, {self.shape}{self._draws}"

    @property
    def _draws(self) -> str:
        """A description of the inputs drawn from distributions."""
        laws = [f"{name} {value!r}" for name, value in self.inputs.items() if isinstance(value, DistributionSpec)]
        return "".join(f", {law}" for law in laws)


def _name_of(source: WorkflowSource) -> str:
    return "workflow" if isinstance(source, Mapping) else os.fspath(source)


def _with_groups(given: Mapping[str, Any], folder: Path) -> Scenario:
    groups = given["groups"]
    if (
        not isinstance(groups, Mapping)
        or not groups
        or not all(isinstance(group, Mapping) for group in groups.values())
    ):
        # It may contain extra_data, which must not be shown.
        shown = "{}" if groups == {} else type(groups).__name__
        raise UsageError(f"groups={shown} is not a dict of name to arguments, such as {{'light': dict(users=2)}}")
    for name in given:
        if name in shape_arguments():
            raise UsageError(f"{name}= and groups= contradict each other; give {name} inside the groups")
    common = {name: value for name, value in given.items() if name != "groups"}
    built = {str(name): _group(str(name), group, common, folder) for name, group in groups.items()}
    return replace(next(iter(built.values())), groups=built, start=0.0)


def _group(name: str, group: Mapping[str, Any], common: Mapping[str, Any], folder: Path) -> Scenario:
    for argument in group:
        if argument not in (*legal_in_group(), "start"):
            legal = ("start", *legal_in_group())
            hint = f"legal: {', '.join(legal)}" if argument in DEFAULTS else hint_for(argument, legal)
            raise UsageError(f"group {name!r}: {argument}= is not for a group; {hint}")
    own = {argument: value for argument, value in group.items() if argument != "start"}
    shared = {
        key: value
        for key, value in common.items()
        if not (key in ("workflow", "mix") and {"workflow", "mix"} & own.keys())
    }
    try:
        start = parse_duration(group.get("start", 0), "start")
        return replace(Scenario.build_in(folder, **{**shared, **own}), start=start)
    except UsageError as error:
        raise UsageError(f"group {name!r}: {error}") from None


def _given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if len(args) > 1:
        raise UsageError(f"load_scenario takes one positional argument, the workflow; {len(args)} were given")
    for name in kwargs:
        if name not in DEFAULTS:
            raise UsageError(f"load_scenario has no argument {name!r}; {hint_for(name, tuple(DEFAULTS))}")
    if args and "workflow" in kwargs:
        raise UsageError("load_scenario got the workflow twice: as first argument and as workflow=")
    return {**({"workflow": args[0]} if args else {}), **kwargs}


def _workflows(value: Mapping[str, Any]) -> tuple[tuple[WorkflowSource, float], ...]:
    workflow, mix = value["workflow"], value["mix"]
    if mix is None:
        return ((_workflow(workflow), 1.0),)
    if workflow is not None:
        raise UsageError(f"workflow={workflow!r} and mix={mix!r} contradict each other; give only one")
    if not isinstance(mix, Mapping) or not mix or not all(map(_is_weight, mix.values())):
        raise UsageError(f"mix={mix!r} is not a dict of workflow to weight, such as {{'txt2img': 3, 'lora': 1}}")
    return tuple((_workflow(source), float(weight)) for source, weight in mix.items())


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _workflow(value: object) -> WorkflowSource:
    if value is None:
        raise UsageError("load_scenario needs a workflow: a name ('txt2img'), a path to an API-format file, or a dict")
    if not isinstance(value, str | os.PathLike | Mapping):
        raise UsageError(f"workflow={value!r} is neither a name, a path nor a dict")
    return value


class LoadPart(Protocol):
    """A part of a load that runs concurrently with others; `start` is in seconds from the start of the window."""

    @property
    def executor(self) -> Executor: ...
    @property
    def think_time(self) -> ThinkTime: ...
    @property
    def start(self) -> float: ...


def planned_duration(parts: Sequence[LoadPart]) -> float | None:
    """Return the seconds until the last part stops sending; None if that depends on the server."""
    return expected_duration(parts, [None] * len(parts), servers=1)


def planned_prompts(parts: Sequence[LoadPart]) -> float | None:
    """Return the planned or expected number of prompts; None if it depends on the server."""
    counts = [part.executor.prompts for part in parts]
    return None if None in counts else sum(count for count in counts if count is not None)


def expected_duration(
    parts: Sequence[LoadPart], generation_times: Sequence[float | None], servers: int
) -> float | None:
    """Return the expected seconds until all parts are done; None if unknown.

    `generation_times` are the seconds that one prompt of each part takes, None where unknown. Parts with iterations end
    when the servers have done all of the work, but not before each user has sent its prompts one after the other.
    """
    work, ends = 0.0, []
    for part, seconds in zip(parts, generation_times, strict=True):
        executor = part.executor
        if executor.duration is not None:
            ends.append(part.start + executor.duration)
        elif seconds is None or executor.prompts is None:
            return None
        else:
            each = executor.prompts / executor.users
            work += executor.prompts * seconds / servers
            ends.append(part.start + each * seconds + max(0.0, each - 1) * part.think_time.mean)
    return max(*ends, work)
