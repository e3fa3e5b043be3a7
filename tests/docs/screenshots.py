"""The screenshots of the report in the README and in docs/: `python -m tests.docs.screenshots` retakes them.

They show a made-up history of runs, stored and reported by the real code, in a headless Chromium.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pytest_comfyload.history.store import Store
from tests.benchmarks.histories import BEGIN, DAY, fill, record
from tests.docs.pictures import FOLDER

__all__ = ["take"]

# Name, page of the report, size of the window.
_SHOTS = (("report-commit.png", "index.html", (1280, 800)), ("report-compare.png", "compare/again*.html", (1280, 1000)))
_MOST_BYTES = 150_000
_COMMITS, _SCENARIOS, _PROMPTS = 302, 4, 6


def take() -> None:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        _fill(Store.open(str(folder / "store")))
        command = [sys.executable, "-c", "from pytest_comfyload.cli import main; main()", "report"]
        subprocess.run([*command, "--store", folder / "store", "--output", folder / "site"], cwd=folder, check=True)
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for shot, page_name, (width, height) in _SHOTS:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(min((folder / "site").glob(page_name)).as_uri())
            page.wait_for_timeout(1000)
            _save(page.screenshot(), FOLDER / shot)
        browser.close()


def _fill(store: Store) -> None:
    """Store a history in which a change made txt2img slower; its test ran three times, which settles the verdict."""
    fill(store, _COMMITS, scenarios=_SCENARIOS, prompts=_PROMPTS)
    for again in (1, 2):
        facts = {"run_id": f"again-{again}", "epoch": BEGIN + (_COMMITS - 1) * DAY / 4 + 600 * again}
        store.add(record(_COMMITS - 1, prompts=_PROMPTS, come={"session": f"session {_COMMITS - 1}"}, facts=facts))


def _save(png: bytes, path: Path) -> None:
    """Save with as many colours as the size limit allows."""
    with Image.open(io.BytesIO(png)) as whole:
        for colors in (256, 128, 64):
            whole.convert("RGB").quantize(colors, dither=Image.Dither.NONE).save(path, optimize=True)
            if path.stat().st_size <= _MOST_BYTES:
                return
    raise ValueError(f"{path.name} has {path.stat().st_size} bytes with {colors} colours; take a smaller part")


if __name__ == "__main__":
    take()
