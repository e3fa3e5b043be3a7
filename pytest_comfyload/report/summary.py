"""What a report is made of: the runs that a test looked at and the checks that it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_comfyload.result.checks import Check

__all__ = ["TestSummary"]


@dataclass(frozen=True, slots=True)
class TestSummary:
    """`runs` are figures as `LoadResult.to_dict` gives them. `unreached` are SLOs as the test's source has them.

    `confident`: a bound had to be cleared by the interval, not only by the value. `sampled_simulation`: the GPUs that
    the test itself sampled were a simulator's. `lines` are on what the test has compared.
    """

    __test__ = False

    nodeid: str
    runs: tuple[dict[str, Any], ...]
    checks: tuple[Check, ...]
    unreached: tuple[str, ...] = ()
    confident: bool = False
    sampled_simulation: bool = False
    lines: tuple[str, ...] = ()

    @property
    def is_simulated(self) -> bool:
        """Whether any of its figures are a model's."""
        return self.sampled_simulation or any(run["simulated"] for run in self.runs)
