"""A spool holds a run's outcomes as they end, one JSON line each: whatever kills the run, what ended before stays.

The first line says which run it is, the last one what is known of it at its end; without that one it was cut off. A
torn last line is skipped by the reader, as is any line that is no outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.secrets import public_values
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import RunFacts

__all__ = ["Spool", "drop_oldest", "read_end", "read_header", "read_pictures", "read_spool", "spool_folder"]

# Where no store takes them in, spools before these are dropped: about 2 kB for each prompt.
KEPT = 50


def spool_folder(root: Path) -> Path:
    """`.comfyload/spool` under the root, invisible to git."""
    folder = root / ".comfyload" / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder.parent / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    return folder


def drop_oldest(folder: Path) -> None:
    for old in sorted(folder.glob("*.jsonl"), key=_age)[:-KEPT]:
        old.unlink(missing_ok=True)


class Spool:
    """Open for one run; `append` returns when the line is with the operating system."""

    def __init__(self, folder: Path, run_id: str, header: dict[str, Any]) -> None:
        self.path = folder / f"{run_id}.jsonl"
        self._file: BinaryIO = self.path.open("xb", buffering=0)
        self._write({"run_id": run_id, **header})

    def append(self, outcome: Outcome) -> None:
        self._write(replace(outcome, inputs=public_values(outcome.inputs)))

    def end(self, load: LoadResult, pictures: tuple[KeptPicture, ...] = ()) -> None:
        """The run came to its end; what outcomes did not know of themselves is said here."""
        contended = [outcome.prompt_id for outcome in load.all_outcomes if outcome.contended]
        void = [outcome.prompt_id for outcome in load.all_outcomes if outcome.void]
        self._write({"facts": load.facts, "contended": contended, "void": void, "pictures": pictures})

    def _write(self, line: Any) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


class _End(msgspec.Struct):
    facts: RunFacts
    contended: frozenset[str]
    void: frozenset[str] = frozenset()

    def told(self, outcome: Outcome) -> Outcome:
        """The outcome as it was known at the end of the run."""
        if outcome.prompt_id in self.void:
            outcome = outcome.voided()
        return replace(outcome, contended=outcome.prompt_id in self.contended)


class _Pictures(msgspec.Struct):
    pictures: tuple[KeptPicture, ...] = ()


def read_header(path: Path) -> dict[str, Any]:
    """What a spool says of its run; empty where it is gone or torn."""
    try:
        with path.open("rb") as file:
            header = msgspec.json.decode(file.readline())
    except (OSError, msgspec.DecodeError):
        return {}
    return header if isinstance(header, dict) else {}


def read_spool(path: Path) -> Iterator[Outcome]:
    """The outcomes of a spool, also of one whose writer died."""
    with path.open("rb") as file:
        next(file, None)
        for line in file:
            try:
                yield msgspec.json.decode(line, type=Outcome)
            except ValueError:  # msgspec's own errors, and its UnicodeDecodeError
                continue


def read_end(path: Path) -> LoadResult | None:
    """What the run came to; None for one that was cut off."""
    try:
        end = msgspec.json.decode(_last_line(path), type=_End)
    except ValueError:
        return None
    return LoadResult(end.facts, map(end.told, read_spool(path)))


def read_pictures(path: Path) -> tuple[KeptPicture, ...]:
    """Those of a run that came to its end."""
    try:
        return msgspec.json.decode(_last_line(path), type=_Pictures).pictures
    except ValueError:
        return ()


def _last_line(path: Path) -> bytes:
    last = b""
    with path.open("rb") as file:
        for last in file:  # noqa: B007
            pass
    return last


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
