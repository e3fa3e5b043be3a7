"""What a report is made of: the runs that a test looked at and the checks that it made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.result.checks import Check

__all__ = ["TestSummary", "last_attempts"]


@dataclass(frozen=True, slots=True)
class TestSummary:
    """`runs` are figures as `LoadResult.to_dict` gives them. `unreached` are SLOs as the test's source has them.

    `confident`: a bound had to be cleared by the interval, not only by the value. `sampled_simulation`: the GPUs that
    the test itself sampled were a simulator's. `lines` are on what the test has compared. `attempt`: from 1, of a test
    that is run again when it fails.
    """

    __test__ = False

    nodeid: str
    runs: tuple[dict[str, Any], ...]
    checks: tuple[Check, ...]
    unreached: tuple[str, ...] = ()
    confident: bool = False
    sampled_simulation: bool = False
    lines: tuple[str, ...] = ()
    attempt: int = 1

    @property
    def is_simulated(self) -> bool:
        """Whether any of its figures are a model's."""
        return self.sampled_simulation or any(run["simulated"] for run in self.runs)

    def named(self, name: str, last: int) -> str:
        """Return the test's `name`, with the attempt where there were several."""
        return f"{name} (attempt {self.attempt} of {last})" if last > 1 else name


def last_attempts(summaries: Iterable[TestSummary]) -> dict[str, int]:
    """Return the number of attempts at each test, by its id."""
    last: dict[str, int] = {}
    for summary in summaries:
        last[summary.nodeid] = max(summary.attempt, last.get(summary.nodeid, 1))
    return last
