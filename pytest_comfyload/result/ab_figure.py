"""One figure of an A/B comparison, run by run, and its ratio B ÷ A, a metric with an interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.assessment import Estimate, Inconclusive, Threshold
from pytest_comfyload.metrics.comparable import ClassFigure
from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.paired import FEWEST_PAIRS, PairedRatio, paired_ratio
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.output_files import SOCKET, FetchedFile

__all__ = ["ABFigure", "PicturePair", "picture_pairs", "value_at", "view_url"]

# Beyond this number, more pairs are not a practical answer.
_MOST_PAIRS = 500


@dataclass(frozen=True, slots=True)
class ABFigure:
    """One figure of an A/B comparison: `A` and `B` are its values in `unit`, one per pair; nan if a run has none."""

    name: str
    unit: str
    A: tuple[float, ...]
    B: tuple[float, ...]

    @property
    def ratio(self) -> Metric:
        """B ÷ A, the geometric mean of the ratios of the pairs; it has no unit.

        `.lower` and `.upper` are the ends of its 90 % interval, which is infinite with fewer than seven pairs.
        Raises: UsageError if no ratio can be computed.
        """
        found = self.paired()
        return Metric(found.value, f"{self.name}.ratio", "", found.pairs, evidence=_Paired(found))

    def paired(self, *, higher_is_better: bool = False) -> PairedRatio:
        """Return the ratio, its interval and its verdict.

        Raises: UsageError for fewer than two pairs, or for a value that is missing, infinite, zero or negative.
        """
        try:
            return paired_ratio(self.A, self.B, higher_is_better=higher_is_better)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from None

    @property
    def has_ratio(self) -> bool:
        return len(self.A) == len(self.B) > 1 and all(
            math.isfinite(value) and value > 0 for value in (*self.A, *self.B)
        )


class _Paired(Estimate):
    """The estimate behind a paired ratio: pairs are independent of each other, even if prompts within a run are not.

    With too few pairs the interval is infinite.
    """

    def __init__(self, found: PairedRatio) -> None:
        enough = found.pairs >= FEWEST_PAIRS
        super().__init__(Interval(found.lower, found.upper) if enough else Interval(-math.inf, math.inf))
        self._found = found

    def doubt(self, claim: Threshold) -> Inconclusive:
        found = self._found
        if found.pairs < FEWEST_PAIRS:
            few = f"{found.pairs} pairs are too few for a verdict, which needs {FEWEST_PAIRS}"
            return Inconclusive(few, f"{FEWEST_PAIRS} pairs", few=True)
        room = abs(math.log(claim.bound / claim.value)) if claim.bound > 0 else math.inf
        reach = abs(math.log((found.upper if claim.caps else found.lower) / found.value))
        why = super().doubt(claim).why
        # The width of the interval shrinks with the square root of the number of pairs.
        pairs = math.ceil(found.pairs * (reach / room) ** 2) if room else _MOST_PAIRS
        if pairs >= _MOST_PAIRS:
            return Inconclusive(f"{why}; more pairs will not settle this")
        return Inconclusive(f"{why}; about {pairs} pairs would settle it", f"about {pairs} pairs")


def value_at(figures: Mapping[str, Any], name: str) -> float:
    """Return a figure of `LoadResult.to_dict` by its name, such as `node_time[KSampler].p50`; nan if absent."""
    found: Any = figures
    for part in _parts(name):
        found = found.get(part) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else math.nan


def _parts(name: str) -> list[str]:
    """Split a figure's name into the keys of `to_dict`; the name of a node class may itself contain dots."""
    figure = ClassFigure.read(name)
    return name.split(".") if figure is None else [figure.kind, figure.class_type, figure.statistic]


@dataclass(frozen=True, slots=True)
class PicturePair:
    """Two prompts with the same seeds, one of A and one of B, whose pictures can be compared.

    `A.outputs` and `B.outputs` describe the output files, which stay on the servers. `pair` counts from 1.
    """

    pair: int
    A: Outcome
    B: Outcome

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.A.seeds.values())

    @property
    def identical(self) -> bool | None:
        """Whether all pictures are identical, pixel by pixel; None if any was not decoded, or if there are none."""
        a, b = ([file.pixels for file in outcome.outputs] for outcome in (self.A, self.B))
        if None in (*a, *b) or not (a or b):
            return None
        return a == b

    def urls(self) -> tuple[list[str], list[str]]:
        """Return the URLs of the files on the servers, A's and B's; pictures sent over the WebSocket have none."""
        a, b = (
            [view_url(outcome, file) for file in outcome.outputs if file.type != SOCKET] for outcome in (self.A, self.B)
        )
        return a, b


def picture_pairs(A: Sequence[LoadResult], B: Sequence[LoadResult]) -> Iterator[PicturePair]:
    """Yield the prompts that succeeded with the same seeds in both runs of a pair, in the order of A's prompts."""
    for number, (a, b) in enumerate(zip(A, B, strict=False), 1):
        others = {_place(outcome): outcome for outcome in b.outcomes if outcome.succeeded}
        for outcome in a.outcomes:
            other = others.get(_place(outcome))
            if outcome.succeeded and other is not None and _seeds(outcome) == _seeds(other):
                yield PicturePair(number, outcome, other)


def view_url(outcome: Outcome, file: FetchedFile) -> str:
    query = urlencode({"filename": file.filename, "subfolder": file.subfolder, "type": file.type})
    return f"{outcome.server}/view?{query}"


def _place(outcome: Outcome) -> tuple[str | None, int, int]:
    return outcome.group, outcome.user, outcome.iteration


def _seeds(outcome: Outcome) -> list[int]:
    return list(outcome.seeds.values())
