"""A spool holds a run's outcomes as they end, one JSON line each: whatever kills the run, what ended before stays.

The first line says which run it is. A torn last line is skipped by the reader, as is any line that is no outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from pytest_comfyload.result.outcome import Outcome

__all__ = ["Spool", "read_header", "read_spool", "spool_folder"]

# Raw outcomes of runs before these are dropped: about 2 kB for each prompt.
KEPT = 50


def spool_folder(root: Path) -> Path:
    """`.comfyload/spool` under the root, invisible to git, with the oldest spools dropped."""
    folder = root / ".comfyload" / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder.parent / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    for old in sorted(folder.glob("*.jsonl"), key=_age)[:-KEPT]:
        old.unlink(missing_ok=True)
    return folder


class Spool:
    """Open for one run; `append` returns when the line is with the operating system."""

    def __init__(self, folder: Path, run_id: str, header: dict[str, Any]) -> None:
        self.path = folder / f"{run_id}.jsonl"
        self._file: BinaryIO = self.path.open("xb", buffering=0)
        self._write({"run_id": run_id, **header})

    def append(self, outcome: Outcome) -> None:
        self._write(outcome)

    def _write(self, line: Any) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


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


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
