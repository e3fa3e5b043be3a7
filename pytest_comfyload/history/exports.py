"""Export of runs to other programs: JSON, which can be imported again, and CSV with one line per run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pytest_comfyload.errors import BadFile, UsageError
from pytest_comfyload.history.files import shown
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import SCHEMA, Record
from pytest_comfyload.history.record_file import decode, encode
from pytest_comfyload.history.store import file_name
from pytest_comfyload.text import harmless_line

__all__ = ["as_csv", "as_json", "from_json", "parsed", "storable"]

# JSON cannot represent infinity, and a percentile that falls among failed prompts is infinite.
_NOT_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf}


def as_json(records: Iterable[Record], *, outcomes: bool) -> str:
    """Return records as JSON.

    Without `outcomes`, each record has its figures but no outcomes and no pictures, and takes a few kilobytes.
    """
    runs = [_run(each if outcomes else msgspec.structs.replace(each, outcomes=(), pictures=())) for each in records]
    return msgspec.json.format(msgspec.json.encode({"comfyload": SCHEMA, "runs": runs}), indent=1).decode() + "\n"


def from_json(content: Any, source: str) -> list[Record]:
    """Return the records of an export. Raises: UsageError if it is not an export, or has another schema version."""
    if not isinstance(content, dict) or "comfyload" not in content:
        raise UsageError(f"{source} is neither an export of comfyload nor of pytest-benchmark")
    if content["comfyload"] != SCHEMA:
        raise UsageError(f"{source} is of schema {shown(str(content['comfyload']), 20)}; this version reads {SCHEMA}")
    try:
        runs = [msgspec.convert(_read(run), Record) for run in content["runs"]]
        return storable(runs)
    except (BadFile, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{source} is damaged: {shown(str(error))}") from None


def storable(records: Iterable[Record]) -> list[Record]:
    """Return the records as they would be read back from a store. Raises: BadFile."""
    made = list(records)
    for record in made:
        file_name(record)
    return [decode(encode(record), f"run {record.run_id}") for record in made]


def parsed(content: bytes, source: str) -> Any:
    """Return the decoded JSON. Raises: UsageError."""
    try:
        return msgspec.json.decode(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source} is not JSON: {shown(str(error))}") from None


_COLUMNS = (
    "run_id", "time", "commit", "branch", "tag", "label", "dirty", "pull_request", "test", "parameters", "workflow",
    "scenario", "state", "simulated", "fingerprint", "prompts",
)  # fmt: skip


def as_csv(rows: Sequence[Row]) -> str:
    """Return runs as CSV. The columns are all figures that any of the runs has, under their dotted names."""
    figures = list(dict.fromkeys(name for row in rows for name in row.figures if name != "prompts"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, "slos_met", "slos", *map(_inert, figures)])
    for row in rows:
        plain = [_inert(getattr(row, name)) for name in _COLUMNS]
        writer.writerow([*plain, *row.slos, *(row.figures.get(name) for name in figures)])
    return text.getvalue()


def _inert(value: object) -> object:
    """Escape text that a spreadsheet would run as a formula, since branch names and titles are not trusted."""
    value = harmless_line(value) if isinstance(value, str) else value
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _run(record: Record) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(record)
    return {**plain, "figures": _spelled(plain["figures"])}


def _read(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "figures": _unspelled(run["figures"])}


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _spelled(each) for name, each in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _unspelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unspelled(each) for name, each in value.items()}
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
