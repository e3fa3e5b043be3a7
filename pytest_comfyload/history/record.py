"""The record of a run: all that is kept of it, in a versioned schema. All earlier schemas can still be read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

import msgspec

from pytest_comfyload.history.downsampling import thinned_gpu, thinned_steps, thinned_usage
from pytest_comfyload.history.environment import environment_of, fingerprint, subject_of
from pytest_comfyload.history.limits import (
    Count,
    Date,
    Fingerprint,
    RunId,
)
from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.redaction import public_text, public_values, without_secrets
from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import RunFacts

__all__ = [
    "INCOMPLETE",
    "SCHEMA",
    "Figures",
    "Record",
    "TestChecks",
    "record_of",
]

SCHEMA = 1

# State of a run that was cut off, in addition to the states of LoadResult.
INCOMPLETE = "incomplete"


class TestChecks(msgspec.Struct, frozen=True):
    """The SLO checks that one test made on the run.

    `unreached` are SLOs that the test did not get to, as written in its source.
    """

    __test__ = False

    nodeid: str
    checks: tuple[Check, ...]
    unreached: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    `time` is its start in seconds since 1970. `state` is that of the LoadResult, or `incomplete`. `figures` are those
    of `LoadResult.to_dict`, computed from the full data; series and progress steps are stored downsampled.
    """

    schema: int = SCHEMA
    run_id: RunId
    time: Date
    state: str
    fingerprint: Fingerprint
    environment: dict[str, Any]
    subject: dict[str, Any]
    provenance: Provenance
    figures: dict[str, Any]
    checks: tuple[TestChecks, ...]
    facts: RunFacts
    outcomes: tuple[Outcome, ...]
    pictures: tuple[KeptPicture, ...] = ()

    def load(self) -> LoadResult:
        """Return the run as the `load` of a test.

        Raises: GeneratorError for a record without outcomes, such as one from an export without them.
        """
        return LoadResult(self.facts, self.outcomes)


def record_of(
    load: LoadResult,
    provenance: Provenance,
    checks: tuple[TestChecks, ...] = (),
    *,
    incomplete: bool = False,
    pictures: tuple[KeptPicture, ...] = (),
) -> Record:
    """Return the record of a run, without secrets."""
    facts = _public(load.facts)
    public = load if facts == load.facts else LoadResult(facts, load.all_outcomes)
    figures = public.to_dict()
    environment = environment_of(facts, provenance.machine)
    state = INCOMPLETE if incomplete else figures["state"]
    return Record(
        run_id=facts.run_id,
        time=facts.epoch,
        state=state,
        fingerprint=fingerprint(environment),
        environment=environment,
        subject=public_values(subject_of(facts)),
        provenance=without_secrets(provenance),
        figures={**figures, "state": state},
        checks=without_secrets(checks),
        facts=_kept_facts(facts),
        outcomes=tuple(_kept_outcome(outcome) for outcome in load.all_outcomes),
        pictures=pictures,
    )


def _public(facts: RunFacts) -> RunFacts:
    notes, sources = (tuple(map(public_text, lines)) for lines in (facts.notes, facts.gpu_sources))
    return replace(facts, notes=notes, gpu_sources=sources)


def _kept_facts(facts: RunFacts) -> RunFacts:
    return replace(
        facts,
        gpu_usage=thinned_gpu(facts.gpu_usage),
        server_usage=thinned_usage(facts.server_usage),
        subject={},  # the record itself has it, with what matters of the servers
        server_facts=(),
    )


def _kept_outcome(outcome: Outcome) -> Outcome:
    thinned, inputs = thinned_steps(outcome), public_values(outcome.inputs)
    error = None if outcome.error is None else public_text(outcome.error)
    unchanged = error == outcome.error and inputs == outcome.inputs
    return thinned if unchanged else replace(thinned, inputs=inputs, error=error)


# Seconds. NaN is excluded, which JSON cannot represent; a percentile that falls among failed prompts is infinite.
_Percentile: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e18)]
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]


class TimeFigures(msgspec.Struct):
    """Figures of a distribution of times."""

    n: Count
    p50: _Percentile
    failed: Count = 0
    p95: _Percentile = math.nan


class NodeFigures(msgspec.Struct):
    """Figures of the times spent in nodes of one class."""

    n: Count
    mean: _Seconds
    p50: _Seconds


class PartFigures(msgspec.Struct):
    """Figures of a part of a run."""

    prompts: Count = 0


class Percentages(msgspec.Struct):
    """Percentages over the measured window."""

    mean: float | None = None
    peak: float | None = None


class GpuFigures(msgspec.Struct):
    """Figures of the GPUs, in percent."""

    utilization: Percentages = msgspec.field(default_factory=Percentages)
    vram: Percentages = msgspec.field(default_factory=Percentages)


class Figures(msgspec.Struct):
    """The part of a record's `figures` that other code relies on; there may be more."""

    scenario: str = ""
    workflow: str = ""
    simulated: bool = False
    prompts: Count = 0
    errors: dict[str, Count] = {}
    window: float | None = None
    success_rate: float | None = None
    throughput: float | None = None
    invalid_because: str | None = None
    notes: tuple[str, ...] = ()
    node_time: dict[str, NodeFigures] = {}
    by_server: dict[str, PartFigures] = {}
    executions: dict[str, dict[str, list[int]]] = {}
    allow_cached: bool = False
    gpu: GpuFigures = msgspec.field(default_factory=GpuFigures)
    generation_time: TimeFigures | None = None
    queue_time: TimeFigures | None = None
    total_time: TimeFigures | None = None
