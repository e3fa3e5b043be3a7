"""A suite as a user would write it: test files in a folder of its own, and pytest run on them."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

__all__ = ["ALONE", "Suite"]

# Other plugins take a second to load and are not under test here.
_OTHERS = ("anyio", "hypothesispytest", "benchmark", "timeout")
ALONE = [word for name in _OTHERS for word in ("-p", f"no:{name}")]

_IMPORTS = "import pytest\nfrom pytest_comfyload import exponential, load_scenario, normal, param\n\n"

# Records what arrives at the controller with test reports, one JSON line each, and types other than built-ins.
_LISTENER = """
import json
from pathlib import Path

def alien_types(value):
    if type(value) is dict:
        return alien_types(list(value)) + alien_types(list(value.values()))
    if type(value) in (list, tuple):
        return [alien for each in value for alien in alien_types(each)]
    return [] if type(value) in (str, int, float, bool, type(None)) else [str(type(value))]

class Listener:
    def pytest_runtest_logreport(self, report):
        payload = getattr(report, "comfyload", None)
        if payload is not None:
            line = {"nodeid": report.nodeid, "when": report.when, "aliens": alien_types(payload), **payload}
            with Path("reports.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\\n")

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Listener())
"""


class Suite:
    """Test files in a folder, and pytest run on them."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    @property
    def folder(self) -> Path:
        return self.pytester.path

    def write(self, name: str, body: str) -> Path:
        path = self.folder / name
        path.write_text(_IMPORTS + textwrap.dedent(body), encoding="utf-8")
        return path

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a process of its own."""
        return self.pytester.runpytest_subprocess(*ALONE, *arguments, timeout=60)

    def run_here(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in this process, which takes a tenth of the time: for runs that end before any load."""
        return self.pytester.runpytest_inprocess(*ALONE, *arguments)

    def listen(self) -> None:
        """Make `reports` return what is sent with the test reports, starting with the next run."""
        (self.folder / "conftest.py").write_text(_LISTENER, encoding="utf-8")

    def reports(self) -> list[dict[str, Any]]:
        lines = (self.folder / "reports.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def run_ids(self) -> dict[str, list[str]]:
        """Return the ids of the runs that each test used, by the test's own name."""
        return {
            report["nodeid"].rpartition("::")[2]: [run["run_id"] for run in report["runs"]] for report in self.reports()
        }
