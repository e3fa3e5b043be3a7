"""Write the report as a folder of pages, or as one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
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

__all__ = ["PAGES", "commit_path", "write_single", "write_site"]

# Commits with a page of their own, unless more are asked for.
PAGES = 50
_MANIFEST = "pages.json"
_COMMITS, _COMPARISONS, _ASSETS = "commits", "compare", "assets"
# Comparisons that are in the single file, of earlier runs and of A/B each.
MOST_EMBEDDED = 8


def write_site(content: Content, folder: Path, *, most: int = PAGES) -> Path:
    """Pages that are there and would be the same are left as they are; those of older commits stay. Returns the index.

    Raises: UsageError, StoreError, OSError.
    """
    pages = Pages()
    for name in (_COMMITS, _COMPARISONS, _ASSETS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, text in pages.assets().items():
        _write(folder / _ASSETS / name, text)
    commits = content.newest_commits(most)
    _write_commits(content, pages, folder, commits)
    have = {path.stem for path in (folder / _COMMITS).glob("*.html")} & content.commits.keys()
    shared = _shared(content, have)
    for view in content.comparisons:
        _write_comparison(pages, folder, view, shared)
    compare = pages.render("compare.html.j2", "", title="Compare", heads=list(content.heads()), **shared)
    _write(folder / "compare.html", compare)
    _write(folder / "index.html", pages.render("trend.html.j2", "", title="Trend", trend=content.trend(have), **shared))
    return folder / "index.html"


def _shared(content: Content, have: Collection[str]) -> dict[str, Any]:
    """What every page of a folder knows; `have` are the commits with a page."""

    def link(row: Row) -> str | None:
        id = content.compare_id(row) if page_id(row) in have else None
        return f"{_COMPARISONS}/{quote(id)}.html" if id else None

    return {"content": content, "single": False, "pages": have, "compare_link": link}


def commit_path(commit: str) -> str:
    """Return the path of a commit's page within the report, by which it can be linked to for good."""
    return f"{_COMMITS}/{commit}.html"


def _write_commits(content: Content, pages: Pages, folder: Path, commits: Sequence[str]) -> None:
    manifest = _read_manifest(folder)
    there = {*commits, *(path.stem for path in (folder / _COMMITS).glob("*.html"))}
    shared = _shared(content, there)
    for commit in commits:
        key = hashlib.sha256(repr((pages.version, content.key_of(commit, there))).encode()).hexdigest()
        path = folder / commit_path(commit)
        if manifest.get(commit) == key and path.exists():
            continue
        page = content.commit(commit, there)
        for run, _ in page.runs:
            for view in content.compared(run.row):
                _write_comparison(pages, folder, view, shared)
        _write(path, pages.render("commit.html.j2", "../", title=page.row.title or "A run", page=page, **shared))
        manifest[commit] = key
    _write(folder / _MANIFEST, json.dumps(manifest))


def _write_comparison(pages: Pages, folder: Path, view: CompareView, shared: Mapping[str, Any]) -> None:
    path = folder / _COMPARISONS / f"{view.judged.id}.html"
    _write(path, pages.render("comparison.html.j2", "../", title=f"{view.judged.test}, A → B", view=view, **shared))


def _read_manifest(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest, dict):
            return manifest
    return {}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def write_single(content: Content, path: Path) -> Path:
    """Needs nothing beside it. Raises: UsageError, StoreError, OSError."""
    views = [view for row in content.runs_at(content.newest) for view in islice(content.compared(row), 1)]
    shown = (*views[:MOST_EMBEDDED], *content.comparisons[:MOST_EMBEDDED])
    embedded = {view.judged.id for view in shown}

    def link(row: Row) -> str | None:
        id = content.compare_id(row)
        return f"#compare-{quote(id)}" if id in embedded else None

    text = Pages().render(
        "single.html.j2",
        None,
        title="Load report",
        content=content,
        single=True,
        pages={content.newest},
        trend=content.trend({content.newest}),
        page=content.commit(content.newest),
        views=shown,
        embedded=embedded,
        compare_link=link,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return path
