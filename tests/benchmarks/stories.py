"""Two stories of twelve sessions each, verdict by verdict: a nightly series, and squash merges.

    python -m tests.benchmarks.stories

The repository, the store, pytest and the plugin are real; the times of prompts come from `story_load`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.history.repository import Repository

__all__ = ["Night", "Studio", "nightly", "squash_merges"]

DAY = 86400.0
BEGIN = 1_767_225_600.0  # 2026-01-01
_SUITE = """from pytest_comfyload import load_scenario


@load_scenario("txt2img", users=1, iterations=12)
def test_portrait(load):
    assert load.success_rate == 100


@load_scenario("txt2img", users=1, iterations=12)
def test_landscape(load):
    assert load.success_rate == 100
"""
_HERE = Path(__file__).parents[2]
_FOREIGN = ("CI", "GITHUB", "GITLAB", "COMFYUI", "PYTEST")
_VERDICTS = ("regressed", "suspected", "improved", "unchanged", "inconclusive", "recording")


@dataclass(frozen=True)
class Night:
    """One session: its name, its exit status, and the lines about `test_portrait`."""

    name: str
    status: int
    lines: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return self.lines[0].split()[0].rstrip(":")

    def __str__(self) -> str:
        outcome = "passed" if self.status == 0 else "FAILED"
        return "\n".join((f"{self.name}: {outcome}", *(f"    {line}" for line in self.lines)))


@dataclass
class Studio:
    """A repository with a suite, and the current day."""

    folder: Path
    day: int = 0
    repository: Repository = field(init=False)

    def __post_init__(self) -> None:
        self.repository = Repository.begin(self.folder)
        (self.folder / "test_slo.py").write_text(_SUITE, encoding="utf-8")
        (self.folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (self.folder / ".gitignore").write_text("__pycache__\n.pytest_cache\n", encoding="utf-8")
        self.commit("begin", 1.0)

    def commit(self, title: str, speed: float) -> None:
        (self.folder / "speed").write_text(f"{speed}\n", encoding="utf-8")
        (self.folder / "file").write_text(title, encoding="utf-8")
        self.repository.git("add", "-A")
        self.repository.git("commit", "-q", "-m", title)

    def session(self, name: str, *, slower: float = 1.0, comfyui: str = "0.3.75") -> Night:
        """Run a session of the checked-out commit on the next day."""
        self.day += 1
        now = BEGIN + DAY * self.day + 2 * 3600
        told = {"STORY_NOW": str(now), "STORY_SLOWER": str(slower), "STORY_COMFYUI": comfyui}
        # COLUMNS keeps every sentence on one line.
        story = {**told, "PYTHONPATH": str(_HERE), "COLUMNS": "500"}
        words = ["-m", "pytest", "-v", "-p", "tests.benchmarks.story_load", "-p", "no:cacheprovider"]
        gate = ["--comfyload-fail-on-regression", "--comfyload-allow-no-baseline"]
        done = self._run(*words, "--comfyui-url=http://gpu1:8188", *gate, **story)
        return Night(name, done.returncode, tuple(_said(done.stdout.splitlines())))

    def comfyload(self, *words: str) -> None:
        self._run("-c", "from pytest_comfyload.cli import main; main()", *words).check_returncode()

    def first_run(self, of: str) -> str:
        """Return the id of the first run whose file name starts with `of`."""
        return next(path.name.split("_")[0] for path in sorted((self.folder / ".comfyload" / "runs").glob(f"{of}*")))

    def _run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        ceiling = {"GIT_CEILING_DIRECTORIES": str(self.folder.parent)}
        return subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=clean | ceiling | environ, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip


def _said(lines: list[str]) -> Iterator[str]:
    """Yield the verdict on `test_portrait` in the summary, and the lines below it."""
    inside = False
    for line in lines:
        if line.startswith(_VERDICTS):
            inside = "test_portrait" in line or line.startswith("recording")
        elif not line.startswith("  "):
            inside = False
        if inside:
            yield line


def nightly(studio: Studio, nights: int = 12, change: int = 9) -> Iterator[Night]:
    """Yield nights of one commit; from night `change` on, a new ComfyUI is 43 % slower, accepted before the last."""
    for night in range(1, nights + 1):
        new = night >= change
        if night == nights:
            first = studio.first_run(f"{BEGIN + DAY * change + 2 * 3600:.0f}")
            studio.comfyload("accept", "--run", first, "--reason", "the new attention is exact")
        yield studio.session(f"night {night}", slower=1.43 if new else 1.0, comfyui="0.3.76" if new else "0.3.75")


def squash_merges(studio: Studio) -> Iterator[Night]:
    """Yield sessions of squashed pull requests; one that is 43 % slower is merged unaccepted, and accepted later."""
    for number in range(1, 4):
        studio.commit(f"push {number}", 1.0)
        yield studio.session(f"main, push {number}")
    yield from _pull_request(studio, 1, "innocent", 1.0)
    yield from _pull_request(studio, 2, "43 % slower", 1.43)
    slower = studio.repository.git("rev-parse", "HEAD")
    yield from _pull_request(studio, 3, "innocent", 1.43)
    yield from _pull_request(studio, 4, "accepts it", 1.43, accepts=slower)
    _branch(studio, 5, 1.43 * 1.25)
    yield studio.session("pull request 5, another 25 % slower")


def _pull_request(studio: Studio, number: int, what: str, speed: float, accepts: str = "") -> Iterator[Night]:
    """Yield the session of a pull request, and that of the base branch after the merge."""
    _branch(studio, number, speed)
    if accepts:
        studio.comfyload("accept", accepts, "--reason", "better pictures")
        studio.commit("accept it", speed)
    yield studio.session(f"pull request {number}, {what}")
    studio.repository.git("switch", "-q", "main")
    studio.repository.git("merge", "-q", "--squash", f"pr-{number}")
    studio.repository.git("commit", "-q", "-m", f"{what} (#{number})")
    yield studio.session(f"main, with pull request {number}")


def _branch(studio: Studio, number: int, speed: float) -> None:
    studio.repository.git("switch", "-q", "-c", f"pr-{number}", "main")
    studio.commit(f"work {number}", speed)


def main() -> None:
    for title, story in (("A nightly series", nightly), ("Squash merges", squash_merges)):
        print(f"{title}\n")
        with tempfile.TemporaryDirectory() as folder:
            for night in story(Studio(Path(folder))):
                print(night, flush=True)
        print()


if __name__ == "__main__":
    main()
