"""The outcome of one prompt: how it ended, its phases, and what it made. Every prompt sent has exactly one."""

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
    """How a prompt ended; all but the first are failures."""

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
    """Cold: nothing cached. Warm: cached, but no node with new input. Partly: some of these. Fully: all work.

    Prompts of the latter two are no measurements.
    """

    COLD = "cold"
    WARM = "warm"
    PARTLY = "partly"
    FULLY = "fully"


# The six phases of a prompt in their order; they sum to `total_time`.
PHASES = ("send_lag", "submit_time", "queue_time", "generation_time", "delivery_time", "fetch_time")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Times are seconds of the run's clock (virtual on a simulated server); a phase that was not reached is None.

    `stage`: of a ramp, from 1. `contended`: foreign prompts were in the server's queue meanwhile. `text` is the prompt
    text as given, `inputs` what the user set or had drawn, by the user's address. `cached` are the classes with a node
    from the cache, `reused` those of them that should have run, since the node's input was new. `outputs` are the files
    that came of it, `texts` what nodes wrote for the user. `worker`: the URL of the ComfyUI server behind a balancer
    that ran it. `stalled`: the generator stalled meanwhile, for longer than `max_send_lag`. `generator_lag`: what
    the generator added to `total_time`, at most, in wall seconds.
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
        """Return it on a clock that is so many seconds ahead."""
        timeline = None if self.timeline is None else self.timeline.shifted(seconds)
        return replace(self, intended=self.intended + seconds, timeline=timeline)

    @property
    def from_cache(self) -> bool:
        """Whether work of this prompt came from the server's cache, so that its times measure nothing."""
        return self.cache_class is CacheClass.FULLY or bool(self.reused)

    @property
    def ran_on(self) -> str:
        """The ComfyUI server that ran the prompt, as far as it is known: a worker behind the server, or the server."""
        return self.worker or self.server

    @property
    def succeeded(self) -> bool:
        """Whether its outputs arrived, all of them."""
        return self.status is OutcomeStatus.SUCCESS

    @property
    def executed(self) -> bool:
        """Whether the server executed the prompt to its end, whatever is to be said of what came of it."""
        return self.status in (OutcomeStatus.SUCCESS, OutcomeStatus.PARTIAL, OutcomeStatus.BAD_OUTPUT)

    @property
    def results(self) -> tuple[FetchedFile, ...]:
        """The files that the workflow was run for: pictures, videos, sound, …; previews where there is nothing else."""
        return results_of(self.outputs)

    @property
    def blank(self) -> tuple[FetchedFile, ...]:
        """The blank pictures among the results."""
        return tuple(file for file in self.results if file.blank)

    @property
    def undecoded(self) -> tuple[FetchedFile, ...]:
        """The pictures among the results that were fetched, and not decoded: too large, or of an unknown format."""
        return tuple(file for file in self.results if file.is_picture and file.size and file.width is None)

    @property
    def header_only(self) -> tuple[FetchedFile, ...]:
        """The pictures among the results of which the size, header and container were checked, and no pixel decoded."""
        return tuple(file for file in self.results if file.width is not None and file.pixels is None)

    @property
    def void(self) -> bool:
        """Whether the server's stamps of this prompt cannot be right: of its times only the client's own are left."""
        return self.timeline is not None and self.timeline.void

    def voided(self) -> Outcome:
        """Return it without what the server's stamps say."""
        return replace(self, timeline=self.timeline and self.timeline.voided())

    @property
    def images(self) -> int:
        """The pictures among the results."""
        return sum(1 for file in self.results if file.is_picture)

    @property
    def nodes(self) -> tuple[NodeInterval, ...]:
        """The nodes that ran, with their times in seconds of the run's clock."""
        return self.timeline.nodes if self.timeline else ()

    @property
    def ran(self) -> frozenset[str]:
        """The classes of which a node ran."""
        return frozenset(node.class_type for node in self.nodes)

    @property
    def model_load_time(self) -> float:
        """Seconds in loaders, and in samplers before their first step."""
        return model_load_time(self.nodes)

    @property
    def end(self) -> float | None:
        """When the outputs were in the user's hand, seconds of the run's clock."""
        return self.timeline.fetched if self.timeline else None

    @property
    def send_lag(self) -> float | None:
        """Seconds from the intended start to really sent."""
        return self.timeline.send_lag if self.timeline else None

    @property
    def submit_time(self) -> float | None:
        """Seconds from sent to accepted."""
        return self.timeline.submit_time if self.timeline else None

    @property
    def queue_time(self) -> float | None:
        """Seconds from accepted to the start of execution."""
        return self.timeline.queue_time if self.timeline else None

    @property
    def generation_time(self) -> float | None:
        """Seconds from the start to the end of execution."""
        return self.timeline.generation_time if self.timeline else None

    @property
    def delivery_time(self) -> float | None:
        """Seconds from the end of execution to the client's knowledge of it."""
        return self.timeline.delivery_time if self.timeline else None

    @property
    def fetch_time(self) -> float | None:
        """Seconds of the download of the outputs."""
        return self.timeline.fetch_time if self.timeline else None

    @property
    def total_time(self) -> float | None:
        """Seconds from the intended start to the outputs in hand: the sum of the phases."""
        return self.timeline.total_time if self.timeline else None

    def phases(self) -> dict[str, float]:
        """The phases that this prompt reached, in their order, in seconds."""
        values = {name: getattr(self, name) for name in PHASES}
        return {name: value for name, value in values.items() if value is not None}


class SharedTexts:
    """Texts that the outcomes of a run have in common, each kept once: a server's answers repeat them every time."""

    MOST = 1_000

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def within(self, outcome: Outcome) -> Outcome:
        """The same outcome, made of those texts."""
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
    """Classify a prompt that came to its end by what came from the cache.

    Args:
        graph: Its nodes by id.
        cached: What the server said was cached.
        fresh: The nodes with new input.
        needed: The nodes that an output is made of.
    """
    if not cached:
        return CacheClass.COLD
    # To save once more what is cached under another name is no work.
    work = {each for each in needed if each in fresh or not is_saver(graph[each]["class_type"])}
    if work <= cached:
        return CacheClass.FULLY
    return CacheClass.PARTLY if cached & fresh else CacheClass.WARM


def classes_of(graph: Mapping[str, Mapping[str, Any]], node_ids: Collection[str]) -> tuple[str, ...]:
    """The classes of some nodes of a prompt, in the graph's order."""
    return tuple(dict.fromkeys(node["class_type"] for node_id, node in graph.items() if node_id in node_ids))


def warm_up_failures(warm_ups: Sequence[Outcome]) -> str | None:
    """Return how many failed, and why: each kind once, with the first one's words. None: all succeeded."""
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
