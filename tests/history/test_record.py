"""Records are read as they were written, in every schema that ever existed; truncated files are named."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_comfyload.errors import StoreError
from pytest_comfyload.history import record_file
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import SCHEMA, Record, record_of
from pytest_comfyload.history.record_file import decode, encode
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.result.telemetry import GpuSample
from tests.history.records import RECORDS, golden
from tests.result.outcomes import failure, load_of, outcome

DATA = Path(__file__).parent / "data"


@settings(max_examples=50)
@given(made=RECORDS)
def test_what_is_written_is_read(made: Record) -> None:
    assert decode(encode(made)) == made


def test_the_same_record_is_the_same_file() -> None:
    assert encode(golden()) == encode(golden())


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
def test_every_schema_that_was_ever_written_is_read(schema: int) -> None:
    read = decode((DATA / f"schema-{schema}.run").read_bytes())
    made = golden()
    # The file lacks figures added since, and fingerprints changed when the driver became part of them.
    figures = _as_in(read.figures, made.figures)
    assert read == msgspec.structs.replace(made, fingerprint="f3391ca1", figures=figures)
    assert read.load().to_dict()["generation_time"]["p50"] == pytest.approx(2.0)


def _as_in(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return today's values of the figures that existed earlier."""
    return {name: _as_in(value, now[name]) if isinstance(value, dict) else now[name] for name, value in earlier.items()}


def test_infinite_figures_survive() -> None:
    made = record_of(load_of(outcome(), failure(OutcomeStatus.OOM)), Provenance())
    assert decode(encode(made)).figures["total_time"]["p99"] == math.inf


def test_a_record_is_a_load_again() -> None:
    load = load_of(outcome(), outcome(3.0, generation=5.0), warmup := outcome(-5.0, warmup=True))
    again = decode(encode(record_of(load, Provenance()))).load()
    assert again.to_dict() == load.to_dict()
    assert again.all_outcomes[0] == warmup


def test_steps_are_thinned_and_their_pace_stays() -> None:
    steps = tuple((1.0 + 0.1 * number, float(number)) for number in range(1, 51))
    node = NodeInterval("3", "KSampler", 1.0, 6.2, steps)
    load = load_of(outcome(nodes=(node,)))
    again = decode(encode(record_of(load, Provenance()))).load()
    (kept,) = again.outcomes[0].nodes
    assert len(kept.steps) == 4
    assert kept.steps[0] == steps[0]
    assert kept.steps[-1] == steps[-1]
    assert float(again.steps_per_second["KSampler"].p50) == pytest.approx(10)
    assert float(again.model_load_time.p50) == pytest.approx(float(load.model_load_time.p50))


def test_a_hundred_prompts_are_tens_of_kilobytes() -> None:
    steps = tuple((0.1 * math.sqrt(number), float(number)) for number in range(1, 31))
    nodes = tuple(NodeInterval(f"{number}", "KSampler", math.sqrt(number), 3.0 + number, steps) for number in range(7))
    outcomes = [outcome(math.pi * number, generation=math.sqrt(number + 1), nodes=nodes) for number in range(100)]
    samples = tuple(
        GpuSample("s", "g", 0.5 * number, 0.5, number % 97, 1e9 * math.sqrt(number)) for number in range(5000)
    )
    assert len(encode(record_of(load_of(*outcomes, gpu_usage=samples), Provenance()))) < 60_000


@given(cut=st.integers(0, 2000))
def test_a_torn_file_is_named(cut: int) -> None:
    whole = encode(golden())
    with pytest.raises(StoreError, match=r"a\.run"):
        decode(whole[: min(cut, len(whole) - 1)], "a.run")


@given(place=st.integers(0, 2000), content=st.binary(max_size=60))
def test_no_bytes_whatever_are_read_as_another_record(place: int, content: bytes) -> None:
    whole = encode(golden())
    damaged = whole[: place % len(whole)] + content + whole[place % len(whole) + len(content) :]
    with contextlib.suppress(StoreError):
        assert decode(damaged) == golden()


def test_a_later_schema_is_refused() -> None:
    later = gzip.compress(msgspec.msgpack.encode({"schema": SCHEMA + 1}))
    with pytest.raises(StoreError, match=rf"schema {SCHEMA + 1}; this version reads up to {SCHEMA}: upgrade"):
        decode(later, "a.run")


def test_an_earlier_schema_migrates_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_file, "SCHEMA", SCHEMA + 2)
    monkeypatch.setitem(record_file.MIGRATIONS, SCHEMA, lambda raw: {**raw, "state": raw["state"] + "+"})
    monkeypatch.setitem(record_file.MIGRATIONS, SCHEMA + 1, lambda raw: {**raw, "state": raw["state"] + "!"})
    read = decode(encode(golden()))
    assert (read.schema, read.state) == (SCHEMA + 2, golden().state + "+!")


def test_nothing_secret_is_kept() -> None:
    load = load_of(
        outcome(inputs={"Api.api_key": "hunter2"}, error="GET https://me:hunter2@host/?token=hunter2 failed"),
        subject={"Api.api_key": "hunter2", "Load.url": "https://me:hunter2@host/a"},
        notes=("https://hunter2@host",),
        gpu_sources=("metrics:http://me:hunter2@host",),
    )
    kept = msgspec.json.encode(msgspec.to_builtins(record_of(load, Provenance())))
    figures = msgspec.json.encode(record_of(load, Provenance()).figures)
    assert b"hunter2" not in kept
    assert b"hunter2" not in figures
    assert b"https://host/a" in kept


def test_a_run_that_was_cut_off_is_incomplete() -> None:
    made = record_of(load_of(outcome()), Provenance(), incomplete=True)
    assert (made.state, made.figures["state"]) == ("incomplete", "incomplete")


def test_facts_of_a_record_are_what_they_were_but_for_what_the_record_says() -> None:
    load = load_of(outcome(), load="1 user", parameters="a")
    assert record_of(load, Provenance()).facts == dataclasses.replace(load.facts)
