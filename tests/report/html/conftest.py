"""Reports, written once, and a Chromium that records whatever a page requests or reports as an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.report.html.content import Content
from tests.history.conftest import repository
from tests.report.html.scripted import scripted_store
from tests.report.html.stores import hostile_store, small_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["Reports", "Scripted", "repository"]

_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Reports:
    """One store as a folder and as one file."""

    folder: Path
    single: Path

    @property
    def pages(self) -> list[Path]:
        commits = sorted((self.folder / "commits").glob("*.html"))
        return [self.folder / "index.html", self.folder / "compare.html", commits[-1], self.comparison, self.single]

    @property
    def comparison(self) -> Path:
        """Return the newest run's first comparison in the first scenario: with earlier runs, if there are any."""
        found = sorted((self.folder / "compare").glob("*-0-*.html"))
        return next(path for path in found if path.name.startswith(found[-1].name.partition("-")[0]))


def _written(make: Callable[[Path], Any], folder: Path) -> Reports:
    from pytest_comfyload.report.html.write import write_single, write_site

    content = Content(make(folder / "store"), folder, cache=folder)
    write_site(content, folder / "site")
    return Reports(folder / "site", write_single(content, folder / "report.html"))


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    pytest.importorskip("jinja2")
    return _written(small_store, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def hostile_reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    pytest.importorskip("jinja2")
    return _written(hostile_store, tmp_path_factory.mktemp("hostile"))


@dataclass(frozen=True)
class Scripted:
    """The scripted history, its report as a folder in `site`, and its store next to it."""

    content: Content
    site: Path
    store: Path


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Scripted:
    pytest.importorskip("jinja2")
    from pytest_comfyload.report.html.write import write_site

    folder = tmp_path_factory.mktemp("scripted")
    content = Content(scripted_store(folder / "store"), folder)
    return Scripted(content, write_site(content, folder / "site", most=2).parent, folder / "store")


# No longer than its module: while it runs, its thread has a running event loop, and other tests need their own.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=_FLAGS)
        yield browser
        browser.close()


@dataclass
class Told:
    """Errors that a page reported, and requests that it sent."""

    faults: list[str] = field(default_factory=list)


@pytest.fixture
def opened(chromium: Browser) -> Callable[..., Any]:
    """Return `opened(path, width=…, scheme=…)`, a context that fails if the page reports errors or sends requests."""

    @contextmanager
    def open_page(path: Path, state: str = "", *, width: int = 1280, scheme: str = "light") -> Iterator[Page]:
        told = Told()
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            accept_downloads=True,
        )
        page = context.new_page()
        page.on("console", lambda message: _heard(told, message.type, message.text))
        page.on("pageerror", lambda error: told.faults.append(str(error)))
        page.on("request", lambda request: _asked(told, request.url))
        page.goto(path.as_uri() + state)
        try:
            yield page
            assert told.faults == []
        finally:
            context.close()

    return open_page


def _heard(told: Told, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        told.faults.append(text)


def _asked(told: Told, url: str) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        told.faults.append(f"asked for {url}")
