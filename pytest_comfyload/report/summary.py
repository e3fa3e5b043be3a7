"""What a report is made of: the runs that a test looked at and the checks that it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_comfyload.result.checks import Check

__all__ = ["TestSummary"]


@dataclass(frozen=True, slots=True)
class TestSummary:
    """`runs` are figures as `LoadResult.to_dict` gives them."""

    __test__ = False

    nodeid: str
    runs: tuple[dict[str, Any], ...]
    checks: tuple[Check, ...]
