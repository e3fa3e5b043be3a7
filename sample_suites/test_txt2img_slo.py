"""SLOs of a text-to-image service, for any ComfyUI server, also one on a CPU: copy this file first.

The marker describes the load. It runs before the test, and `load` has its result. Each comparison in an `assert` is an
SLO: the summary shows it with its margin, whether it holds or not.
"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=5, iterations=12)  # 60 prompts: a P95 needs 59
def test_txt2img_slo(load: LoadResult) -> None:
    assert load.success_rate == 100  # percent
    assert load.oom_errors == 0
    assert load.generation_time.p95 < 12  # seconds on the GPU, without the wait in the queue
    assert load.total_time.p95 < 60  # seconds, from the intended start to the picture in hand
    assert load.throughput > 4  # images per minute
