"""What a report is made of: the runs that a test looked at and the checks that it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_comfyload.result.checks import Check

__all__ = ["TestSummary"]


@dataclass(frozen=True, slots=True)
class TestSummary:
    """`runs` are figures as `LoadResult.to_dict` gives them. `unreached` are SLOs as the test's source has them.

    `confident`: a bound had to be cleared by the interval, not only by the value. `lines` are on what the test has
    compared.
    """

    __test__ = False

    nodeid: str
    runs: tuple[dict[str, Any], ...]
    checks: tuple[Check, ...]
    unreached: tuple[str, ...] = ()
    confident: bool = False
    lines: tuple[str, ...] = ()
