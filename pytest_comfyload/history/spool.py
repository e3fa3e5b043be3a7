"""Spools: a run's outcomes, written as JSON lines when they finish, so that they survive whatever kills the run.

The first line identifies the run, and the last line has what is known only at its end. A spool without the latter is
of a run that was cut off. The reader skips a truncated last line, and any other line that is not an outcome.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import msgspec

from pytest_comfyload.errors import BadFile, GeneratorError
from pytest_comfyload.history.files import create, make_folder, open_untrusted, shown, write_all
from pytest_comfyload.history.limits import (
    MOST_LINE,
    MOST_SPOOL,
    Name,
    RunId,
    expect_plain,
    strict,
)
from pytest_comfyload.history.location import STORE
from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.redaction import public_values
from pytest_comfyload.redaction import holds_secret, redacted_values
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import RunFacts
from pytest_comfyload.user_paths import private_folder

__all__ = [
    "Header",
    "Spool",
    "drop_oldest",
    "find_spool",
    "log_folder",
    "read_end",
    "read_header",
    "read_pictures",
    "read_spool",
    "spool_folder",
    "spool_folders",
]

T = TypeVar("T")

# Number of newest spools to keep where no store adopts them. They take about 2 kB per prompt.
KEPT = 50


def spool_folder(root: Path) -> Path:
    """Return the folder for spools: `.comfyload/spool` in the root, ignored by git, or else a temporary folder.

    If neither can be written, the folder returned may be read-only or missing, which a `Spool` in it reports.
    """
    store = root / STORE
    folder = store / "spool"
    with contextlib.suppress(OSError):
        make_folder(folder, store)
        if os.access(folder, os.W_OK | os.X_OK):
            _ignore(store)
            return folder
    with contextlib.suppress(OSError):
        return _temporary(root, make=True)
    return folder


def log_folder(root: Path) -> Path:
    """Return the folder for logs of launched servers: `.comfyload/logs`, or one in the temporary spool folder."""
    spools = spool_folder(root)
    return spools.with_name("logs") if spools.parent.name == STORE else spools / "logs"


def _ignore(store: Path) -> None:
    with contextlib.suppress(OSError), create(store / ".gitignore", store) as ignore:
        ignore.write(b"*\n")


def spool_folders(root: Path) -> list[Path]:
    """Return the spool folders of a root that exist."""
    folders = [root / STORE / "spool"]
    with contextlib.suppress(OSError):
        folders.append(_temporary(root, make=False))
    return [folder for folder in folders if folder.is_dir()]


def find_spool(root: Path, run_id: str) -> Path | None:
    """Return the spool of a run that has not been adopted yet; None if there is none."""
    paths = [folder / f"{run_id}.jsonl" for folder in spool_folders(root)]
    return next((path for path in paths if path.is_file()), None)


def _temporary(root: Path, *, make: bool) -> Path:
    """Return the temporary folder for spools of this root, private to this user. Raises: OSError."""
    return private_folder(f"spool-{hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]}", make=make)


def drop_oldest(folder: Path) -> None:
    for old in sorted(folder.glob("*.jsonl"), key=_age)[:-KEPT]:
        old.unlink(missing_ok=True)


class Spool:
    """A spool open for writing by one run. `append` returns once the operating system has the line.

    A failed write never stops the run: `lost` then says why it failed, and nothing more is written, not even the end.
    """

    def __init__(self, folder: Path, run_id: str, header: dict[str, Any]) -> None:
        self.path = folder / f"{run_id}.jsonl"
        self.lost: str | None = None
        self._file: BinaryIO | None = None
        try:
            self._file = _begin(self.path, _line({"run_id": run_id, **header}))
        except FileExistsError:
            raise
        except OSError as error:
            self._lose(error)

    def append(self, outcome: Outcome) -> None:
        inputs = public_values(outcome.inputs)
        self._write(outcome if inputs == outcome.inputs else replace(outcome, inputs=inputs))

    def end(self, load: LoadResult, pictures: tuple[KeptPicture, ...] = ()) -> None:
        """Write the last line, with what was unknown when the outcomes were written."""
        outcomes = load.all_outcomes
        end = {
            "facts": load.facts,
            "contended": [each.prompt_id for each in outcomes if each.contended],
            "void": [each.prompt_id for each in outcomes if each.void],
            "stalled": [each.prompt_id for each in outcomes if each.stalled],
            "generator_lag": {each.prompt_id: each.generator_lag for each in outcomes},
            "pictures": pictures,
        }
        self._write(end)

    def _write(self, line: Any) -> None:
        if self._file is None or self.lost:
            return
        try:
            write_all(self._file, _line(line))
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error.strerror or str(error)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


def _begin(path: Path, header: bytes) -> BinaryIO:
    """Create a spool with its header and open it.

    Since other sessions may be reading, a spool never exists without its header. Raises: OSError.
    """
    part = path.with_suffix(".part")
    try:
        with create(part) as file:
            write_all(file, header)
        if path.exists():
            raise FileExistsError(str(path))
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return create(path, append=True)


def _line(content: Any) -> bytes:
    line = msgspec.json.encode(content)
    # Lines other than outcomes, such as the header with the provenance, may contain secrets too.
    return (msgspec.json.encode(redacted_values(content)) if holds_secret(line) else line) + b"\n"


class Header(msgspec.Struct, frozen=True):
    """The first line of a spool. A run without provenance is not to be kept."""

    run_id: RunId
    session: Name | None = None
    host: str | None = None
    provenance: Provenance | None = None
    facts: RunFacts | None = None
    project: str | None = None
    title: str = ""
    servers: tuple[str, ...] = ()
    planned: int | None = None


class _End(msgspec.Struct):
    facts: RunFacts
    contended: frozenset[str]
    void: frozenset[str] = frozenset()
    stalled: frozenset[str] = frozenset()
    generator_lag: dict[str, float | None] = {}

    def told(self, outcome: Outcome) -> Outcome:
        """Return the outcome, completed with what was known at the end of the run."""
        if outcome.prompt_id in self.void:
            outcome = outcome.voided()
        return replace(
            outcome,
            contended=outcome.prompt_id in self.contended,
            stalled=outcome.stalled or outcome.prompt_id in self.stalled,
            generator_lag=self.generator_lag.get(outcome.prompt_id, outcome.generator_lag),
        )


class _Pictures(msgspec.Struct):
    pictures: tuple[KeptPicture, ...] = ()


def read_header(path: Path) -> Header:
    """Return the header of a spool. Raises: BadFile if it is not a spool; FileNotFoundError, StoreError."""
    for line in _lines(path):
        try:
            header = _read_as(Header, line)
            if header.facts is not None:
                expect_plain(header.facts.subject)
        except (ValueError, RecursionError) as error:
            raise BadFile(shown(path.name), f"is damaged or not a spool: {shown(str(error))}") from None
        return header
    raise BadFile(shown(path.name), "is empty")


def read_spool(path: Path) -> Iterator[Outcome]:
    """Yield the outcomes of a spool, even if its writer was killed. Raises: BadFile, FileNotFoundError, StoreError."""
    for number, line in enumerate(_lines(path)):
        if number == 0:
            continue
        try:
            outcome = _read_as(Outcome, line)
            expect_plain(outcome.inputs)
        except (ValueError, RecursionError):  # includes msgspec's errors and UnicodeDecodeError
            continue
        yield outcome


def read_end(path: Path) -> LoadResult | None:
    """Return the result of the run; None if it was cut off or prompts are missing. Raises: as `read_spool`."""
    try:
        end = _read_as(_End, _last_line(path))
        expect_plain(end.facts.subject)
    except (ValueError, RecursionError):
        return None
    try:
        return LoadResult(end.facts, map(end.told, read_spool(path)))
    except GeneratorError:
        return None


def read_pictures(path: Path) -> tuple[KeptPicture, ...]:
    """Return the pictures of a run; none if it was cut off. Raises: as `read_spool`."""
    try:
        return msgspec.json.decode(_last_line(path), type=_Pictures).pictures
    except (ValueError, RecursionError):
        return ()


def _read_as(kind: type[T], line: bytes) -> T:
    """Decode a line within the limits of `strict`. Raises: ValueError, RecursionError."""
    msgspec.json.decode(line, type=strict(kind))
    return msgspec.json.decode(line, type=kind)


def _last_line(path: Path) -> bytes:
    last = b""
    for last in _lines(path):  # noqa: B007
        pass
    return last


def _lines(path: Path) -> Iterator[bytes]:
    with open_untrusted(path, MOST_SPOOL) as file:
        while line := file.readline(MOST_LINE + 1):
            if len(line) > MOST_LINE:
                raise BadFile(shown(path.name), f"has a line of more than {MOST_LINE >> 20} MiB")
            yield line


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
