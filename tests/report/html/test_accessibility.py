"""Every page of the report under axe-core: no violation of WCAG 2.2 AA, in light and in dark."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real_comfyui.build import built_once
from tests.report.html.conftest import Scripted
from tests.report.html.test_plan_page import _curve, _plan

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = "axe-core@4.14.1"
_WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"]
# Except for runs: the failed ones are already open.
_UNFOLDED = "document.querySelectorAll('details:not(.run-box)').forEach((each) => { each.open = true; })"
PAGES = ("overview", "commit", "compare", "of commits", "of pairs", "single", "plan")


@pytest.fixture(scope="module")
def axe() -> str:
    """Return the script from the npm package, fetched once per machine into the cache outside the checkout."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, which fetches axe-core; .ci/run installs it")

    def fetch(folder: Path) -> None:
        folder.mkdir()
        packed = subprocess.run([npm, "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, timeout=120)
        if packed.returncode:
            pytest.skip(f"npm could not fetch {AXE}: {packed.stderr.strip()[-300:]}")
        with tarfile.open(folder / packed.stdout.split()[-1]) as package:
            package.extract("package/axe.min.js", folder, filter="data")

    folder = built_once("axe-core", AXE.encode(), fetch)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages(scripted: Scripted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return pages by name, of a history in which everything occurs that a page can show."""
    from pytest_comfyload.report.html.plan_page import write_plan
    from pytest_comfyload.report.html.write import commit_path, write_single

    folder, content, site = tmp_path_factory.mktemp("accessible"), scripted.content, scripted.site
    write_plan(_plan(), [_curve(1, 100), _curve(2, 300)], folder / "plan.html")
    return {
        "overview": site / "index.html",
        "commit": site / commit_path(content.newest),
        "compare": site / "compare.html",
        "of commits": site / "compare" / f"{next(iter(content.compared(content.rows[0]))).judged.id}.html",
        "of pairs": site / "compare" / f"{content.comparisons[0].judged.id}.html",
        "single": write_single(content, folder / "report.html"),
        "plan": folder / "plan.html",
    }


@pytest.mark.parametrize("name", PAGES)
def test_no_violation(pages: dict[str, Path], axe: str, chromium: Browser, name: str) -> None:
    # The pages' own policy would block axe.
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
    try:
        page = context.new_page()
        page.goto(pages[name].as_uri())
        if name != "single":  # its folded parts are on the other pages
            page.evaluate(_UNFOLDED)
        page.evaluate(axe)
        found = list(_violations(page, _WCAG))
        page.emulate_media(color_scheme="dark")
        found += [f"dark: {each}" for each in _violations(page, _WCAG, only="color-contrast")]
        assert found == []
    finally:
        context.close()


def _violations(page: Page, tags: list[str], only: str | None = None) -> Iterator[str]:
    rules = {"type": "rule", "values": [only]} if only else {"type": "tag", "values": tags}
    result = page.evaluate("(options) => axe.run(document, options)", {"runOnly": rules, "resultTypes": ["violations"]})
    for rule in result["violations"]:
        for node in rule["nodes"][:3]:
            yield f"{rule['id']}: {node['target']}: {node['failureSummary']}: {node['html'][:200]}"
