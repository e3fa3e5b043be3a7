"""Options: one message for each invalid value, an ini twin for each option, and secrets that stay secret."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.plugin.options import SIMULATED_GPU, TIME_SCALE, VARIABLES
from pytest_comfyload.plugin.settings import read_settings
from pytest_comfyload.simulator.settings import SimulatorSettings
from tests.plugin.suite import Suite
from tests.run.balancer import Balancer

LOAD_TEST = """
@load_scenario("txt2img", fetch=False, max_send_lag="30s", warmup=0)
def test_it(load):
    pass
"""

BAD_OPTIONS = {
    "url": (["--comfyui-url", "gpu1:8188"], "not a server URL: 'gpu1:8188'; write it as http://host:port"),
    "port": (["--comfyui-url", "http://gpu1:port"], "not a server URL: 'http://gpu1:port'"),
    "time scale": (["--comfyload-time-scale", "fast"], "--comfyload-time-scale=fast is not a number above 0"),
    "time scale 0": (["--comfyload-time-scale=0"], "--comfyload-time-scale=0 is not a number above 0"),
    "time scale nan": (["--comfyload-time-scale=nan"], "--comfyload-time-scale=nan is not a number above 0"),
    "gpu": (["--comfyload-simulated-gpu", "rtx4091"], "unknown GPU 'rtx4091'; choose one of: rtx4090, "),
    "size": (
        ["--comfyui-url", "http://127.0.0.1:1", "--comfyload-max-response=2000"],
        "--comfyload-max-response='2000' is not a size; write a number and a unit: '512MiB', '2GB'",
    ),
    "header file": (
        ["--comfyui-url", "http://127.0.0.1:1", "--comfyui-header-file", "nowhere.txt"],
        "header file 'nowhere.txt' cannot be read: No such file or directory",
    ),
    "header line": (
        ["--comfyui-url", "http://127.0.0.1:1", "--comfyui-header-file", "headers.txt"],
        "headers.txt, line 2: not a header; write each as `Name: value`",
    ),
    "header file of another server": (
        ["--comfyui-url", "http://127.0.0.1:1", "--comfyui-header-file", "http://127.0.0.1:2=good.txt"],
        "--comfyui-header-file names http://127.0.0.1:2, which is not one of the servers: http://127.0.0.1:1",
    ),
    "header file without a server": (
        ["--comfyui-header-file", "good.txt"],
        "--comfyui-header-file is given, but headers need a server: add --comfyui-url URL or set COMFYUI_URL",
    ),
    "malformed worker": (
        ["--comfyui-url", "http://127.0.0.1:1", "--comfyui-worker", "gpu1:8188"],
        "not a server URL: 'gpu1:8188'; write it as http://host:port",
    ),
    "worker without a server": (
        ["--comfyui-worker", "http://127.0.0.1:1"],
        "--comfyui-worker is given, but no balancer: add --comfyui-url URL or set COMFYUI_URL",
    ),
    "worker that is a server": (
        ["--comfyui-url", "http://127.0.0.1:1/", "--comfyui-worker", "http://127.0.0.1:1"],
        "http://127.0.0.1:1 is a --comfyui-url and a --comfyui-worker",
    ),
    "pictures": (["--comfyload-keep-pictures=all"], "--comfyload-keep-pictures 'all': legal: sample, none"),
    "malformed override": (["--comfyui-input", "steps"], "'steps' sets no input: write NODE.INPUT=VALUE"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_bad_option_is_one_message(suite: Suite, case: str) -> None:
    arguments, message = BAD_OPTIONS[case]
    (suite.folder / "good.txt").write_text("X-Team: pictures\n", encoding="utf-8")
    (suite.folder / "headers.txt").write_text("X-Team: pictures\nno header sekret\n", encoding="utf-8")
    suite.write("test_it.py", LOAD_TEST)
    _expect_usage_error(suite.run_here(*arguments), message)


def test_the_defaults_are_legal() -> None:
    """The defaults are valid, although a run without options does not check them."""
    assert SimulatorSettings(gpu=SIMULATED_GPU).gpu == SIMULATED_GPU
    assert float(TIME_SCALE) > 0


def test_each_variable_that_settings_are_read_from_is_checked_at_the_start(pytester: pytest.Pytester) -> None:
    class Environment(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name)
            return default

    asked: set[str] = set()
    read_settings(pytester.parseconfig(), Environment())
    assert asked == set(VARIABLES)


def test_headers_in_the_environment_need_a_server_too(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_HEADERS", "X-Key: sekret")
    _expect_usage_error(suite.run_here(), "COMFYUI_HEADERS is given, but headers need a server")
    assert suite.run_here("--co", "--comfyui-url", "http://gpu1:8188").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_headers_in_the_ini_file_wait_for_the_run_that_names_a_server(suite: Suite) -> None:
    (suite.folder / "pytest.ini").write_text("[pytest]\ncomfyui_header_file = headers.txt\n", encoding="utf-8")
    assert "comfyload: embedded simulator (rtx4090 at ×20)" in suite.run_here("--co").outlines


def test_a_bad_option_is_one_message_with_workers_too(suite: Suite) -> None:
    pytest.importorskip("xdist")
    arguments, message = BAD_OPTIONS["url"]
    _expect_usage_error(suite.run("-n2", *arguments), message)


def _expect_usage_error(result: pytest.RunResult, message: str) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    output = result.stdout.str() + result.stderr.str()
    assert output.count(message) == 1
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output
    assert "sekret" not in output
    assert "test_it.py" not in output


def test_an_input_that_no_scenario_has_is_one_message(suite: Suite, workers: list[str]) -> None:
    suite.write("test_it.py", LOAD_TEST)
    result = suite.run(*workers, "--comfyui-input", "Nowhere.steps=3")
    # With workers, nothing is collected before they start: there the test itself reports the error.
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if workers else pytest.ExitCode.USAGE_ERROR)
    output = f"{result.stdout.str()}\n{result.stderr.str()}"
    message = "--comfyui-input Nowhere.steps: no collected scenario has such a node; write NODE.INPUT"
    assert len([line for line in output.splitlines() if line.removeprefix("ERROR: ").startswith(message)]) == 1
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output


@pytest.mark.parametrize(
    ("ini", "said"),
    [
        ("comfyui_url = http://gpu1:8188 \n http://gpu2:8188", "comfyload: http://gpu1:8188, http://gpu2:8188"),
        (
            "comfyui_url = http://lb\ncomfyui_worker = http://gpu1:8188 \n http://gpu2:8188",
            "comfyload: http://lb (workers: http://gpu1:8188, http://gpu2:8188)",
        ),
        ("comfyload_require_server = true", "comfyload: no server named; simulation refused"),
        (
            "comfyload_simulated_gpu = h100\ncomfyload_time_scale = 50",
            "comfyload: embedded simulator (h100 at ×50)",
        ),
        ("", "comfyload: embedded simulator (rtx4090 at ×20)"),
    ],
)
def test_ini_twins_and_the_header_line(suite: Suite, ini: str, said: str) -> None:
    (suite.folder / "pytest.ini").write_text(f"[pytest]\n{ini}\n", encoding="utf-8")
    assert said in suite.run_here("--co").outlines


def test_the_command_line_beats_the_environment_and_that_the_ini_file(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    (suite.folder / "pytest.ini").write_text("[pytest]\ncomfyui_url = http://ini:1\n", encoding="utf-8")
    assert "comfyload: http://ini:1" in suite.run_here("--co").outlines
    monkeypatch.setenv("COMFYUI_URL", "http://env:1, http://env:2")
    assert "comfyload: http://env:1, http://env:2" in suite.run_here("--co").outlines
    assert "comfyload: http://cli:1" in suite.run_here("--co", "--comfyui-url", "http://cli:1").outlines


def test_inputs_and_header_files_by_ini_file(suite: Suite, server: str) -> None:
    (suite.folder / "pytest.ini").write_text(
        f"[pytest]\ncomfyui_url = {server}\ncomfyui_input =\n    KSampler.steps=3\n    EmptyLatentImage.width=64\n",
        encoding="utf-8",
    )
    suite.write("test_it.py", STEPS_TEST.format(steps=3))
    suite.run().assert_outcomes(passed=1)


STEPS_TEST = """
@load_scenario("txt2img", inputs={{"KSampler.steps": 9}}, fetch=False, max_send_lag="30s", warmup=0)
def test_it(load):
    (sampler,) = (node for node in load.outcomes[0].nodes if node.class_type == "KSampler")
    assert sampler.steps[-1][1] == {steps}
