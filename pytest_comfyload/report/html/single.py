"""The report as one file: the trend, the newest commit, and its runs compared with those before them."""

from __future__ import annotations

from pathlib import Path

from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.page import Pages

__all__ = ["write_single"]


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
