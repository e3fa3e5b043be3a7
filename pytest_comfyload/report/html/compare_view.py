"""Two sides of a comparison on one page, A → B: what moved, which SLOs are met, where the time went, what differs."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_comfyload.compare.bases import Base, every_change
from pytest_comfyload.compare.series_comparison import Change
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.comparable import explaining, stored_gate
from pytest_comfyload.report.html.ecdf import Ecdf, ecdfs_of
from pytest_comfyload.report.html.forest import Effect, Forest, forest, of_change
from pytest_comfyload.report.html.lanes import delivered
from pytest_comfyload.report.html.picture_pairs import PairsView, pairs_of
from pytest_comfyload.report.html.run_view import value_words, when
from pytest_comfyload.report.html.series import hardware_words, page_id, short_commit
from pytest_comfyload.report.html.slos import problems_of, slo_rows
from pytest_comfyload.report.html.waterfall import Waterfall, waterfall
from pytest_comfyload.result.checks import Check, format_value

__all__ = ["CompareView", "Difference", "Judgement", "SideView", "SloPair", "compare_id", "of_history", "view_of"]

_THIS = "this run"
_CLAIM = re.compile(r"(?:load\.)?(?P<metric>.+?) (?P<op>[<>=!]=?) ")
_ELSEWHERE = "Not judged: the environments differ. The differences below may come from anything that differs."


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of a comparison. `id` names the page; `kind` says what is compared; `verdict` may be empty.

    `bases`: what B is compared with, here and on other pages, (name, id of the page).
    """

    id: str
    test: str
    kind: str
    verdict: str
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    forest: Forest
    waterfall: Waterfall | None
    bases: tuple[tuple[str, str], ...] = ()

    @property
    def gate(self) -> Effect | None:
        """The figure that decides."""
        return next((row.effect for row in self.forest.rows if row.effect.decides), None)


@dataclass(frozen=True, slots=True)
class SideView:
    """One side of a comparison. `page`: the id of its commit's page. `problems`: what failed in it."""

    name: str
    commit: str
    page: str
    when: str
    hardware: str
    state: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SloPair:
    """An SLO on both sides, (verdict, measured, bound), each "–" if unknown."""

    claim: str
    a: tuple[str, str, str]
    b: tuple[str, str, str]

    @property
    def moved(self) -> bool:
        return self.a[0] != self.b[0]


@dataclass(frozen=True, slots=True)
class Difference:
    name: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class CompareView:
    judged: Judgement
    a: SideView
    b: SideView
    slos: tuple[SloPair, ...]
    ecdfs: tuple[Ecdf, ...]
    pictures: PairsView
    subject: tuple[Difference, ...]
    environment: tuple[Difference, ...]

    @property
    def changed(self) -> tuple[str, ...]:
        """What differs, such as `KSampler.steps 20 → 26`; without known differences, the sides' names if labelled."""
        found = tuple(f"{each.name} {each.a} → {each.b}" for each in (*self.subject, *self.environment))
        return found or ((f"{self.a.name} → {self.b.name}",) if self.b.name not in (_THIS, "B") else ())


def compare_id(head: Row, base: Base) -> str:
    return f"{head.run_id}-{base.key}"


def of_history(
    head: Row, base: Base, record_of: Callable[[Row], Record], bases: Sequence[tuple[str, str]] = ()
) -> CompareView:
    """Compare a run with one of its bases. Raises: StoreError."""
    gates = {stored_gate(each).name for each in head.all_gates}
    records = record_of(base.row), record_of(head)
    only_images = all(delivered(record) == "images" for record in records)
    changes = [_in_images(each) if only_images else each for each in every_change(head, base)]
    explains = explaining()
    leading = {each.metric.title for each in changes if each.metric.name in explains}
    first = base.judged[0] if base.judged else None
    judged = Judgement(
        id=compare_id(head, base),
        test=head.series_title,
        kind="against earlier runs" if first else "in two environments",
        verdict=str(first.verdict) if first else "",
        sentences=tuple(each.sentence() for each in base.judged) or (_ELSEWHERE,),
        notes=first.baseline.notes if first else (),
        forest=forest((of_change(each, decides=each.metric.name in gates) for each in changes), leading),
        waterfall=waterfall(base.level, first.head.rows if first else (head,)),
        bases=tuple(bases),
    )
    return view_of(judged, (base.name, _THIS), [(base.row, records[0])], [(head, records[1])])


