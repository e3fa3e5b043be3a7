"""Write the report as a folder of pages, or as one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.encoding import json_text
from pytest_comfyload.report.html.page import Pages

__all__ = ["PAGES", "write_single", "write_site"]

# Commits with a page of their own, unless more are asked for.
PAGES = 50
_MANIFEST = "pages.json"
_COMMITS, _RUNS, _ASSETS = "commits", "runs", "assets"


def write_site(content: Content, folder: Path, *, most: int = PAGES) -> Path:
    """Pages that are there and would be the same are left as they are; those of older commits stay. Returns the index.

    Raises: UsageError, StoreError, OSError.
    """
    pages = Pages()
    for name in (_COMMITS, _RUNS, _ASSETS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, text in pages.assets().items():
        _write(folder / _ASSETS / name, text)
    commits = content.newest_commits(most)
    _write_commits(content, pages, folder, commits)
    have = {path.stem for path in (folder / _COMMITS).glob("*.html")} & content.commits.keys()
    shared = {"content": content, "single": False}
    trend = pages.render("trend.html.j2", "", title="Trend", trend=content.trend(have), **shared)
    compare = pages.render("compare.html.j2", "", title="Compare", choices=content.choices(have), runs={}, **shared)
    _write(folder / "compare.html", compare)
    _write(folder / "index.html", trend)
    return folder / "index.html"


def _write_commits(content: Content, pages: Pages, folder: Path, commits: Sequence[str]) -> None:
    manifest = _read_manifest(folder)
    pages_there = {*commits, *(path.stem for path in (folder / _COMMITS).glob("*.html"))}
    for commit in commits:
        key = hashlib.sha256(repr((pages.version, content.key_of(commit, pages_there))).encode()).hexdigest()
        path = folder / _COMMITS / f"{commit}.html"
        if manifest.get(commit) == key and path.exists():
            continue
        page = content.commit(commit, pages_there)
        runs = json_text(content.compared(content.runs_at(commit)))
        _write(folder / _RUNS / f"{commit}.js", f"comfyload.runs({runs});\n")
        title = page.row.title or "A run"
        _write(path, pages.render("commit.html.j2", "../", title=title, page=page, content=content, single=False))
        manifest[commit] = key
    _write(folder / _MANIFEST, json.dumps(manifest))


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
    heads = content.runs_at(content.newest)
    before = [item.against_run for item in content.verdicts if item.against_run is not None]
    rows = {row.run_id: row for row in (*heads, *before)}
    text = Pages().render(
        "single.html.j2",
        None,
        title="Load report",
        content=content,
        single=True,
        trend=content.trend({content.newest}),
        page=content.commit(content.newest),
        choices=content.choices_of(list(rows.values())),
        runs=content.compared(list(rows.values())),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return path
