"""SLOs of the GPU itself: one run, with a test and a JUnit case for each SLO.

80 to 95 % utilization is a statement about sizing, so the load is open: a queue that is never empty keeps any GPU at
100 %. The rate suits the embedded simulator's RTX 4090; set your own. The seed makes the arrivals the same in every
run; without it, one run in three has 7 % more or fewer of them.
"""

from __future__ import annotations

import time

from pytest_comfyload import GpuSampler, LoadResult, load_scenario


def test_idle(gpu: GpuSampler) -> None:
    with gpu.sampling() as usage:
        time.sleep(1)
    assert usage.utilization.max < 10  # percent of the time in which a kernel was running
    assert usage.vram.peak < 90  # percent of the card


@load_scenario("txt2img", rate="41/min", arrival="poisson", duration="150s", seed=1)
class TestGpuSlo:
    def test_utilization(self, load: LoadResult) -> None:
        assert 80 <= load.gpu.utilization.mean <= 95  # percent, over the measured window

    def test_vram(self, load: LoadResult) -> None:
        assert load.gpu.vram.peak < 90  # percent of the card
        assert load.oom_errors == 0

    def test_heat(self, load: LoadResult) -> None:
        assert load.gpu.temperature.max < 83  # °C
        assert load.gpu.throttled < 1  # percent of the time in which the clocks were throttled

    def test_energy(self, load: LoadResult) -> None:
        assert load.gpu.power.mean < 430  # watts
        assert load.gpu.energy_per_image < 750  # joules, idle time included
