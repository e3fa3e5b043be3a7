"""The outcome of one prompt: how it ended, its phases, and its outputs. Every prompt sent has exactly one."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.generation_parts import is_saver, model_load_time
from pytest_comfyload.result.output_files import FetchedFile, results_of

__all__ = [
    "PHASES",
    "CacheClass",
    "Outcome",
    "OutcomeStatus",
    "SharedTexts",
    "cache_class",
    "classes_of",
    "warm_up_failures",
]


class OutcomeStatus(enum.StrEnum):
    """How a prompt ended; all statuses but SUCCESS are failures."""

    SUCCESS = "success"
    REJECTED = "rejected"
    HTTP_ERROR = "http_error"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    OOM = "oom"
    EXECUTION_ERROR = "execution_error"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    PARTIAL = "partial"
    BAD_OUTPUT = "bad_output"
    CENSORED = "censored"


class CacheClass(enum.StrEnum):
    """How much of a prompt's work came from the server's cache.

    Cold: none. Warm: some, but no node with new input. Partly: some nodes with new input. Fully: all of it. Prompts of
    the latter two classes are not measurements.
    """

    COLD = "cold"
    WARM = "warm"
    PARTLY = "partly"
    FULLY = "fully"


# The six phases of a prompt in their order; they sum to `total_time`.
PHASES = ("send_lag", "submit_time", "queue_time", "generation_time", "delivery_time", "fetch_time")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one prompt.

    Times are in seconds of the run's clock, which is virtual on a simulated server; a phase that was not reached is
    None.

    Args:
        prompt_id: The prompt's id on the server.
        server: The URL that the prompt was sent to.
        client_id: The id of the WebSocket client that sent it.
        user: The number of the simulated user.
        iteration: The number of the prompt among the user's, counted from 0; negative for a warm-up.
        workflow: The name of the workflow.
        status: How the prompt ended.
        intended: When the prompt was due.
        group: The name of the scenario's group, if it has groups.
        stage: The stage of a ramp, counted from 1.
        warmup: Whether it is a warm-up prompt.
        contended: Whether prompts of other clients were in the server's queue at the same time.
        error: Why the prompt failed.
        cache_class: How much of its work came from the server's cache.
        timeline: The times of its phases and nodes.
        outputs: The files that it produced.
        texts: What nodes wrote for the user.
        text: The prompt text as given.
        seeds: The seeds, by node id and input.
        inputs: The inputs that were set or drawn, by the address that the scenario uses.
        cached: The classes with a node that came from the cache.
        worker: The URL of the ComfyUI server that ran the prompt, if the server is a balancer.
        reused: The classes in `cached` that should have run, because the node's input was new.
        stalled: Whether the generator stalled for longer than `max_send_lag` at the same time.
        generator_lag: Wall seconds that the generator added to `total_time`, at most.
    """

    prompt_id: str
    server: str
    client_id: str
    user: int
    iteration: int
    workflow: str
    status: OutcomeStatus
    intended: float
    group: str | None = None
    stage: int | None = None
    warmup: bool = False
    contended: bool = False
    error: str | None = None
    cache_class: CacheClass | None = None
    timeline: Timeline | None = None
    outputs: tuple[FetchedFile, ...] = ()
    texts: tuple[str, ...] = ()
    text: str | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    worker: str | None = None
    reused: tuple[str, ...] = ()
    stalled: bool = False
    generator_lag: float | None = None

    def shifted(self, seconds: float) -> Outcome:
        """Return the outcome on a clock that is ahead by this many seconds."""
        timeline = None if self.timeline is None else self.timeline.shifted(seconds)
        return replace(self, intended=self.intended + seconds, timeline=timeline)

    @property
    def from_cache(self) -> bool:
        """Whether work of this prompt came from the server's cache, so that its times are not measurements."""
        return self.cache_class is CacheClass.FULLY or bool(self.reused)

    @property
    def ran_on(self) -> str:
        """URL of the server that ran the prompt, as far as it is known; behind a balancer, that of the worker."""
        return self.worker or self.server

    @property
    def succeeded(self) -> bool:
        """Whether all of its outputs arrived."""
        return self.status is OutcomeStatus.SUCCESS

    @property
    def executed(self) -> bool:
        """Whether the server executed the prompt to its end, even if outputs are missing or bad."""
        return self.status in (OutcomeStatus.SUCCESS, OutcomeStatus.PARTIAL, OutcomeStatus.BAD_OUTPUT)

    @property
    def results(self) -> tuple[FetchedFile, ...]:
        """The files that the workflow was run for, such as pictures or videos; previews only if there are no others."""
        return results_of(self.outputs)

    @property
    def blank(self) -> tuple[FetchedFile, ...]:
        """The blank pictures among the results."""
        return tuple(file for file in self.results if file.blank)

    @property
    def undecoded(self) -> tuple[FetchedFile, ...]:
        """The pictures among the results that were fetched but not decoded, being too large or of an unknown format."""
        return tuple(file for file in self.results if file.is_picture and file.size and file.width is None)

    @property
    def header_only(self) -> tuple[FetchedFile, ...]:
        """The pictures among the results whose size, header and container were checked, but not the pixels."""
        return tuple(file for file in self.results if file.width is not None and file.pixels is None)

    @property
    def void(self) -> bool:
        """Whether the server's timestamps of this prompt are impossible, so that only the client's times are known."""
        return self.timeline is not None and self.timeline.void

    def voided(self) -> Outcome:
        """Return the outcome without what the server's timestamps say."""
        return replace(self, timeline=self.timeline and self.timeline.voided())

    @property
    def images(self) -> int:
        """Number of pictures among the results."""
        return sum(1 for file in self.results if file.is_picture)

    @property
    def nodes(self) -> tuple[NodeInterval, ...]:
        """The nodes that ran, with their times in seconds of the run's clock."""
        return self.timeline.nodes if self.timeline else ()

    @property
    def ran(self) -> frozenset[str]:
        """The classes of the nodes that ran."""
        return frozenset(node.class_type for node in self.nodes)

    @property
    def model_load_time(self) -> float:
        """Seconds in loaders, and in samplers before their first step."""
        return model_load_time(self.nodes)

    @property
    def end(self) -> float | None:
        """When all outputs had been downloaded, in seconds of the run's clock; None if they never were."""
        return self.timeline.fetched if self.timeline else None

    @property
    def send_lag(self) -> float | None:
        """Seconds from the intended start until the prompt was sent."""
        return self.timeline.send_lag if self.timeline else None

    @property
    def submit_time(self) -> float | None:
        """Seconds from sending to acceptance."""
        return self.timeline.submit_time if self.timeline else None

    @property
    def queue_time(self) -> float | None:
        """Seconds from acceptance to the start of execution."""
        return self.timeline.queue_time if self.timeline else None

    @property
    def generation_time(self) -> float | None:
        """Seconds from the start to the end of execution."""
        return self.timeline.generation_time if self.timeline else None

    @property
    def delivery_time(self) -> float | None:
        """Seconds from the end of execution until the client knew of it."""
        return self.timeline.delivery_time if self.timeline else None

    @property
    def fetch_time(self) -> float | None:
        """Seconds to download the outputs."""
        return self.timeline.fetch_time if self.timeline else None

    @property
    def total_time(self) -> float | None:
        """Seconds from the intended start until the outputs were downloaded, which is the sum of the phases."""
        return self.timeline.total_time if self.timeline else None

    def phases(self) -> dict[str, float]:
        """Return the phases that this prompt reached, in their order, in seconds."""
        values = {name: getattr(self, name) for name in PHASES}
        return {name: value for name, value in values.items() if value is not None}


