"""Output of the report as a folder of pages, or as one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pytest_comfyload.history.index import Row
from pytest_comfyload.report.html.compare_view import CompareView
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.page import Pages
from pytest_comfyload.report.html.series import page_id
from pytest_comfyload.result.columns import collector_paused

__all__ = ["PAGES", "commit_path", "write_single", "write_site"]

# Default number of commits that get a page of their own.
PAGES = 50
# How many of these commits get comparison pages for their runs; existing pages of older commits stay.
COMPARED = 10
_MANIFEST = "pages.json"
_COMMITS, _COMPARISONS, _ASSETS = "commits", "compare", "assets"
# Maximum number of comparisons in the single file: this many with earlier runs, and this many A/B comparisons.
MOST_EMBEDDED = 8


def write_site(content: Content, folder: Path, *, most: int = PAGES) -> Path:
    """Write the report as a folder of pages, and return its index.

    Commit pages that would not change are not rewritten; those of older commits stay.

    Raises: UsageError, StoreError, OSError.
    """
    for name in (_COMMITS, _COMPARISONS, _ASSETS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with collector_paused():  # there is no garbage to find among the rows of thousands of runs
        return _Site(content, folder, content.newest_commits(most)).write()


class _Site:
    """The pages of a folder; pages of `commits` are written, next to existing pages of older commits."""

    def __init__(self, content: Content, folder: Path, commits: Sequence[str]) -> None:
        self._content = content
        self._folder = folder
        self._pages = Pages()
        self._commits = commits
        self._compared = set(commits[:COMPARED])
        self._have = {*commits, *(path.stem for path in (folder / _COMMITS).glob("*.html"))}

    def write(self) -> Path:
        content, have = self._content, self._have & self._content.commits.keys()
        for name, text in self._pages.assets().items():
            _write(self._folder / _ASSETS / name, text)
        self._write_commits()
        for view in content.comparisons:
            self._write_comparison(view)
        self._page("compare.html", "compare.html.j2", title="Compare", heads=list(content.heads()))
        return self._page("index.html", "trend.html.j2", title="Trend", trend=content.trend(have))

    def _page(self, name: str, template: str, **context: Any) -> Path:
        path = self._folder / name
        root = "../" if "/" in name else ""
        shared = {"content": self._content, "single": False, "pages": self._have, "compare_link": self._compare_link}
        _write(path, self._pages.render(template, root, **shared, **context))
        return path

    def _compare_link(self, row: Row) -> str | None:
        """Return the relative URL of the page that compares a run with earlier ones; None if there is no such page."""
        id = self._content.compare_id(row)
        there = id and (page_id(row) in self._compared or (self._folder / _COMPARISONS / f"{id}.html").exists())
        return f"{_COMPARISONS}/{quote(id)}.html" if id and there else None

    def _write_commits(self) -> None:
        content, manifest = self._content, _read_manifest(self._folder)
        for commit in self._commits:
            is_compared = commit in self._compared
            made_of = (self._pages.version, is_compared, content.key_of(commit, self._have))
            key = hashlib.sha256(repr(made_of).encode()).hexdigest()
            if manifest.get(commit) == key and (self._folder / commit_path(commit)).exists():
                continue
            page = content.commit(commit, self._have)
            for view in (view for run, _ in page.runs if is_compared for view in content.compared(run.row)):
                self._write_comparison(view)
            self._page(commit_path(commit), "commit.html.j2", title=page.row.title or "A run", page=page)
            manifest[commit] = key
        _write(self._folder / _MANIFEST, json.dumps(manifest))

    def _write_comparison(self, view: CompareView) -> None:
        name = f"{_COMPARISONS}/{view.judged.id}.html"
        self._page(name, "comparison.html.j2", title=f"{view.judged.test}, A → B", view=view)


def commit_path(commit: str) -> str:
    """Return the path of a commit's page within the report, which is stable and can be used in links."""
    return f"{_COMMITS}/{commit}.html"


def _read_manifest(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest, dict):
            return manifest
    return {}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def write_single(content: Content, path: Path) -> Path:
    """Write a self-contained file: the newest commit in full, the earlier ones as tables of their runs.

    Raises: UsageError, StoreError, OSError.
    """
    with collector_paused():
        text = _single(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, text)
    return path


def _single(content: Content) -> str:
    commits = content.newest_commits(PAGES)
    views = [view for row in content.runs_at(content.newest) for view in islice(content.compared(row), 1)]
    shown = (*views[:MOST_EMBEDDED], *content.comparisons[:MOST_EMBEDDED])
    embedded = {view.judged.id for view in shown}

    def link(row: Row) -> str | None:
        id = content.compare_id(row)
        return f"#compare-{quote(id)}" if id in embedded else None

    return Pages().render(
        "single.html.j2",
        None,
        title="Load report",
        content=content,
        single=True,
        pages=set(commits),
        trend=content.trend(commits),
        page=content.commit(content.newest),
        earlier=[content.brief(commit) for commit in commits if commit != content.newest],
        views=shown,
        embedded=embedded,
        compare_link=link,
    )
