"""SLOs of a text-to-image service. Start by copying this file; it suits any ComfyUI server, even one on a CPU.

The marker describes the load, which runs before the test; `load` is its result. Each comparison in an `assert` is an
SLO, which the summary shows with its margin, whether it is met or not.
"""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=5, iterations=12)  # 60 prompts: a P95 needs 59
def test_txt2img_slo(load: LoadResult) -> None:
    assert load.success_rate == 100  # percent
    assert load.oom_errors == 0
    assert load.generation_time.p95 < 12  # seconds on the GPU, without the queue
    assert load.total_time.p95 < 60  # seconds, from the intended start until the picture is there
    assert load.throughput > 4  # images per minute
