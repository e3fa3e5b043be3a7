"""The file of a record: MessagePack, compressed with gzip. All earlier schemas can still be read, within limits."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from pytest_comfyload.errors import BadFile
from pytest_comfyload.history.files import shown
from pytest_comfyload.history.limits import expect_plain, most_unpacked, strict
from pytest_comfyload.history.record import SCHEMA, Figures, Record

__all__ = ["MIGRATIONS", "decode", "decode_as", "decode_strict", "encode"]

T = TypeVar("T")

# By schema, the function that converts its decoded content to that of the next schema.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def encode(record: Record) -> bytes:
    """Return the content of a record's file. Raises: BadFile for a record with a value that cannot be encoded."""
    try:
        packed = msgspec.msgpack.encode(record)
    except (OverflowError, ValueError, TypeError, RecursionError) as error:
        raise BadFile(f"run {shown(record.run_id)}", f"cannot be written: {shown(str(error))}") from None
    # Level 9 takes four times as long as level 6 and saves only two percent.
    return gzip.compress(packed, compresslevel=6, mtime=0)


def decode(content: bytes, name: str = "the run file") -> Record:
    """Return the record in a run file. Raises: BadFile, naming the file, if it is damaged or of a later schema."""

    def read(packed: bytes, schema: int) -> Record:
        _checked(packed, schema)
        record: Record = _read_as(Record, packed, schema)
        return record

    return _decoded(read, content, name)


def decode_strict(content: bytes, name: str) -> Any:
    """Return an object with a record's fields that is not a Record, in a third of the time. Raises: as `decode`."""
    return _decoded(_checked, content, name)


def decode_as(kind: type[T], content: bytes, name: str) -> T:
    """Return only the fields of a record that `kind` has, and check only these. Raises: as `decode`."""

    def read(packed: bytes, schema: int) -> T:
        some: T = _read_as(kind, packed, schema)
        return some

    return _decoded(read, content, name)


def _decoded(read: Callable[[bytes, int], T], content: bytes, name: str) -> T:
    """Return the result of `read` for the MessagePack in a run file and its schema. Raises: BadFile."""
    name = shown(name)
    try:
        packed = _unpacked(content)
        schema = msgspec.msgpack.decode(packed, type=_Schema).schema
        if schema > SCHEMA:
            why = f"is of schema {schema}; this version reads up to {SCHEMA}: upgrade pytest-comfyload"
            raise BadFile(name, why, movable=False)
        return read(packed, schema)
    except (OSError, EOFError, zlib.error, msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
        raise BadFile(name, f"is damaged or not a run file: {shown(str(error))}") from None
    except RecursionError:
        raise BadFile(name, "is damaged or not a run file: it is nested too deep") from None
    except MemoryError:
        raise BadFile(name, "needs more memory than is available", movable=False) from None


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
    """Check limits that types cannot express. Raises: ValueError, naming the field."""
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
