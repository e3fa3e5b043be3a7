"""A record is all that is kept of one run, in a schema with a number; every schema ever written can still be read."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from pytest_comfyload.errors import StoreError
from pytest_comfyload.history.environment import environment_of, fingerprint, subject_of
from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.secrets import public_text, public_values
from pytest_comfyload.history.thinning import thinned_gpu, thinned_steps, thinned_usage
from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import RunFacts

__all__ = ["INCOMPLETE", "SCHEMA", "Record", "TestChecks", "decode", "decode_as", "encode", "record_of"]

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
    run_id: str
    time: float
    state: str
    fingerprint: str
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
    figures = LoadResult(facts, load.all_outcomes).to_dict()
    environment = environment_of(facts, provenance.machine)
    state = INCOMPLETE if incomplete else load.state
    return Record(
        run_id=facts.run_id,
        time=facts.epoch,
        state=state,
        fingerprint=fingerprint(environment),
        environment=environment,
        subject=public_values(subject_of(facts)),
        provenance=provenance,
        figures={**figures, "state": state},
        checks=checks,
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
    error = None if outcome.error is None else public_text(outcome.error)
    return replace(thinned_steps(outcome), inputs=public_values(outcome.inputs), error=error)


def encode(record: Record) -> bytes:
    # Level 6: 9 takes four times as long for two percent.
    return gzip.compress(msgspec.msgpack.encode(record), compresslevel=6, mtime=0)


def decode(content: bytes, name: str = "the run file") -> Record:
    """Raises: StoreError, naming the file, for one that is torn or of a later schema."""
    return decode_as(Record, content, name)


def decode_as(kind: type[T], content: bytes, name: str) -> T:
    """Some of a record's fields: those of `kind`. Raises: StoreError."""
    try:
        packed = gzip.decompress(content)
        schema = msgspec.msgpack.decode(packed, type=_Schema).schema
        if schema == SCHEMA:
            return msgspec.msgpack.decode(packed, type=kind)
        if schema < SCHEMA:
            return msgspec.convert(_migrated(msgspec.msgpack.decode(packed), schema), kind)
    except (OSError, EOFError, zlib.error, msgspec.MsgspecError, ValueError, KeyError) as error:
        raise StoreError(f"{name} is torn or no run file ({error})") from None
    raise StoreError(f"{name} is of schema {schema}; this version reads up to {SCHEMA}: upgrade pytest-comfyload")


class _Schema(msgspec.Struct):
    schema: int


def _migrated(raw: dict[str, Any], schema: int, migrations: Mapping[int, Any] = MIGRATIONS) -> dict[str, Any]:
    for number in range(schema, SCHEMA):
        raw = migrations[number](raw)
    return {**raw, "schema": SCHEMA}
