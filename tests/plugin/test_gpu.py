"""GPU figures as SLOs: of a load, of its servers, and without a load; their source is reported once and can be set."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.gpu.exporter import Exporter
from tests.gpu.nvml_stub import build
from tests.gpu.test_prometheus import SECOND
from tests.plugin.suite import Suite

LOADS = """
pytestmark = load_scenario("txt2img", users=2, iterations=10, fetch=False, max_send_lag="30s")

def test_utilization(load):
    assert 1 <= load.gpu.utilization.mean <= 100

def test_vram(load):
    assert load.gpu.vram.peak < 90
    assert load.by("server")[load.facts.servers[0]].gpu.temperature.max < 1
"""


def test_figures_of_gpus_are_slos(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write("test_it.py", LOADS)
    suite.listen()
    result = suite.run(*workers, "-v", "--comfyui-url", server)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*  GPU: utilization * % (* % while prompts ran) · power * W · * J per image · max *°C*",
            "*  VRAM: peak * (* %); ComfyUI says *: it counts what torch keeps for later use as free",
            "*gpu.vram.peak < 90 %*pass",
        ]
    )
    seen = {check["metric"] for report in suite.reports() for check in report["checks"]}
    assert {"gpu.utilization.mean", "gpu.vram.peak", f"[server={server}] gpu.temperature.max"} <= seen
    assert not [alien for report in suite.reports() for alien in report["aliens"]]
    # All tests share one load, also across processes.
    assert len({report["runs"][0]["run_id"] for report in suite.reports()}) == 1
    assert {report["runs"][0]["gpu"]["vram"]["peak"] for report in suite.reports()} != {None}


def test_without_a_load_the_checks_are_shown_as_well(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write(
        "test_it.py",
        """
        def test_met(gpu):
            with gpu.sampling() as usage:
                pass
            assert usage.memory_used.peak < 24 * 1024**3

        def test_missed(gpu):
            with gpu.sampling() as usage:
                pass
            assert usage.vram.peak > 100

        def test_nothing(gpu):
            pass
        """,
    )
    suite.listen()
    result = suite.run("-v", *workers, "--comfyui-url", server)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["SLO violated: gpu.vram.peak * % > 100 % (n=*)"])
    lines = [line.split() for line in result.outlines]
    assert [line for line in lines if line[:1] == ["gpu.memory_used.peak"] and line[-1] == "pass"]
    assert [line for line in lines if line[:1] == ["gpu.vram.peak"] and line[-1] == "FAIL"]
    assert len(suite.reports()) == 2


def test_the_source_is_said_once(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py", "def test_it(gpu):\n    for _ in range(2):\n        with gpu.sampling():\n            pass\n"
    )
    result = suite.run("--comfyui-url", server)
    said = [line for line in result.outlines if line.startswith("comfyload: GPU of ")]
    assert said == [f"comfyload: GPU of {server}: metrics {server}/metrics (NVIDIA GeForce RTX 4090, SIMULATED)"]


def test_a_simulated_gpu_is_refused_where_a_real_one_is_required(suite: Suite, server: str) -> None:
    suite.write("test_it.py", "def test_it(gpu):\n    with gpu.sampling():\n        pass\n")
    result = suite.run("--comfyui-url", server, "--comfyload-require-server")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E *{server} is a simulated server, and --comfyload-require-server refuses *"])


def test_without_a_server_this_machines_gpus_are_meant(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    library = build(suite.folder)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    suite.write(
        "test_it.py",
        """
        def test_it(gpu):
            with gpu.sampling() as usage:
                pass
            assert len(usage.devices) == 2
            assert usage.vram.peak < 100
        """,
    )
    result = suite.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["comfyload: GPU of this machine: nvml:GPU-00000000,GPU-00010000 (NVIDIA Stub 4090, *"])


@contextmanager
def _exporter() -> Iterator[str]:
    """Run an exporter in a thread, and yield its URL."""
    begun, over, urls = threading.Event(), threading.Event(), list[str]()

    async def serve() -> None:
        async with Exporter() as exporter:
            urls.append(exporter.url)
            begun.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert begun.wait(20)
        yield urls[0]
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("where", ["command line", "ini"])
def test_the_source_can_be_set(suite: Suite, server: str, where: str) -> None:
    suite.write("test_it.py", f"def test_it(gpu):\n    with gpu.sampling() as usage:\n        pass\n"
                f"    assert list(usage.devices) == ['{SECOND}']\n")  # fmt: skip
    with _exporter() as url:
        spec = f"{server}=metrics:{url}#{SECOND}"
        if where == "ini":
            (suite.folder / "pytest.ini").write_text(f"[pytest]\ncomfyload_gpu =\n    {spec}\n", encoding="utf-8")
        result = suite.run("--comfyui-url", server, *(["--comfyload-gpu", spec] if where == "command line" else []))
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nvml", "*--comfyload-gpu 'nvml': write URL=metrics:*"),
        ("http://gpu9:8188=none", "*http://gpu9:8188=none names a server that is not watched; servers: *"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(suite: Suite, spec: str, reason: str) -> None:
    suite.write("test_it.py", "def test_it():\n    pass\n")
    result = suite.run_here("--comfyui-url", "http://gpu1:8188", "--comfyload-gpu", spec)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([reason])


def test_in_an_ini_file_a_source_waits_for_its_server(suite: Suite) -> None:
    suite.write("test_it.py", "def test_it():\n    pass\n")
    (suite.folder / "pytest.ini").write_text("[pytest]\ncomfyload_gpu = http://gpu1:8188=none\n", encoding="utf-8")
    suite.run_here().assert_outcomes(passed=1)


def test_a_simulation_that_is_only_sampled_is_called_one(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write(
        "test_it.py",
        "def test_it(gpu):\n    with gpu.sampling() as usage:\n        pass\n    assert usage.vram.peak < 100\n",
    )
    result = suite.run(*workers, "--comfyui-url", server, "--junitxml=it.xml", "--comfyload-markdown=it.md")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["SIMULATED: a model's figures in virtual time; *"])
    assert "SIMULATED" in (suite.folder / "it.md").read_text(encoding="utf-8")
    assert 'name="comfyload.simulated" value="true"' in (suite.folder / "it.xml").read_text(encoding="utf-8")


WHAT_IS_TOLD = """
@load_scenario("txt2img", users=2, iterations=10, fetch=False, max_send_lag="30s")
class TestTold:
    def test_memory(self, load):
        assert load.gpu.vram.peak < 90

    def test_utilization(self, load):
        assert load.gpu.utilization.mean < 100

    def test_energy(self, load):
        assert load.gpu.energy_per_image < 900

    def test_throttled(self, load):
        assert load.gpu.throttled < 100

    def test_sampled(self, gpu):
        with gpu.sampling() as usage:
            pass
        assert usage.power.max < 900
