"""A/B comparisons of the store, judged again from their runs as they were when they ended."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pytest_comfyload.history.environment import differences
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.paired import FEWEST_PAIRS
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.report.html.run_view import when
from pytest_comfyload.report.html.series import hardware_words
from pytest_comfyload.result.ab_figure import ABFigure
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.load_result import LoadResult

__all__ = ["LIMITS", "ABRatio", "ABView", "comparisons"]

# The newest ones; each reads all of its runs.
MOST_COMPARISONS = 10
# Of the drawing of a ratio: its ends, and its limits.
_ENDS, _LIMIT = 1.5, 1.05
_WIDTH = 200.0


@dataclass(frozen=True, slots=True)
class ABRatio:
    """A figure of both, and B ÷ A; `x`, `left`, `right` are places of a drawing of 200, on a logarithmic scale."""

    name: str
    a: str
    b: str
    ratio: str
    interval: str
    x: float
    left: float
    right: float
    decides: bool


@dataclass(frozen=True, slots=True)
class ABView:
    """`identical` of `pictures` pairs of the same seeds are equal."""

    title: str
    verdict: str
    sentences: tuple[str, ...]
    when: str
    hardware: str
    commit: str
    pairs: int
    changed: tuple[str, ...]
    ratios: tuple[ABRatio, ...]
    identical: int
    pictures: int


def comparisons(rows: Iterable[Row], record_of: Callable[[Row], Record]) -> tuple[ABView, ...]:
    """Return the newest comparisons, newest first, of the rows that are halves of any."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.comparison is not None:
            found.setdefault(row.comparison, []).append(row)
    newest = sorted(found.values(), key=lambda each: max(row.time for row in each), reverse=True)
    views = (_view([record_of(row) for row in each]) for each in newest[:MOST_COMPARISONS])
    return tuple(view for view in views if view is not None)


def _view(records: Sequence[Record]) -> ABView | None:
    """None where a side has no run."""
    ordered = sorted(records, key=lambda each: each.time)
    sides = {
        side: [each for each in ordered if each.facts.half and each.facts.half.side == side] for side in ("A", "B")
    }
    if not all(sides.values()):
        return None
    first, other = sides["A"][0], sides["B"][0]
    half = first.facts.half
    assert half is not None
    a, b = (tuple(LoadResult(each.facts, each.outcomes) for each in sides[side]) for side in ("A", "B"))
    result = ABResult(
        half.title,
        a,
        b,
        gates=first.facts.all_gates,
        invalid_because=next((why for each in ordered if (why := each.figures.get("invalid_because"))), None),
        labels=half.labels,
    )
    gates = {result.figure(gate).name for gate in result.gates}
    known = [pair.identical for pair in result.pictures if pair.identical is not None]
    return ABView(
        title=half.title,
        verdict=str(result.verdict),
        sentences=tuple(result.sentences()),
        when=when(first.time),
        hardware=hardware_words(first.environment),
        commit=(first.provenance.commit or "")[:10],
        pairs=result.pairs,
        changed=_changed(first, other, half.labels),
        ratios=tuple(_ratio(figure, figure.name in gates) for figure in result.told()),
        identical=sum(known),
        pictures=len(known),
    )


def _changed(a: Record, b: Record, labels: tuple[str, str] | None) -> tuple[str, ...]:
    ours, theirs = ({**each.subject, **each.environment, "test": None} for each in (a, b))
    return differences(ours, theirs) or ((" → ".join(labels),) if labels else ())


def _ratio(figure: ABFigure, decides: bool) -> ABRatio:
    found = figure.paired()
    a, b = (format_value(statistics.median(side), figure.unit) for side in (figure.A, figure.B))
    bounded = found.pairs >= FEWEST_PAIRS
    return ABRatio(
        name=figure.name,
        a=a,
        b=b,
        ratio=f"×{found.value:.3g}",
        interval=f"{found.lower:.3g}–{found.upper:.3g}" if bounded else f"{found.pairs} pairs decide nothing",
        x=_place(found.value),
        left=_place(found.lower if bounded else 1 / _ENDS),
        right=_place(found.upper if bounded else _ENDS),
        decides=decides,
    )


def _place(ratio: float) -> float:
    share = math.log(ratio) / math.log(_ENDS) if ratio > 0 and math.isfinite(ratio) else math.copysign(1, ratio - 1)
    return _WIDTH / 2 * (1 + min(1.0, max(-1.0, share)))


# Of the drawing: where the limits are.
LIMITS = (_place(1 / _LIMIT), _place(_LIMIT))
