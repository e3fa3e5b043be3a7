"""The plugin gets on with pytest's other plugins and options, and costs nothing where no load runs."""

from __future__ import annotations

import socket
import sys

import pytest

from tests.plugin.suite import Suite

LOAD_TESTS = """
@load_scenario("txt2img", fetch=False, max_send_lag="30s", warmup=0)
class TestLoad:
    def test_met(self, load):
        assert load.success_rate == 100

    def test_missed(self, load):
        assert load.success_rate < 50

    def test_last(self, load):
        assert load.oom_errors == 0
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "no:xdist"],
        ["-p", "no:terminal"],
        ["-p", "no:junitxml"],
        ["-p", "no:cacheprovider", "-p", "no:capture"],
        ["-q"],
        ["-s"],
    ],
    ids=" ".join,
)
def test_with_and_without_other_plugins(suite: Suite, server: str, arguments: list[str]) -> None:
    suite.write("test_it.py", LOAD_TESTS)
    result = suite.run("--comfyui-url", server, *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    output = result.stdout.str()
    assert "INTERNALERROR" not in output + result.stderr.str()
    if "no:terminal" in arguments:
        assert output == ""
    else:
        result.assert_outcomes(passed=2, failed=1)
        assert output.count("SLO violated: success_rate 100 % < 50 % (n=1)") == 1
        # From the table of SLOs, which -q leaves out.
        assert output.count("  success_rate < 50 %  ") == (0 if "-q" in arguments else 1)
    greeting = f"comfyload: {server}: ComfyUI "
    assert output.count(greeting) == (0 if {"-q", "no:terminal"} & set(arguments) else 1)


def test_stop_at_the_first_failure_and_begin_with_it_again(suite: Suite, server: str) -> None:
    suite.write("test_it.py", LOAD_TESTS)
    first = suite.run("--comfyui-url", server, "-x")
    first.assert_outcomes(passed=1, failed=1)
    assert "success_rate < 50 %" in first.stdout.str()
    store = suite.folder / ".comfyload"
    assert (store / ".gitignore").read_text(encoding="utf-8") == "*\n"
    assert len(list((store / "runs").iterdir())) == 1
    again = suite.run("--comfyui-url", server, "--lf")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["  1 prompt succeeded in *"])


# --- what runs no load costs nothing ---

HEAVY = (
    "httpx", "httpcore", "aiohttp", "websockets", "numpy", "rich", "msgspec", "PIL", "filelock", "anyio",
)  # fmt: skip

_CONFESSION = f"""
import sys

def pytest_unconfigure(config):
    print("heavy:", sorted(set(sys.modules) & set({HEAVY})))
"""


@pytest.mark.parametrize("arguments", [["-k", "unrelated"], ["--co"]], ids=" ".join)
def test_nothing_heavy_is_imported(suite: Suite, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (suite.folder / "conftest.py").write_text(_CONFESSION, encoding="utf-8")
    suite.write("test_load.py", LOAD_TESTS)
    (suite.folder / "test_other.py").write_text("def test_unrelated(): pass\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_comfyload.plugin", "-p", "no:cacheprovider", *arguments]
    result = suite.pytester.run(*command, timeout=60)
    assert result.ret == pytest.ExitCode.OK
    assert "heavy: []" in result.outlines


_MODULES = """
import sys

def pytest_unconfigure(config):
    print("ours:", sum(name.partition(".")[0] == "pytest_comfyload" for name in sys.modules))
"""


@pytest.mark.parametrize("arguments", [[], ["--co", "-q"], ["-p", "no:terminal", "-s"]], ids=" ".join)
def test_a_suite_without_load_tests_loads_at_most_ten_modules_of_the_plugin(suite: Suite, arguments: list[str]) -> None:
    (suite.folder / "conftest.py").write_text(_MODULES, encoding="utf-8")
    (suite.folder / "test_other.py").write_text(
        "import pytest\n\npytestmark = pytest.mark.usefixtures('tmp_path')\n\ndef test_unrelated(): pass\n",
        encoding="utf-8",
    )
    result = suite.run(*arguments)
    assert result.ret == pytest.ExitCode.OK
    (line,) = [line for line in result.outlines if line.startswith("ours: ")]
    assert 1 < int(line.removeprefix("ours: ")) <= 10


def test_to_collect_is_to_connect_to_nobody(suite: Suite) -> None:
    suite.write("test_it.py", LOAD_TESTS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = suite.run_here("--co", "--comfyui-url", url)
        assert result.ret == pytest.ExitCode.OK
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert f"comfyload: {url}" in result.outlines
    assert not (suite.folder / ".comfyload").exists()


def test_to_collect_starts_no_simulator(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    (suite.folder / "conftest.py").write_text(
        "import subprocess\n\ndef popen(*args, **kwargs):\n    raise SystemExit('a process was started')\n\n"
        "subprocess.Popen = popen\n",
        encoding="utf-8",
    )
    suite.write("test_it.py", LOAD_TESTS)
    result = suite.run("--co")
    assert result.ret == pytest.ExitCode.OK
    assert "3 tests collected" in result.stdout.str()