"""


@pytest.mark.parametrize(
    ("source", "line", "passed"),
    [
        ("system_stats", "system_stats (memory only) (* SIMULATED)", 1),
        ("none", "none, as --comfyload-gpu says", 0),
    ],
)
def test_what_a_source_does_not_tell_fails_in_one_line_that_names_it(
    suite: Suite, server: str, workers: list[str], source: str, line: str, passed: int
) -> None:
    suite.write("test_it.py", WHAT_IS_TOLD)
    result = suite.run(*workers, "--comfyui-url", server, "--comfyload-gpu", f"{server}={source}")
    result.assert_outcomes(passed=passed, failed=5 - passed)
    if not workers:
        result.stdout.fnmatch_lines([f"comfyload: GPU of {server}: {line}"])
    for metric in ("utilization.mean", "energy_per_image", "throttled", "power.max"):
        told = (
            f"E * gpu.{metric} has no samples: GPUs were read at {server}: {line} (--comfyload-gpu sets other sources)"
        )
        result.stdout.fnmatch_lines([told])
    # Only the test's own line is shown, none of the plugin's.
    assert "metric.py" not in result.stdout.str()


def test_a_part_that_no_gpu_figures_belong_to_says_so(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        """
        @load_scenario("txt2img", fetch=False, max_send_lag="30s")
        def test_it(load):
            assert load.by("workflow")["txt2img"].gpu.power.mean < 1
        """,
    )
    result = suite.run("--comfyui-url", server)
    result.stdout.fnmatch_lines(["E * gpu.power.mean has no samples: GPU figures cannot be split by prompt; *"])
