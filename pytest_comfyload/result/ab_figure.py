"""One figure of A and B, run by run: what matters of it is B ÷ A, a metric with an interval like any other."""

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
    """`A` and `B` are its values, pair by pair, in `unit`; nan of a run that has none."""

    name: str
    unit: str
    A: tuple[float, ...]
    B: tuple[float, ...]

    @property
    def ratio(self) -> Metric:
        """B ÷ A, with `.lower` and `.upper` of its 90 % interval: infinite below seven pairs.

        Raises: UsageError where there is none.
        """
        found = self.paired()
        return Metric(found.value, f"{self.name}.ratio", "", found.pairs, evidence=_Paired(found))

    def paired(self, *, higher_is_better: bool = False) -> PairedRatio:
        """Raises: UsageError for fewer than two pairs, or a value that is absent, infinite or 0."""
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
    """Pairs of runs are independent of each other, whatever the prompts in them are; a few of them bound nothing."""

    def __init__(self, found: PairedRatio) -> None:
        enough = found.pairs >= FEWEST_PAIRS
        super().__init__(Interval(found.lower, found.upper) if enough else Interval(-math.inf, math.inf))
        self._found = found

    def doubt(self, claim: Threshold) -> Inconclusive:
        found = self._found
        if found.pairs < FEWEST_PAIRS:
            few = f"{found.pairs} pairs are too few for a verdict, which takes {FEWEST_PAIRS}"
            return Inconclusive(few, f"{FEWEST_PAIRS} pairs", few=True)
        room = abs(math.log(claim.bound / claim.value)) if claim.bound > 0 else math.inf
        reach = abs(math.log((found.upper if claim.caps else found.lower) / found.value))
        why = super().doubt(claim).why
        # The width goes with the root of the number.
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
    """The names of classes may hold dots."""
    figure = ClassFigure.read(name)
    return name.split(".") if figure is None else [figure.kind, figure.class_type, figure.statistic]


@dataclass(frozen=True, slots=True)
class PicturePair:
    """Two prompts of the same seeds: `A.outputs` and `B.outputs` are their files, which lie on the servers.

    `pair` counts from 1.
    """

    pair: int
    A: Outcome
    B: Outcome

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.A.seeds.values())

    @property
    def identical(self) -> bool | None:
        """Whether every picture is the same, pixel by pixel; None where they were not fetched."""
        a, b = ([file.pixels for file in outcome.outputs] for outcome in (self.A, self.B))
        if None in (*a, *b) or not (a or b):
            return None
        return a == b

    def urls(self) -> tuple[list[str], list[str]]:
        """Return where the servers show the files: A's, and B's."""
        a, b = (
            [view_url(outcome, file) for file in outcome.outputs if file.type != SOCKET] for outcome in (self.A, self.B)
        )
        return a, b


def picture_pairs(A: Sequence[LoadResult], B: Sequence[LoadResult]) -> Iterator[PicturePair]:
    """Yield the pairs that both made of the same seeds, in the order of A's prompts."""
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