class SharedTexts:
    """Strings that the outcomes of a run have in common, each kept once: a server's responses repeat them."""

    MOST = 1_000

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def within(self, outcome: Outcome) -> Outcome:
        """Return an equal outcome that uses the shared strings."""
        known = self._known
        if len(known) > self.MOST:
            known.clear()
        files = tuple(
            replace(
                file,
                node_id=known.setdefault(file.node_id, file.node_id),
                kind=known.setdefault(file.kind, file.kind),
                subfolder=known.setdefault(file.subfolder, file.subfolder),
                type=known.setdefault(file.type, file.type),
            )
            for file in outcome.outputs
        )
        return replace(outcome, outputs=files, seeds=outcome.seeds or _NONE, inputs=outcome.inputs or _NONE)


_NONE: Mapping[str, Any] = {}


def cache_class(
    graph: Mapping[str, Mapping[str, Any]], cached: Set[str], fresh: Set[str], needed: Set[str]
) -> CacheClass:
    """Classify a prompt that ran to its end by what came from the cache.

    Args:
        graph: Its nodes, by id.
        cached: The ids of the nodes that the server reported as cached.
        fresh: The ids of the nodes with new input.
        needed: The ids of the nodes that an output depends on.
    """
    if not cached:
        return CacheClass.COLD
    # Saving a cached result again under another name is not work.
    work = {each for each in needed if each in fresh or not is_saver(graph[each]["class_type"])}
    if work <= cached:
        return CacheClass.FULLY
    return CacheClass.PARTLY if cached & fresh else CacheClass.WARM


def classes_of(graph: Mapping[str, Mapping[str, Any]], node_ids: Collection[str]) -> tuple[str, ...]:
    """Return the classes of some nodes of a prompt, in the graph's order."""
    return tuple(dict.fromkeys(node["class_type"] for node_id, node in graph.items() if node_id in node_ids))


def warm_up_failures(warm_ups: Sequence[Outcome]) -> str | None:
    """Describe how many warm-up prompts failed, and why: each status once, with its first error. None if none did."""
    failed = [outcome for outcome in warm_ups if not outcome.succeeded]
    if not failed:
        return None
    counts = Counter(outcome.status for outcome in failed)
    words = {outcome.status: outcome.error for outcome in reversed(failed)}
    if len(warm_ups) == 1:
        (status,) = counts
        return f"the warm-up prompt failed: {status} ({words[status]})"
    kinds = ", ".join(f"{count} {status} ({words[status]})" for status, count in counts.items())
    return f"{len(failed)} of {len(warm_ups)} warm-up prompts failed: {kinds}"
