"""What is left of a load that was cut off: how far it came."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_comfyload.errors import StoreError
from pytest_comfyload.history.spool import read_header, read_spool
from pytest_comfyload.result.outcome import OutcomeStatus

__all__ = ["interrupted_lines"]


def interrupted_lines(spool: Path) -> Iterator[str]:
    """Nothing for a spool that is not on this machine, or is damaged."""
    try:
        header = read_header(spool)
        ended = sum(1 for each in read_spool(spool) if not each.warmup and each.status is not OutcomeStatus.CENSORED)
    except (StoreError, OSError):
        return
    of = f" of {header.planned}" if header.planned is not None else ""
    yield header.title
    yield f"  interrupted: {ended}{of} prompts ended; run {header.run_id}"
