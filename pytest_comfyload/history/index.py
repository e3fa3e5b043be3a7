"""One small row for each run file, so that thousands are listed at once: a cache, made anew where it does not fit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from pytest_comfyload.errors import StoreError
from pytest_comfyload.history.environment import fingerprint, hardware_of, inputs_of
from pytest_comfyload.history.places import Place
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import Record, TestChecks, decode_as

__all__ = ["Row", "flat_figures", "row_of", "rows_of"]

FILE = "index.msgpack"
# Of the index, not of the records; another number makes the index anew.
VERSION = 4


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a list says of a run. `file` is its name in the store; `slos` how many held, and of how many.

    `figures` are the plain ones by their dotted names: `generation_time.p50`, `throughput`. `head` is the tip of a
    pull request's branch, where `commit` is CI's merge of it. `hardware` and `inputs` tell the machines and what was
    asked of them from others. `session`: of the pytest session; runs of older versions have none. `executions`: a
    LoadResult's.
    """

    file: str
    run_id: str
    time: float
    state: str
    fingerprint: str
    test: str
    parameters: str = ""
    gate: str = "generation_time.p50"
    scenario: str
    workflow: str
    simulated: bool
    prompts: int
    slos: tuple[int, int] = (0, 0)
    commit: str | None = None
    head: str | None = None
    branch: str | None = None
    base: str | None = None
    merge_base: str | None = None
    dirty: bool | None = None
    pull_request: str | None = None
    tag: str | None = None
    label: str | None = None
    title: str | None = None
    author: str | None = None
    date: float | None = None
    executions: dict[str, dict[str, list[int]]] = {}
    committed: float | None = None
    session: str | None = None
    hardware: str = ""
    inputs: str = ""
    figures: dict[str, float] = {}

    @property
    def series(self) -> tuple[str, str]:
        """Runs of one test with the same parameters."""
        return self.test, self.parameters


class _Facts(msgspec.Struct):
    title: str
    parameters: str = ""
    gate: str = "generation_time.p50"


class _Listed(msgspec.Struct):
    """Of a record, what a row is made of."""

    run_id: str
    time: float
    state: str
    environment: dict[str, Any]
    subject: dict[str, Any]
    provenance: Provenance
    figures: dict[str, Any]
    checks: tuple[TestChecks, ...]
    facts: _Facts


class _Index(msgspec.Struct):
    version: int
    rows: list[Row]


def rows_of(place: Place, folder: str, names: Iterable[str], say: Callable[[str], None]) -> list[Row]:
    """A row for each of the files `names`; those that cannot be read are told to `say` and left out."""
    known = {row.file: row for row in _cached(place)}
    rows = {name: known[name] for name in names if name in known}
    fresh = [name for name in names if name not in known]
    for name in fresh:
        try:
            rows[name] = row_of(name, decode_as(_Listed, place.read(f"{folder}/{name}"), name))
        except StoreError as error:
            say(str(error))
    if rows.keys() != known.keys():
        _keep(place, list(rows.values()))
    return list(rows.values())


def _cached(place: Place) -> list[Row]:
    try:
        index = msgspec.msgpack.decode(place.read(FILE), type=_Index)
    except (StoreError, msgspec.MsgspecError, ValueError):
        return []
    return index.rows if index.version == VERSION else []


def _keep(place: Place, rows: list[Row]) -> None:
    # A store that may only be read is read all the same.
    with contextlib.suppress(StoreError):
        place.write(FILE, msgspec.msgpack.encode(_Index(VERSION, rows)))


def row_of(name: str, record: Record | _Listed) -> Row:
    """The row of a record that is, or will be, in the file `name`."""
    come, figures, checks = record.provenance, record.figures, [each for test in record.checks for each in test.checks]
    return Row(
        file=name,
        run_id=record.run_id,
        time=record.time,
        state=record.state,
        # Not as it was written: older versions had more in it.
        fingerprint=fingerprint(record.environment),
        test=record.facts.title,
        parameters=record.facts.parameters,
        gate=record.facts.gate,
        scenario=str(figures.get("scenario", "")),
        workflow=str(figures.get("workflow", "")),
        simulated=bool(figures.get("simulated")),
        prompts=int(figures.get("prompts") or 0),
        slos=(sum(1 for check in checks if check.passed), len(checks)),
        commit=come.commit,
        head=come.ci.head if come.ci else None,
        branch=come.branch,
        base=come.base,
        merge_base=come.merge_base,
        dirty=come.dirty,
        pull_request=come.ci.pull_request if come.ci else None,
        tag=come.tag,
        label=come.label,
        title=come.title,
        author=come.author,
        date=come.date,
        # Where results from the cache are accepted, what ran is nothing that runs must have in common.
        executions={} if figures.get("allow_cached") else _executions(figures.get("executions")),
        committed=come.committed,
        session=come.session,
        hardware=hardware_of(record.environment),
        inputs=fingerprint(inputs_of(record.subject)),
        figures=dict(flat_figures(figures)),
    )


# What is told of the parts of a run is not told of the run.
_PARTS = ("by_group", "by_server", "by_worker", "cached_classes", "executions")


def _executions(told: object) -> dict[str, dict[str, list[int]]]:
    """As a record has it, which may come from elsewhere."""
    try:
        return msgspec.convert(told or {}, dict[str, dict[str, list[int]]])
    except msgspec.ValidationError:
        return {}


def flat_figures(figures: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, float]]:
    """Yield the numbers of `LoadResult.to_dict` by their dotted names, without those of parts."""
    for name, value in figures.items():
        if isinstance(value, Mapping) and name not in _PARTS:
            yield from flat_figures(value, f"{before}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            yield f"{before}{name}", float(value)
