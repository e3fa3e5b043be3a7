"""--comfyui-worker from the command line to the summary."""

from __future__ import annotations

from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.plugin.suite import Suite
from tests.run.balancer import Balancer

WORKERS_TEST = """
@load_scenario("txt2img", users=4, fetch=False, max_send_lag="30s", warmup=0)
def test_it(load):
    assert sum(len(part.outcomes) for part in load.by("worker").values()) == 4
"""


def test_workers_are_greeted_and_summed_up_one_by_one(suite: Suite, workers: list[str]) -> None:
    suite.write("test_it.py", WORKERS_TEST)
    (suite.folder / "headers.txt").write_text("X-Team: pictures\n", encoding="utf-8")
    with SimulatorProcess(time_scale=20) as one, SimulatorProcess(time_scale=20) as two:
        urls = one.url, two.url
        named = [word for url in urls for word in ("--comfyui-worker", url)]
        with Balancer(urls) as balancer:
            result = suite.run(
                *workers,
                "-s",
                "-v",
                "--comfyui-url",
                balancer.url,
                *named,
                "--comfyui-header-file",
                f"{one.url}=headers.txt",
            )
    result.assert_outcomes(passed=1)
    for url in urls:
        (part,) = (line for line in result.outlines if line.startswith(f"    worker {url}"))
        assert "2 prompts succeeded" in part
        assert workers or any(f"comfyload: {url} (worker): ComfyUI" in line for line in result.outlines)