"""


def test_an_input_of_the_command_line_beats_the_marker(suite: Suite, server: str) -> None:
    suite.write("test_it.py", STEPS_TEST.format(steps=2))
    suite.run("--comfyui-url", server, "--comfyui-input", "KSampler.steps=2").assert_outcomes(passed=1)


def test_require_server_refuses_the_embedded_and_a_named_simulator(suite: Suite, server: str) -> None:
    suite.write("test_it.py", LOAD_TEST)
    for arguments, message in (
        ([], "no server was named, and --comfyload-require-server refuses a simulation; name a real one with"),
        (["--comfyui-url", server], f"{server} is a simulated server, and --comfyload-require-server refuses"),
    ):
        result = suite.run("--comfyload-require-server", *arguments)
        result.assert_outcomes(errors=1)
        assert len([line for line in result.outlines if line.startswith(message)]) == 1


def _occupy(url: str, extra_data: dict[str, object]) -> None:
    """Submit a prompt that takes a few seconds of real time."""
    sleep = {"1": {"class_type": "ProbeSleep", "inputs": {"seconds": 1200.0, "seed": 1, "width": 64}}}
    save = {"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "theirs"}}}
    body = json.dumps({"prompt": {**sleep, **save}, "extra_data": extra_data}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/prompt", body), timeout=10).close()


BUSY_TEST = """
@load_scenario("txt2img", preset="spike", users=1, think_time="5s", fetch=False, max_send_lag="30s", warmup=0)
def test_it(load):
    assert load.contended > 0
