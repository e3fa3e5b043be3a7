"""The site builds without warnings, its links and anchors exist, and its reference covers the whole public API."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from declared import command_options, plugin_options

import pytest_comfyload
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.plugin import fixtures
from pytest_comfyload.scenario.arguments import ARGUMENTS
from tests.docs.blocks import DOCS, README, ROOT

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class _Page(HTMLParser):
    """The anchors of a page, and its links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors = set[str]()
        self.links = list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif (name, tag) in {("href", "a"), ("src", "img")} and value:
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Page]:
    """Build the site, and return its pages by path."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-E", "-d", str(folder / "doctrees")]
    done = subprocess.run([*command, DOCS, folder / "html"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path: _Page(path) for path in (folder / "html").rglob("*.html")}


def test_the_site(site: dict[Path, _Page]) -> None:
    """This is one test, since under xdist several would each build the site."""
    assert list(_broken(site)) == []
    names = {anchor for page in site.values() for anchor in page.anchors}
    assert [name for name in _documented() if name not in names] == []


def _broken(site: dict[Path, _Page]) -> Iterator[str]:
    for path, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or parts.netloc:
                continue
            if not target.exists() or (parts.fragment and target in site and not _has(site[target], parts.fragment)):
                yield f"{path.name}: {link}"


def _has(page: _Page, fragment: str) -> bool:
    return unquote(fragment) in page.anchors


def _documented() -> Iterator[str]:
    """Yield the anchors of everything that users may name."""
    for name in pytest_comfyload.__all__:
        yield f"pytest_comfyload.{name}"
    yield from fixtures.__all__
    for option in plugin_options():
        yield f"cmdoption-pytest{option}".replace("pytest--", "pytest-")
    for command, usages in command_options().items():
        yield f"comfyload-{command}"
        for usage in usages:
            if usage.startswith("--"):
                option = re.split(r"[ ,]", usage)[0]
                yield f"cmdoption-comfyload-{command}-{option.removeprefix('--')}"
    for name in ARGUMENTS:
        yield f"argument-{name}"
    for spec in METRICS.values():
        yield f"metric-{spec.name}-CLASS" if spec.by_class else f"metric-{spec.name}"


def test_every_page_is_in_a_toctree() -> None:
    """Sphinx warns about pages in no toctree; those that it leaves out altogether are found here."""
    pages = {path for path in DOCS.rglob("*.md") if "_static" not in path.parts}
    listed = {DOCS / "index.md"}
    for page in pages:
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{entry}.md").resolve() for entry in entries}
    assert pages - listed == set()
    assert listed - pages == set()


def test_the_readme_is_short_and_its_links_exist() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) < 900
    for link in _LINK.findall(text):
        parts = urlsplit(link)
        if not parts.scheme:
            target = ROOT / parts.path
            assert target.exists(), link
            assert not parts.fragment or parts.fragment in _headings(target), link


def _headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in found}


def test_ci_runs_the_first_commands_of_the_readme() -> None:
    first = re.search(r"^\$ (.*)\n\$ (.*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert first
    words = " && ".join(first.groups()).split(" && ")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("install -q", "install")
    assert [word for word in words if f"\n{word}\n" not in ci] == []
