"""Which runs may go: those that are old in every sense that was named, and that nobody has given a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pytest_comfyload.history.index import Row

__all__ = ["superfluous"]


def superfluous(
    rows: Iterable[Row], *, keep: int | None = None, before: float | None = None, named: bool = False
) -> list[Row]:
    """Beyond the newest `keep` of each test in each environment, and begun before `before`; None: no matter.

    Labelled runs and those of tagged commits are not among them unless `named`, and do not count.
    """
    seen: Counter[tuple[str, str]] = Counter()
    going: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.time, row.run_id), reverse=True):
        if not named and (row.label or row.tag):
            continue
        seen[row.fingerprint, row.test] += 1
        beyond = keep is None or seen[row.fingerprint, row.test] > keep
        if beyond and (before is None or row.time < before):
            going.append(row)
    return going