"""


def test_a_busy_server_is_spared_unless_it_is_allowed(suite: Suite) -> None:
    suite.write("test_it.py", BUSY_TEST)
    with SimulatorProcess(time_scale=100, probe_nodes=True) as process:
        _occupy(process.url, {})
        spared = suite.run("--comfyui-url", process.url)
        assert not list((suite.folder / ".comfyload" / "spool").iterdir())
        allowed = suite.run("--comfyui-url", process.url, "--comfyload-allow-busy")
    spared.assert_outcomes(errors=1)
    spared.stdout.fnmatch_lines([f"{process.url} is busy: its queue holds 1 prompt, and preset='spike' would *"])
    allowed.assert_outcomes(passed=1)


def test_leftovers_are_deleted_where_that_is_wanted(suite: Suite) -> None:
    with SimulatorProcess(time_scale=100, probe_nodes=True) as process:
        _occupy(process.url, {"comfyload": {"run": "20260101T000000-dead"}})
        suite.write("test_it.py", LOAD_TEST)
        result = suite.run("--comfyui-url", process.url, "--comfyload-delete-leftovers")
    result.assert_outcomes(passed=1)
    note = f"{process.url} still held 1 prompt of earlier runs, deleted now: 20260101T000000-dead (1)"
    # In the details of the run if it shared the server for a moment, otherwise on a line of its own.
    assert any(line.lstrip().startswith(f"note: {note}") for line in result.outlines)


# --- secrets ---


class _Guarded(http.server.BaseHTTPRequestHandler):
    """A server that rejects every request and records the `Authorization` headers it receives."""

    def do_GET(self) -> None:
        self.server.told.append(self.headers.get("Authorization"))  # type: ignore[attr-defined]
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def guarded() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Guarded) as httpd:
        httpd.told = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


SECRETS_TEST = """
@load_scenario("txt2img", warmup=0)
def test_refused(load):
    pass

def test_by_hand(comfyui, run_load, request):
    here = locals()
    print(comfyui, comfyui.url, run_load, vars(comfyui))
    assert comfyui.system_stats() is None
"""


def test_credentials_are_sent_and_never_shown(
    suite: Suite, guarded: http.server.ThreadingHTTPServer, workers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = guarded.server_address[1]
    suite.write("test_it.py", SECRETS_TEST)
    (suite.folder / "headers.txt").write_text("X-Key: sekret-in-file\n", encoding="utf-8")
    monkeypatch.setenv("COMFYUI_HEADERS", "X-Other: sekret-in-environment")
    result = suite.run(
        *workers, "-vv", "--tb=long", "-l", "-ra", "--junitxml=it.xml",
        "--comfyui-url", f"http://someone:sekret-in-url@127.0.0.1:{port}", "--comfyui-header-file", "headers.txt",
    )  # fmt: skip
    result.assert_outcomes(failed=1, errors=1)
    assert f"http://127.0.0.1:{port} requires a login" in result.stdout.str()
    written = (suite.folder / "it.xml").read_text(encoding="utf-8")
    assert "sekret" not in result.stdout.str() + result.stderr.str() + written
    told = guarded.told  # type: ignore[attr-defined]
    assert told
    assert all(value and value.startswith("Basic ") for value in told)
    assert not any(value.removeprefix("Basic ") in result.stdout.str() + written for value in told)


def test_a_query_goes_with_every_request_and_is_never_shown(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        """
        @load_scenario("txt2img", iterations=2, max_send_lag="30s")
        def test_it(load):
            assert load.success_rate == 100
            assert load.total_time.p95 < 0
        """,
    )
    files = ["--junitxml=it.xml", "--comfyload-markdown=it.md", "--comfyload-html=it.html"]
    with Balancer([server], sticky=False, token="sekret/in query") as gateway:
        url = f"{gateway.url}/?token=sekret%2Fin%20query"
        result = suite.run("--comfyui-url", url, *files, "-vv", "-l", "--log-level=DEBUG")
        assert gateway.refused == 0
        refused = suite.run("--comfyui-url", url.replace("query", "sekret"), "--log-level=DEBUG")
    result.assert_outcomes(failed=1)
    assert "2 prompts succeeded" in result.stdout.str()
    assert f"{gateway.url} requires a login" in refused.stdout.str()
    written = [path.read_bytes() for path in suite.folder.rglob("*") if path.is_file()]
    kept = [gzip.decompress(content) for content in written if content.startswith(b"\x1f\x8b")]
    assert len(kept) == 1
    printed = [run.stdout.str() + run.stderr.str() for run in (result, refused)]
    assert not [each for each in (*written, *kept) if b"sekret" in each]
    assert not [each for each in printed if "sekret" in each]


@pytest.mark.parametrize(
    "url",
    ["gpu1:8188/?token=sekret", "someone:sekret@gpu1:8188", "ftp://someone:sekret@gpu1", "http://a:sekret/b@gpu1:x"],
)
def test_credentials_in_a_bad_url_are_not_shown_either(suite: Suite, url: str) -> None:
    result = suite.run_here("--comfyui-url", url)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "not a server URL" in result.stderr.str()
    assert "sekret" not in result.stdout.str() + result.stderr.str()