def _in_images(change: Change) -> Change:
    """Change the unit from outputs to images, as on the other pages, for runs that delivered nothing else."""
    if change.metric.unit != "outputs/min":
        return change
    return replace(change, metric=replace(change.metric, unit="images/min"))


def view_of(
    judged: Judgement, names: tuple[str, str], a: Sequence[tuple[Row, Record]], b: Sequence[tuple[Row, Record]]
) -> CompareView:
    """Add the data of both sides' runs to a judgement; the first run of each side represents it."""
    before, after = ([record for _, record in side] for side in (a, b))
    return CompareView(
        judged=judged,
        a=_side(names[0], *a[0]),
        b=_side(names[1], *b[0]),
        slos=tuple(_slo_pairs(before, after)),
        ecdfs=_ecdfs(before, after),
        pictures=pairs_of(before, after),
        subject=tuple(_differences(before[0].subject, after[0].subject)),
        environment=tuple(_differences(before[0].environment, after[0].environment)),
    )


def _side(name: str, row: Row, record: Record) -> SideView:
    return SideView(
        name=name,
        commit=short_commit(row),
        page=page_id(row),
        when=when(row.time),
        hardware=hardware_words(record.environment),
        state=row.state,
        problems=tuple(problems_of(row, slo_rows(record))),
    )


def _ecdfs(a: Sequence[Record], b: Sequence[Record]) -> tuple[Ecdf, ...]:
    """Draw the distributions of both sides, with the bounds of both."""
    checks = [check for records in (b, a) for record in records for test in record.checks for check in test.checks]
    loads = [[record.load() for record in records if record.outcomes] for records in (a, b)]
    return ecdfs_of([("A", loads[0]), ("B", loads[1])], checks) if all(loads) else ()


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*b, *a]):
        # The title of an A/B run contains its side, so it always differs.
        if a.get(name) != b.get(name) and name != "test":
            yield Difference(name, value_words(a.get(name)), value_words(b.get(name)))


# --- SLOs ---


def _slo_pairs(a: Iterable[Record], b: Iterable[Record]) -> list[SloPair]:
    """Pair the SLOs of both sides by metric and operator; changed SLOs come first, then failed ones."""
    ours, theirs = (_by_claim(records) for records in (b, a))
    pairs = [
        SloPair(" ".join(filter(None, key)), _cell(theirs.get(key, [])), _cell(ours.get(key, [])))
        for key in dict.fromkeys([*ours, *theirs])
    ]
    return sorted(pairs, key=lambda pair: (not pair.moved, pair.b[0] == "pass"))


def _by_claim(records: Iterable[Record]) -> dict[tuple[str, str], list[Check | None]]:
    """Return the runs' checks by metric and operator; None for each SLO that was not reached."""
    found: dict[tuple[str, str], list[Check | None]] = {}
    for test in (test for record in records for test in record.checks):
        for check in test.checks:
            found.setdefault((check.metric, check.op), []).append(check)
        for claim in test.unreached:
            match = _CLAIM.match(claim)
            found.setdefault((match["metric"], match["op"]) if match else (claim, ""), []).append(None)
    return found


def _cell(checks: Sequence[Check | None]) -> tuple[str, str, str]:
    reached = [check for check in checks if check is not None]
    if not reached:
        return "not reached" if checks else "–", "–", "–"
    failed = [check for check in reached if not check.passed]
    told = (failed or reached)[-1]
    runs = f" ({len(failed)} of {len(reached)} runs)" if failed and len(reached) > 1 else ""
    value = statistics.median(check.value for check in reached)
    measured = "–" if math.isnan(value) else format_value(value, told.unit)
    return "fail" if failed else told.verdict or "pass", f"{measured}{runs}", told.written_bound
