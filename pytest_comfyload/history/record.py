"""A record is all that is kept of one run, in a schema with a number; every schema ever written can still be read."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from pytest_comfyload.errors import BadFile
from pytest_comfyload.history.downsampling import thinned_gpu, thinned_steps, thinned_usage
from pytest_comfyload.history.environment import environment_of, fingerprint, subject_of
from pytest_comfyload.history.files import shown
from pytest_comfyload.history.limits import (
    Count,
    Date,
    Fingerprint,
    RunId,
    expect_plain,
    most_unpacked,
    strict,
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
    "decode",
    "decode_as",
    "decode_strict",
    "encode",
    "record_of",
]

SCHEMA = 1
T = TypeVar("T")

# A run's state beside those of LoadResult: it was cut off.
INCOMPLETE = "incomplete"

# From a schema to the next: what was decoded goes in, what the next one is decoded from comes out.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


class TestChecks(msgspec.Struct, frozen=True):
    """The SLO checks of one test that looked at the run."""

    __test__ = False

    nodeid: str
    checks: tuple[Check, ...]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `time`: when it began, seconds since 1970. `state`: a LoadResult's, or `incomplete`.

    `figures` are those of `LoadResult.to_dict`, made of everything; series and steps are kept thinned.
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
        """As the `load` of a test. Raises: GeneratorError for a record without outcomes, as an export may be."""
        return LoadResult(self.facts, self.outcomes)


def record_of(
    load: LoadResult,
    provenance: Provenance,
    checks: tuple[TestChecks, ...] = (),
    *,
    incomplete: bool = False,
    pictures: tuple[KeptPicture, ...] = (),
) -> Record:
    """What is kept of a run; nothing that is secret."""
    facts = _public(load.facts)
    public = load if facts == load.facts else LoadResult(facts, load.all_outcomes)
    figures = public.to_dict()
    environment = environment_of(facts, provenance.machine)
    state = INCOMPLETE if incomplete else load.state
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
        subject={},  # the record has it, and what matters of the servers
        server_facts=(),
    )


def _kept_outcome(outcome: Outcome) -> Outcome:
    thinned, inputs = thinned_steps(outcome), public_values(outcome.inputs)
    error = None if outcome.error is None else public_text(outcome.error)
    unchanged = error == outcome.error and inputs == outcome.inputs
    return thinned if unchanged else replace(thinned, inputs=inputs, error=error)


# Seconds; not NaN, which JSON cannot carry. A percentile among failures is infinite.
_Percentile: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e18)]
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]


class TimeFigures(msgspec.Struct):
    """Of a distribution of times."""

    n: Count
    p50: _Percentile
    failed: Count = 0
    p95: _Percentile = math.nan


class NodeFigures(msgspec.Struct):
    """Of the times in the nodes of one class."""

    n: Count
    mean: _Seconds
    p50: _Seconds


class PartFigures(msgspec.Struct):
    """Of a part of a run."""

    prompts: Count = 0


class Percentages(msgspec.Struct):
    """Of the measured window."""

    mean: float | None = None
    peak: float | None = None


class GpuFigures(msgspec.Struct):
    """In percent."""

    utilization: Percentages = msgspec.field(default_factory=Percentages)
    vram: Percentages = msgspec.field(default_factory=Percentages)


class Figures(msgspec.Struct):
    """What is relied on of a record's `figures`, which may have others."""

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


def encode(record: Record) -> bytes:
    """Raises: BadFile for a record with a value that no file can hold."""
    try:
        packed = msgspec.msgpack.encode(record)
    except (OverflowError, ValueError, TypeError, RecursionError) as error:
        raise BadFile(f"run {shown(record.run_id)}", f"cannot be written: {shown(str(error))}") from None
    # Level 6: 9 takes four times as long for two percent.
    return gzip.compress(packed, compresslevel=6, mtime=0)


def decode(content: bytes, name: str = "the run file") -> Record:
    """Raises: BadFile, naming the file, for one that is damaged or of a later schema."""

    def read(packed: bytes, schema: int) -> Record:
        _checked(packed, schema)
        record: Record = _read_as(Record, packed, schema)
        return record

    return _decoded(read, content, name)


def decode_strict(content: bytes, name: str) -> Any:
    """Return what has a record's fields without being one, in a third of the time. Raises: as `decode`."""
    return _decoded(_checked, content, name)


def decode_as(kind: type[T], content: bytes, name: str) -> T:
    """Return some of a record's fields, those of `kind`; only these are checked. Raises: as `decode`."""

    def read(packed: bytes, schema: int) -> T:
        some: T = _read_as(kind, packed, schema)
        return some

    return _decoded(read, content, name)


def _decoded(read: Callable[[bytes, int], T], content: bytes, name: str) -> T:
    """What `read` makes of the MessagePack in a run file, and its schema. Raises: BadFile."""
    name = shown(name)
    try:
        packed = _unpacked(content)
        schema = msgspec.msgpack.decode(packed, type=_Schema).schema
        if schema > SCHEMA:
            why = f"is of schema {schema}; this version reads up to {SCHEMA}: upgrade pytest-comfyload"
            raise BadFile(name, why, movable=False)
        return read(packed, schema)
    except (OSError, EOFError, zlib.error, msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
        raise BadFile(name, f"is damaged or no run file: {shown(str(error))}") from None
    except RecursionError:
        raise BadFile(name, "is damaged or no run file: it is nested too deep") from None
    except MemoryError:
        raise BadFile(name, "takes more memory than there is", movable=False) from None


def _checked(packed: bytes, schema: int) -> Any:
    record = _read_as(strict(Record), packed, schema)
    _expect_limits(record)
    return record


def _read_as(kind: Any, packed: bytes, schema: int) -> Any:
    if schema == SCHEMA:
        return msgspec.msgpack.decode(packed, type=kind)
    return msgspec.convert(_migrated(msgspec.msgpack.decode(packed), schema), kind)


def _unpacked(content: bytes) -> bytes:
    most = most_unpacked(len(content))
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        packed = file.read(most + 1)
    if len(packed) > most:
        raise ValueError(f"it unpacks to more than {most >> 20} MiB")
    return packed


def _expect_limits(record: Any) -> None:
    """What types do not say. Raises: ValueError, naming the field."""
    for name, value in (
        ("figures", record.figures),
        ("environment", record.environment),
        ("subject", record.subject),
        ("facts.subject", record.facts.subject),
        *(("inputs", outcome.inputs) for outcome in record.outcomes),
    ):
        try:
            expect_plain(value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    msgspec.convert(record.figures, Figures)


class _Schema(msgspec.Struct):
    schema: Annotated[int, msgspec.Meta(ge=0)]


def _migrated(raw: dict[str, Any], schema: int, migrations: Mapping[int, Any] = MIGRATIONS) -> dict[str, Any]:
    for number in range(schema, SCHEMA):
        raw = migrations[number](raw)
    return {**raw, "schema": SCHEMA}
