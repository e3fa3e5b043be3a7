"""The index of a store: a cache with one small row per run file, so that thousands of runs are listed quickly.

Rows that do not match their files are rebuilt.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from pytest_comfyload.errors import BadFile, StoreError
from pytest_comfyload.history.environment import fingerprint, hardware_of, inputs_of
from pytest_comfyload.history.files import shown
from pytest_comfyload.history.limits import CommitDate, Count, Date, Fingerprint, Revision, RunId
from pytest_comfyload.history.record import Figures, Record
from pytest_comfyload.history.record_file import decode_strict
from pytest_comfyload.history.storage import Storage
from pytest_comfyload.result.checks import Check

__all__ = ["CheckedFigure", "Row", "flat_figures", "row_of", "rows_of"]

FILE = "index.msgpack"
# Version of the index, not of the records. An index of another version is rebuilt.
VERSION = 9


class CheckedFigure(msgspec.Struct, frozen=True, array_like=True):
    """A figure that a test checked against a bound, under the name that the test uses."""

    metric: str
    unit: str
    value: float
    op: str
    bound: float


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the list of runs shows about one run.

    `file` is its file name in the store. `slos` is the number of SLOs that were met, and the number of all SLOs;
    `checked` are the figures behind them, except SLOs that were not reached. `figures` are the run's numbers by their
    dotted names: `generation_time.p50`, `throughput`. `head` is the tip of a pull request's branch if `commit` is CI's
    merge of it. `hardware` and `inputs` are fingerprints of the machines and of the workflow's inputs. `session` is
    the id of the pytest session, which runs of older versions lack. `executions` is that of the LoadResult.
    `comparison` is the A/B comparison of which the run is one half.
    """

    file: str
    run_id: RunId
    time: Date
    state: str
    fingerprint: Fingerprint
    test: str
    parameters: str = ""
    gate: str = "generation_time.p50"
    gates: tuple[str, ...] = ()
    scenario: str
    workflow: str
    simulated: bool
    prompts: Count
    slos: tuple[Count, Count] = (0, 0)
    checked: tuple[CheckedFigure, ...] = ()
    commit: Revision | None = None
    head: Revision | None = None
    branch: str | None = None
    base: str | None = None
    merge_base: str | None = None
    dirty: bool | None = None
    pull_request: str | None = None
    tag: str | None = None
    label: str | None = None
    title: str | None = None
    author: str | None = None
    date: CommitDate | None = None
    executions: dict[str, dict[str, list[int]]] = {}
    committed: CommitDate | None = None
    session: str | None = None
    hardware: str = ""
    inputs: str = ""
    comparison: str | None = None
    figures: dict[str, float] = {}

    @property
    def series_title(self) -> str:
        """The test with its parameters: `test_slo [ckpt=sdxl]`."""
        return f"{self.test} [{self.parameters}]" if self.parameters else self.test

    @property
    def series(self) -> tuple[str, str]:
        """The key that runs of one test with the same parameters share."""
        return self.test, self.parameters

    @property
    def all_gates(self) -> tuple[str, ...]:
        """The figures that decide a comparison; runs of older versions have only one."""
        return self.gates or (self.gate,)


class _Index(msgspec.Struct):
    """The index file. `sizes` are those of the run files at the time: a file of another size has since been damaged."""

    version: int
    rows: list[Row]
    sizes: dict[str, int] = {}


def rows_of(place: Storage, folder: str, sizes: Mapping[str, int], say: Callable[[str, StoreError], None]) -> list[Row]:
    """Return a row for each run file.

    Args:
        place: The store's files.
        folder: The folder of the run files.
        sizes: The sizes of the run files by name.
        say: Called with the name of each file that cannot be read, and the error.
    """
    known = _cached(place, say)
    rows = {name: row for name, size in sizes.items() if (row := known.get((name, size))) is not None}
    fresh = [name for name in sizes if name not in rows]
    for name in fresh:
        try:
            rows[name] = row_of(name, decode_strict(place.read(f"{folder}/{name}"), name))
        except StoreError as error:
            say(f"{folder}/{name}", error)
    if {(name, sizes[name]) for name in rows} != known.keys():
        _keep(place, rows, sizes)
    return list(rows.values())


def _cached(place: Storage, say: Callable[[str, StoreError], None]) -> dict[tuple[str, int], Row]:
    """Return the cached rows by the name and size of their files."""
    try:
        content = place.read(FILE)
    except BadFile as error:
        say(FILE, error)
        return {}
    except StoreError:  # there is none yet
        return {}
    try:
        if msgspec.msgpack.decode(content, type=_Version).version != VERSION:
            return {}
        index = msgspec.msgpack.decode(content, type=_Index)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        say(FILE, BadFile(FILE, f"is damaged: {shown(str(error))}"))
        return {}
    return {(row.file, index.sizes.get(row.file, -1)): row for row in index.rows}


class _Version(msgspec.Struct):
    version: int


def _keep(place: Storage, rows: Mapping[str, Row], sizes: Mapping[str, int]) -> None:
    # A read-only store can still be read.
    with contextlib.suppress(StoreError):
        known = _Index(VERSION, list(rows.values()), {name: sizes[name] for name in rows})
        place.write(FILE, msgspec.msgpack.encode(known))


def row_of(name: str, record: Record) -> Row:
    """Return the row of a record that is, or will be, stored in the file `name`."""
    come, checks = record.provenance, [each for test in record.checks for each in test.checks]
    figures = msgspec.convert(record.figures, Figures)
    return Row(
        file=name,
        run_id=record.run_id,
        time=record.time,
        state=record.state,
        # Not the stored fingerprint, which older versions computed from more fields.
        fingerprint=fingerprint(record.environment),
        test=record.facts.title,
        parameters=record.facts.parameters,
        comparison=record.facts.half.comparison if record.facts.half else None,
        gate=record.facts.gate,
        gates=record.facts.gates,
        scenario=figures.scenario,
        workflow=figures.workflow,
        simulated=figures.simulated,
        prompts=figures.prompts,
        slos=(sum(check.passed for check in checks), len(checks) + sum(len(each.unreached) for each in record.checks)),
        checked=tuple(dict.fromkeys(map(_checked, checks))),
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
        # Where cached results are accepted, comparable runs may execute different nodes.
        executions={} if figures.allow_cached else figures.executions,
        committed=come.committed,
        session=come.session,
        hardware=hardware_of(record.environment),
        inputs=fingerprint(inputs_of(record.subject)),
        figures=dict(flat_figures(record.figures)),
    )


def _checked(check: Check) -> CheckedFigure:
    return CheckedFigure(check.metric, check.unit, check.value, check.op, check.bound)


# Figures about parts of a run rather than the whole run.
_PARTS = ("by_group", "by_server", "by_worker", "cached_classes", "executions")


def flat_figures(figures: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, float]]:
    """Yield the numbers of `LoadResult.to_dict` by their dotted names, without those about parts of the run."""
    for name, value in figures.items():
        if isinstance(value, Mapping) and name not in _PARTS:
            yield from flat_figures(value, f"{before}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            yield f"{before}{name}", float(value)
