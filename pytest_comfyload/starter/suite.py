"""Files of a first suite, written into a project without overwriting files of the user."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal, get_args

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.location import STORE
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.starter.measurement import Measurement, bound_above
from pytest_comfyload.starter.survey import StarterWorkflow, Survey

__all__ = [
    "CI_SYSTEMS",
    "SIMULATED_TIME_SCALE",
    "SUITE",
    "CiSystem",
    "WrittenFile",
    "ci_files",
    "ci_of",
    "ignore_store",
    "suite_files",
    "write",
]

# The suite's folder. It is not below `tests`: running a node's unit tests should not put load on a server.
SUITE = "load_tests"
# Virtual seconds per second of the simulator: slower than the default, so that a busy machine keeps up.
SIMULATED_TIME_SCALE = 5.0
CiSystem = Literal["github", "gitlab", "jenkins", "none"]
CI_SYSTEMS: tuple[CiSystem, ...] = get_args(CiSystem)
_CI_FILES: Mapping[CiSystem, str] = {
    "github": ".github/workflows/load-tests.yml",
    "gitlab": ".gitlab-ci.yml",
    "jenkins": "Jenkinsfile",
}
# Longest line of a suite, as formatters have it by default.
_LINE = 88
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """Outcome of writing a file. `kept`: the user's file stays, and ours is next to it as `*.new`."""

    path: Path
    state: Literal["written", "unchanged", "extended", "kept"]


def suite_files(
    workflow: StarterWorkflow, measured: Measurement, survey: Survey, url: str | None, today: datetime.date
) -> dict[str, str]:
    """Return the text of each file of the suite by name; `url` is None for the simulator or a URL with credentials."""
    suite = _filled(
        "test_load",
        arguments=_laid_out(_arguments(workflow, measured)),
        name=workflow.name,
        date=today.isoformat(),
        hardware=survey.hardware,
        prompts=counted(measured.prompts, "prompt"),
        users=counted(measured.users, "user"),
        **_bounds(measured),
    )
    simulator = (
        f"\n# Speed of the simulator: virtual seconds per second.\ncomfyload_time_scale = {SIMULATED_TIME_SCALE:g}"
    )
    server = f"comfyui_url = {url}" if url else "# comfyui_url = http://127.0.0.1:8188"
    server += simulator if survey.simulated and not url else ""
    copied = {} if workflow.content is None else {workflow.source: workflow.content}
    return {"pytest.ini": _filled("pytest_ini", server=server), f"test_{workflow.name}.py": suite, **copied}


def _arguments(workflow: StarterWorkflow, measured: Measurement) -> Iterator[str]:
    yield f'"{workflow.source}"'
    # JSON of texts is Python with double quotes.
    if workflow.inputs:
        yield f"inputs={json.dumps(dict(workflow.inputs), ensure_ascii=False)}"
    if workflow.must_run:
        yield f"must_run={json.dumps(workflow.must_run, ensure_ascii=False)}"
    yield f"users={measured.users}"
    yield f"iterations={measured.iterations}"


def _laid_out(arguments: Iterable[str]) -> str:
    """Return the arguments of the decorator: on its line if they fit, else one per line."""
    words = list(arguments)
    line = ", ".join(words)
    return line if len(line) <= _LINE - len("@load_scenario()") else "".join(f"\n    {word}," for word in words) + "\n"


def _bounds(measured: Measurement) -> dict[str, str]:
    return {
        "generation": f"{measured.generation:.3g}",
        "most_generation": f"{bound_above(measured.generation):g}",
        "total": f"{measured.total:.3g}",
        "most_total": f"{bound_above(measured.total):g}",
    }


def ci_of(project: Path, remote: str | None) -> CiSystem:
    """Return the CI system of a project, detected by its files, else by the URL of its Git remote."""
    for system, file in _CI_FILES.items():
        if (project / file).exists() or (system == "github" and (project / ".github").is_dir()):
            return system
    return next((system for system in ("github", "gitlab") if system in (remote or "")), "none")


def ci_files(system: CiSystem, suite: str, *, simulated: bool) -> dict[str, str]:
    """Return the text of the CI file that runs the suite, by its path from the project root. Raises: UsageError."""
    if system == "none":
        return {}
    # The name becomes part of shell commands in the file.
    if not all(each.isalnum() or each in "/._-" for each in suite):
        raise UsageError(f"--ci {system}: {suite!r} is not a name for a CI file; use letters, digits, '.', '_' and '-'")
    options = "" if simulated else " --comfyload-require-server"
    return {
        _CI_FILES[system]: _filled(
            system,
            suite=suite,
            options=options,
            runner="ubuntu-latest" if simulated else "[self-hosted, gpu] # with the server of pytest.ini in reach",
            tags="" if simulated else "\n  tags: [gpu] # a runner with the server of pytest.ini in reach",
            agent="any" if simulated else "{ label 'gpu' }",
        )
    }


def _filled(template: str, **values: str) -> str:
    return Template((_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(values)


# --- writing ---


def write(files: Mapping[str, str], folder: Path) -> list[WrittenFile]:
    """Write the files that do not exist yet, and `*.new` next to one that differs. Raises: UsageError."""
    try:
        return [_write(folder / name, text) for name, text in sorted(files.items())]
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from None


def ignore_store(project: Path) -> list[WrittenFile]:
    """Add the store to the .gitignore of a repository. Raises: UsageError."""
    path, line = project / ".gitignore", f"{STORE}/"
    if not (project / ".git").exists():
        return []
    try:
        there = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
        if {line, STORE, f"/{line}", f"/{STORE}"} & {each.strip() for each in there.splitlines()}:
            return [WrittenFile(path, "unchanged")]
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if there.endswith("\n") or not there else "\n") + f"{line}\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror or error})") from None
    return [WrittenFile(path, "extended" if there else "written")]


def _write(path: Path, text: str) -> WrittenFile:
    """Write a file, or `*.new` next to one that differs. Raises: OSError."""
    if path.exists():
        if path.read_bytes().decode("utf-8", "replace") == text:
            return WrittenFile(path, "unchanged")
        path.with_name(f"{path.name}.new").write_text(text, encoding="utf-8", newline="")
        return WrittenFile(path, "kept")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return WrittenFile(path, "written")
