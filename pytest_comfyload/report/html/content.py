"""The content of a report, gathered from a store: lines, verdicts, and the runs on the page of each commit."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from pytest_comfyload.compare.acceptance import Acceptance, read_acceptances
from pytest_comfyload.compare.bases import Base, bases_of
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.store import Store
from pytest_comfyload.metrics.comparable import stored_gate
from pytest_comfyload.report.html.ab_view import comparisons
from pytest_comfyload.report.html.compare_view import CompareView, compare_id, of_history
from pytest_comfyload.report.html.overview import Overview, overview
from pytest_comfyload.report.html.records import Records, Subjects
from pytest_comfyload.report.html.run_data import run_data
from pytest_comfyload.report.html.run_view import RunBrief, RunView, provenance_words, run_brief, run_view, when
from pytest_comfyload.report.html.series import (
    Line,
    Order,
    environment_words,
    hardware_words,
    history_order,
    lines_of,
    marks_of,
    page_id,
)
from pytest_comfyload.report.html.trend import Panels, commits_of, line_data, main_branch, trend_data
from pytest_comfyload.report.html.verdicts import Judge, VerdictRow, verdict_list

__all__ = ["CommitBrief", "CommitPage", "Content"]


@dataclass(frozen=True, slots=True)
class CommitPage:
    """The page of a commit. `runs` are the newest of each line, with the data of their charts, the worst first.

    `before` and `after` are the ids of the adjacent commits; `others` are earlier runs of the same commit.
    """

    id: str
    row: Row
    provenance: tuple[tuple[str, str, str | None], ...]
    runs: tuple[tuple[RunView, dict[str, Any]], ...]
    before: str | None
    after: str | None
    others: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class CommitBrief:
    """A commit in a single-file report, which has no page for it; `runs` as in `CommitPage`."""

    id: str
    row: Row
    runs: tuple[RunBrief, ...]


@dataclass(frozen=True)
class _AskedOnce(Git):
    """git with cached answers, called only in a repository.

    A record from elsewhere may name any commit.
    """

    answers: dict[tuple[str, ...], str | None] = field(default_factory=dict)

    def ask(self, *words: str) -> str | None:
        if words not in self.answers:
            # A program's argument cannot contain NUL.
            is_asked = self._is_repository and "\0" not in "".join(words)
            self.answers[words] = super().ask(*words) if is_asked else None
        return self.answers[words]

    @property
    def _is_repository(self) -> bool:
        words = ("rev-parse", "--git-dir")
        if words not in self.answers:
            self.answers[words] = super().ask(*words)
        return self.answers[words] is not None


class Content:
    """The content of a report on the runs of a store.

    Args:
        root: The repository that the runs belong to.
        branch: Only include runs of this branch.
        limit: Only include this many commits, the newest.
        cache: Folder for a cache of the records' subjects.

    Raises: UsageError, StoreError.
    """

    def __init__(
        self,
        store: Store,
        root: Path,
        *,
        branch: str | None = None,
        limit: int | None = None,
        cache: Path | None = None,
    ) -> None:
        kept = [row for row in store.runs() if branch is None or row.branch == branch]
        if not kept:
            raise UsageError(f"no runs{f' of branch {branch!r}' if branch else ''} in {store}")
        # The runs of A/B comparisons are judged against each other; they count as ordinary runs if there are no others.
        rows = [row for row in kept if row.comparison is None] or kept
        self._halves = [row for row in kept if row.comparison is not None]
        self.store = store
        self.generated = when(time.time())
        git = _AskedOnce(root)
        lineage = CommitGraph(git)
        self._order = history_order(lineage)
        self.commits = _newest(rows, limit, self._order)
        self.rows = [row for row in rows if page_id(row) in self.commits]
        self.lines = lines_of(self.rows, self._order)
        self.main = main_branch(self.rows)
        self._acceptances: tuple[Acceptance, ...] = read_acceptances(git.root)
        self._records = Records(store)
        self._judge = Judge(rows, self._records, lineage, self._acceptances)
        self._subjects = Subjects(store, cache)
        self._bases: dict[str, tuple[Base, ...]] = {}
        self._lines = {line.fingerprint: line for line in reversed(self.lines)}
        self._by_series: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            self._by_series.setdefault(row.series, []).append(row)

    @cached_property
    def simulated(self) -> str:
        """Which of the runs are simulated: `all`, `some` or an empty string."""
        simulated = {row.simulated for row in self.rows}
        return "" if simulated == {False} else "all" if simulated == {True} else "some"

    @property
    def newest(self) -> str:
        """The id of the page of the newest run."""
        return page_id(self.rows[0])

    @cached_property
    def verdicts(self) -> list[VerdictRow]:
        return verdict_list(self.lines, self.rows, self._judge.each, self._order)

    @cached_property
    def comparisons(self) -> tuple[CompareView, ...]:
        return comparisons(self._halves, self._records)

    @cached_property
    def overview(self) -> Overview:
        return overview(self.verdicts, self.lines, self.rows[0], self._records, self.comparisons)

    def newest_commits(self, most: int) -> list[str]:
        """Return the ids of at most `most` commits, the most recently run first."""
        return list(dict.fromkeys(page_id(row) for row in self.rows))[:most]

    def trend(self, pages: Collection[str]) -> dict[str, Any]:
        self._subjects.learn(self.rows)
        places = {name: number for number, name in enumerate(self.commits)}
        panels = Panels(self.rows)
        lines = [self._line(line, places, panels.figures) for line in self.lines]
        first = self.overview.rows[0].item.head.fingerprint if self.overview.rows else None
        return trend_data(lines, self.commits, self.main, pages, first, panels)

    def _line(self, line: Line, places: Mapping[str, int], figures: Sequence[str]) -> dict[str, Any]:
        gate = stored_gate(line.newest.gate)
        return line_data(
            line,
            environment_words(self._records(line.newest).environment),
            gate=gate,
            places=places,
            figures=figures,
            marks=marks_of(line, gate.name, self.main, self._acceptances),
            changes=self._subjects.changes(line),
        )

    @cached_property
    def _by_commit(self) -> dict[str, list[Row]]:
        """The rows of each commit, the newest first."""
        rows: dict[str, list[Row]] = {}
        for row in self.rows:
            rows.setdefault(page_id(row), []).append(row)
        return rows

    def runs_at(self, commit: str) -> list[Row]:
        """Return the newest run of each line at a commit, by the line's name."""
        newest: dict[str, Row] = {}
        for row in self._by_commit[commit]:
            newest.setdefault(row.fingerprint, row)
        return sorted(newest.values(), key=lambda row: (row.series_title, -row.time))

    def key_of(self, commit: str, pages: Collection[str]) -> list[str]:
        """Return a key for the content of a commit's page, which need not be rebuilt while the key is unchanged."""
        files = sorted(row.file for row in self._by_commit[commit])
        at_newest = str(commit == self.newest)
        return [*files, repr(self._acceptances), repr(self._neighbours(commit, pages)), at_newest]

    def _neighbours(self, commit: str, pages: Collection[str]) -> tuple[str | None, str | None]:
        """Return the nearest commits before and after it in the history that have a page."""
        history = [name for name in self.commits if name in pages or name == commit]
        place = history.index(commit)
        return (history[place - 1] if place else None, history[place + 1] if place + 1 < len(history) else None)

    def commit(self, commit: str, pages: Collection[str] = ()) -> CommitPage:
        """Return the page of a commit; `pages` are the commits to which it may link."""
        rows = self.runs_at(commit)
        shown = {row.file for row in rows}
        runs = sorted((self._run(row) for row in rows), key=lambda run: run[0].gravity)
        before, after = self._neighbours(commit, pages)
        return CommitPage(
            commit,
            rows[0],
            provenance_words(self._records(rows[0]).provenance),
            tuple(runs),
            before,
            after,
            tuple(row for row in self._by_commit[commit] if row.file not in shown),
        )

    def brief(self, commit: str) -> CommitBrief:
        """Return the summary of a commit for a table. Raises: StoreError."""
        rows = self.runs_at(commit)
        runs = (run_brief(row, self._records(row), self._judge(row)) for row in rows)
        return CommitBrief(commit, rows[0], tuple(sorted(runs, key=lambda run: run.gravity)))

    def _run(self, row: Row) -> tuple[RunView, dict[str, Any]]:
        record = self._records(row)
        data = run_data(record) if record.outcomes else {}
        return run_view(row, record, self._judge(row)), data

    # --- comparisons ---

    def bases(self, head: Row) -> tuple[Base, ...]:
        """Return the bases that a run is compared with: earlier runs, and at the newest commit all bases available.

        Raises: StoreError.
        """
        if head.file not in self._bases:
            line = self._lines[head.fingerprint]
            others = (row for row in self._by_series[head.series] if row.fingerprint != head.fingerprint)
            found = bases_of(head, line.rows, others, self.main, self._judge.against)
            if page_id(head) != self.newest:
                found = (base for base in islice(found, 1) if base.key == "before")
            self._bases[head.file] = tuple(map(self._named, found))
        return self._bases[head.file]

    def _named(self, base: Base) -> Base:
        return base if base.judged else replace(base, name=hardware_words(self._records(base.row).environment))

    def compare_id(self, head: Row) -> str | None:
        """Return the id of the page that compares a run with its first base; None if it has no base."""
        bases = self.bases(head)
        return compare_id(head, bases[0]) if bases else None

    def heads(self) -> Iterator[tuple[Row, str, list[tuple[Base, str]]]]:
        """Yield the newest run of each line at the newest commit, its hardware, and its bases with their page ids."""
        for row in self.runs_at(self.newest):
            bases = [(base, compare_id(row, base)) for base in self.bases(row)]
            yield row, hardware_words(self._records(row).environment), bases

    def compared(self, head: Row) -> Iterator[CompareView]:
        """Yield the comparison of a run with each of its bases. Raises: StoreError."""
        bases = self.bases(head)
        names = [(base.name, compare_id(head, base)) for base in bases]
        return (of_history(head, base, self._records, names) for base in bases)


def _newest(rows: list[Row], limit: int | None, order: Order) -> dict[str, Row]:
    commits = commits_of(rows, order)
    if limit is None or len(commits) <= limit:
        return commits
    kept = set(list(dict.fromkeys(page_id(row) for row in sorted(rows, key=order, reverse=True)))[:limit])
    return {name: row for name, row in commits.items() if name in kept}
