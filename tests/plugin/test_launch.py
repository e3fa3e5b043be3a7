"""`--comfyui-launch`: servers from an installation whose ComfyUI is the simulator; the installation is not changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_comfyload.history.store import Store
from tests.launch.fake_installation import installation
from tests.launch.test_installation import checksum
from tests.plugin.suite import Suite
from tests.run.test_custom_nodes import git, repository


@pytest.fixture
def launched(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Give the suite a temporary folder of its own, in which nothing may be left."""
    temporary = suite.folder / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    installation(suite.folder / "ComfyUI")
    return suite


def _left(suite: Suite) -> list[Path]:
    return list(suite.folder.glob("temporary/comfyload-*-launched/*"))


def test_loads_go_to_launched_servers(launched: Suite, workers: list[str]) -> None:
    before = checksum(launched.folder / "ComfyUI")
    launched.write(
        "test_it.py",
        """
        @load_scenario("txt2img", users=2, iterations=2, fetch=False, max_send_lag="30s", warmup=0)
        def test_it(load):
            assert load.success_rate == 100
            assert load.cold_start.max < 60
            assert load.cold_start.n == len(load.facts.servers) == 2
        """,
    )
    result = launched.run("--comfyui-launch=ComfyUI", "--comfyui-count=2", *workers)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["comfyload: launched from *ComfyUI", "comfyload: starting ComfyUI from *ComfyUI"])
    result.stdout.re_match_lines([r"comfyload: http://127.0.0.1:\d+ is ready after \d+\.\d s"] * 2)
    assert _left(launched) == []
    assert len(list((launched.folder / ".comfyload" / "logs").iterdir())) == 2
    assert checksum(launched.folder / "ComfyUI") == before


def test_a_server_that_dies_in_mid_run_comes_back_and_all_is_accounted_for(launched: Suite) -> None:
    launched.write(
        "test_it.py",
        """
        import json, threading, time, urllib.request

        def kill_in_mid_run(server):
            while len(json.load(urllib.request.urlopen(f"{server.url}/history"))) < 4:
                time.sleep(0.05)
            server.kill()

        def test_it(run_load, comfyui_process):
            first, other = comfyui_process.servers
            killer = threading.Thread(target=kill_in_mid_run, args=(first,))
            killer.start()
            load = run_load("txt2img", users=4, duration="240s", fetch=False, max_send_lag="30s", warmup=0)
            killer.join()
            assert load.accounting.submitted == sum(load.accounting.by_status.values())
            assert load.success_rate > 50
            assert load.cold_start.n == 3
            assert first.state.deaths == ("was killed by signal 9",)
            assert other.state.deaths == ()
            assert any("was killed by signal 9 during the run and was restarted" in n for n in load.facts.notes)
        """,
    )
    result = launched.run("--comfyui-launch=ComfyUI", "--comfyui-count=2")
    result.assert_outcomes(passed=1)
    assert _left(launched) == []


def test_a_failing_test_has_the_end_of_the_log(launched: Suite) -> None:
    launched.write(
        "test_it.py",
        """
        def test_it(run_load):
            assert run_load("txt2img", fetch=False, max_send_lag="30s").total_time.p50 < 0
        def test_other():
            assert False
        """,
    )
    result = launched.run("--comfyui-launch=ComfyUI")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*- ComfyUI at http://127.0.0.1:* -*", "the end of *.log:", "starting"])
    assert str(result.stdout).count("the end of") == 1


def test_the_version_of_a_custom_node_is_stored(launched: Suite) -> None:
    node = repository(launched.folder / "my_node", "old", "new")
    (node / "seconds").write_text("1.5")
    launched.write(
        "test_it.py",
        """
        WORKFLOW = {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
            "2": {"class_type": "SlowNode", "inputs": {"seed": 0, "image": ["1", 0]}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        }

        @load_scenario(WORKFLOW, max_send_lag="30s", id="slow")
        def test_it(load):
            assert load.node_time["SlowNode"].p50 > 1
        """,
    )
    result = launched.run("--comfyui-launch=ComfyUI", "--comfyui-node=my_node")
    result.assert_outcomes(passed=1)
    store = Store.open(launched.folder / ".comfyload")
    (row,) = store.runs()
    told = store.load(row).subject["custom node my_node"]
    assert told == f"{git(node, 'rev-parse', '--short=7', 'HEAD')}+dirty"


