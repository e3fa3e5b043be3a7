"""pytest's own help with the plugin installed: every text is shown, whatever else is installed or missing."""

from __future__ import annotations

import sys

import pytest

from pytest_comfyload.plugin.options import OPTIONS, PluginOption
from tests.plugin.suite import Suite

EXTRAS = ("jinja2", "numpy", "fsspec")
_WITHOUT_EXTRAS = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS}))  # an import of them fails
import pytest
sys.exit(pytest.main())
"""
OTHER_PLUGINS = ("xdist", "benchmark", "timeout", "rerunfailures")


@pytest.mark.parametrize("page", ["--help", "--markers", "--fixtures"])
@pytest.mark.parametrize("installed", ["everything", "pytest alone"])
def test_a_page_of_help_is_complete(suite: Suite, page: str, installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.write("test_it.py", "def test_it(): pass\n")
    command = [sys.executable, "-m", "pytest"]
    if installed == "pytest alone":
        (suite.folder / "alone.py").write_text(_WITHOUT_EXTRAS, encoding="utf-8")
        command = [sys.executable, "alone.py", *(word for name in OTHER_PLUGINS for word in ("-p", f"no:{name}"))]
    monkeypatch.setenv("COLUMNS", "1000")
    result = suite.pytester.run(*command, page, timeout=60)
    assert result.ret == pytest.ExitCode.OK
    assert result.stderr.str() == ""
    output = result.stdout.str()
    for words in EXPECTED[page]:
        assert words in output


def _explained(option: PluginOption) -> tuple[str, str]:
    value = "" if option.metavar is None else f"={option.metavar}"
    default = f" (default: {option.default})" if option.kind == "string" and option.default else ""
    return f"{option.name}{value}", f"{option.help}{default}"


EXPECTED = {
    "--help": [words for option in OPTIONS for words in _explained(option)],
    "--markers": ["@pytest.mark.load_scenario(workflow, "],
    "--fixtures": ["The result of the load that @load_scenario describes", "find_capacity", "run_ab"],
}
