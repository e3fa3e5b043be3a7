"""Rendering of pages from templates, with autoescaping and a policy that only allows our own scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.report.html.encoding import json_text, without_controls
from pytest_comfyload.report.html.forest import WIDTH
from pytest_comfyload.report.html.overview import STATUSES, scenario_name

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["Pages", "require_libraries"]

_HERE = Path(__file__).parent
_OF_REPORT = ("common.js", "chart.js", "overview.js", "trend.js", "commit.js", "pairs.js")
_STYLE = "report.css"
# Drawings and pictures have inline styles, and pictures are embedded in the pages as data URLs.
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'"
)


def require_libraries() -> None:
    """Check for the libraries that pages need, before any work is done. Raises: UsageError if one is missing."""
    for library in ("jinja2", "numpy"):
        if find_spec(library) is None:
            raise UsageError(f"an HTML report needs {library}: pip install 'pytest-comfyload[report]'")


class Pages:
    """Renderer of pages that run the scripts named in `ours`.

    Raises: UsageError if a library that it needs is missing.
    """

    def __init__(self, ours: Sequence[str] = _OF_REPORT) -> None:
        require_libraries()
        self._ours = ours

    def render(self, template: str, root: str | None, **context: Any) -> str:
        """Return a page. `root`: the path prefix from the page to the report's folder; None to inline all assets."""
        scripts = [] if root is not None else list(self.scripts.values())
        allowed = " ".join(map(_hashed, scripts)) if root is None else "'self'"
        return self._templates.get_template(template).render(
            root=root,
            policy=_POLICY.format(scripts=allowed),
            linked=list(self.scripts) if root is not None else [],
            inlined=scripts,
            style=self.style if root is None else None,
            **context,
        )

    @cached_property
    def version(self) -> str:
        """A hash of everything that pages are built from except their data."""
        ours = sorted(path for path in _HERE.rglob("*") if path.suffix in (".py", ".j2", ".css", ".js"))
        return hashlib.sha256(b"".join(path.read_bytes() for path in ours)).hexdigest()

    def assets(self) -> Mapping[str, str]:
        """Return the contents of the files that pages link to, by name."""
        return {**self.scripts, _STYLE: self.style}

    @cached_property
    def scripts(self) -> dict[str, str]:
        """The scripts by name, in the order in which they must run."""
        return {name: (_HERE / "static" / name).read_text(encoding="utf-8") for name in self._ours}

    @cached_property
    def style(self) -> str:
        return (_HERE / "static" / _STYLE).read_text(encoding="utf-8")

    @cached_property
    def _templates(self) -> Environment:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup

        templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            finalize=lambda value: without_controls(value) if type(value) is str else value,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # Only safe within a script element.
        templates.filters["data"] = lambda data: Markup(json_text(data))
        templates.filters["code"] = lambda text: Markup(text)
        templates.filters["words"] = _words
        templates.filters["counted"] = counted
        templates.filters["scenario_name"] = scenario_name
        templates.globals["statuses"] = STATUSES
        templates.globals["width"] = WIDTH
        return templates


def _hashed(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _words(items: Iterable[object], between: str = " · ") -> str:
    return between.join(map(str, items))