def test_two_commits_of_a_custom_node(launched: Suite) -> None:
    node = repository(launched.folder / "my_node", "old", "new")
    for seconds in ("2", "8"):
        (node / "seconds").write_text(seconds)
        git(node, "add", "-A")
        git(node, "commit", "-q", "-m", seconds)
    before = checksum(node)
    launched.write(
        "test_it.py",
        """
        WORKFLOW = {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
            "2": {"class_type": "SlowNode", "inputs": {"seed": 0, "image": ["1", 0]}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        }

        def test_it(run_ab, run_load, comfyui_process):
            url = comfyui_process.url
            ab = run_ab(WORKFLOW, A={"node": "main~1"}, B={"node": "main"}, pairs=2, iterations=2, max_send_lag="30s")
            assert ab.node_time["SlowNode"].ratio > 1.5
            assert ab.gates == ("node_time[SlowNode].p50", "generation_time.p50")
            assert run_load(WORKFLOW, max_send_lag="30s").facts.servers == (url,)
        """,
    )
    result = launched.run("-v", "--comfyui-launch=ComfyUI", "--comfyui-node=my_node", "-p", "no:randomly")
    result.assert_outcomes(passed=1)
    commits = [git(node, "rev-parse", "--short=7", ref) for ref in ("main~1", "main")]
    result.stdout.fnmatch_lines([f"*changed: custom node my_node {' → '.join(commits)}"])
    assert checksum(node) == before
    assert _left(launched) == []


def test_a_version_of_a_node_needs_an_installation(suite: Suite) -> None:
    suite.write("test_it.py", 'def test_it(run_ab):\n    run_ab("txt2img", A={"node": "a"}, B={"node": "b"})\n')
    result = suite.run_here()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*a version of a custom node needs a server to run in: add --comfyui-launch=DIR"])


def test_a_server_that_does_not_start_fails_the_test(launched: Suite) -> None:
    launched.write("test_it.py", "def test_it(run_load):\n    run_load('txt2img')\n")
    result = launched.run("--comfyui-launch=ComfyUI", "--comfyui-args=--broken")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*ComfyUI exited with status 1 before it was ready", "*", "starting", "no module named*"]
    )
    assert _left(launched) == []


def test_one_that_does_not_start_for_workers_is_one_message(launched: Suite) -> None:
    pytest.importorskip("xdist")
    launched.write("test_it.py", "def test_it(run_load):\n    run_load('txt2img')\n")
    result = launched.run("--comfyui-launch=ComfyUI", "--comfyui-args=--broken", "-n2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*ComfyUI exited with status 1 before it was ready"])
    assert "Traceback" not in str(result.stderr)


def test_a_worker_has_no_processes(launched: Suite) -> None:
    pytest.importorskip("xdist")
    launched.write("test_it.py", "def test_it(comfyui_process):\n    pass\n")
    result = launched.run("--comfyui-launch=ComfyUI", "-n1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*launched servers belong to the xdist controller: run tests with `comfyui_process` without -n"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--comfyui-launch=nowhere"], "no ComfyUI in *nowhere: it has no main.py*"),
        (["--comfyui-launch=ComfyUI", "--comfyui-url=http://gpu1:8188"], "*http://gpu1:8188 is named: leave one out*"),
        (["--comfyui-launch=ComfyUI", "--comfyui-count=0"], "*--comfyui-count '0': give a whole number from 1 to 64*"),
        (["--comfyui-launch=ComfyUI", "--comfyui-args='"], '*--comfyui-args "\'" cannot be split*'),
        (["--comfyui-launch=ComfyUI", "--comfyui-python=nowhere"], "*nowhere is not a Python that can be run*"),
        (["--comfyui-launch=ComfyUI", "--comfyui-node=nowhere"], "*no custom node in *nowhere*"),
        (["--comfyui-node=."], "*--comfyui-node applies to launched servers: add --comfyui-launch=DIR*"),
        (["--comfyui-launch=ComfyUI", "--comfyload-node-time=A=1"], "*is for the embedded simulator*"),
    ],
)
def test_invalid_options(launched: Suite, options: list[str], message: str) -> None:
    result = launched.run_here(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}"])


def test_a_process_needs_the_option(launched: Suite) -> None:
    launched.write("test_it.py", "def test_it(comfyui_process):\n    pass\n")
    result = launched.run_here()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*--comfyui-launch=DIR starts servers, and is not given"])


def test_the_path_of_an_ini_file_is_from_there(launched: Suite) -> None:
    (launched.folder / "pytest.ini").write_text("[pytest]\ncomfyui_launch = ComfyUI\n")
    below = launched.folder / "below"
    below.mkdir()
    launched.write("below/test_it.py", "def test_it():\n    pass\n")
    result = launched.run_here("--rootdir", str(launched.folder), "-c", "pytest.ini", str(below))
    result.stdout.fnmatch_lines([f"comfyload: launched from {launched.folder}/ComfyUI"])
