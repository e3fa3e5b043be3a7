"""`load.gpu`: over the measured window only, weighted by time, of one server or all."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import NoSamples, UsageError
from pytest_comfyload.metrics.assessment import judge
from pytest_comfyload.metrics.metric import watch_comparisons
from pytest_comfyload.result.gpu_usage import ExecutedWork, GpuUsage
from pytest_comfyload.result.output_files import FetchedFile
from pytest_comfyload.result.telemetry import GpuSample
from tests.result.made import prompt, run_of

IMAGE = (FetchedFile("9", "images", "a.png", "", "output"),)
A, B = "http://a", "http://b"
IDLE = ExecutedWork()
GIB = 1024.0**3


def _sample(time: float, span: float = 1.0, server: str = A, gpu: str = "GPU-1", **values: Any) -> GpuSample:
    return GpuSample(server, gpu, time, span, **values)


def _usage(*samples: GpuSample, window: tuple[float, float] = (0.0, 10.0), work: ExecutedWork = IDLE) -> GpuUsage:
    return GpuUsage(samples, window, work)


def test_a_mean_is_weighted_by_time() -> None:
    usage = _usage(_sample(1.0, utilization=100.0), _sample(4.0, 3.0, utilization=20.0))
    assert float(usage.utilization.mean) == 40.0
    assert (usage.utilization.max, usage.utilization.mean.n) == (100.0, 2)
    assert (usage.utilization.mean.name, usage.utilization.mean.unit) == ("gpu.utilization.mean", "%")


def test_what_lies_outside_of_the_window_does_not_count() -> None:
    usage = _usage(
        _sample(10.0, 10.0, utilization=100.0, memory_used=9.0),
        _sample(12.0, 4.0, utilization=0.0, memory_used=1.0),  # two of its seconds lie in the window
        _sample(14.0, 2.0, utilization=50.0, memory_used=2.0),
        _sample(30.0, 2.0, utilization=100.0, memory_used=9.0),
        window=(10.0, 14.0),
    )
    assert float(usage.utilization.mean) == 25.0
    assert usage.utilization.max == 50.0
    assert usage.memory_used.peak == 2.0


def test_a_first_look_counts_where_there_is_nothing_else() -> None:
    first = _sample(0.0, 0.0, memory_used=5.0, power=10.0)
    assert float(_usage(first).memory_used.mean) == 5.0
    assert float(_usage(first, _sample(1.0, 1.0, power=30.0)).power.mean) == 30.0


def test_p95_is_by_time() -> None:
    usage = _usage(_sample(9.4, 9.4, utilization=10.0), _sample(10.0, 0.6, utilization=90.0))
    assert usage.utilization.p95 == 90.0
    usage = _usage(_sample(9.6, 9.6, utilization=10.0), _sample(10.0, 0.4, utilization=90.0))
    assert usage.utilization.p95 == 10.0


def test_memory_is_bytes_and_percent_of_the_card() -> None:
    usage = _usage(
        *(_sample(60.0 * minute, memory_used=minute * GIB, memory_total=20 * GIB) for minute in range(1, 5)),
        window=(0.0, 240.0),
    )
    assert float(usage.vram.peak) == pytest.approx(20.0)
    assert float(usage.vram.mean) == pytest.approx(12.5)
    assert usage.memory_used.peak == 4 * GIB
    assert float(usage.memory_used.slope) == pytest.approx(GIB)
    assert usage.memory_used.peak.name == "gpu.memory_used.peak"
    assert (usage.vram.peak.unit, usage.memory_used.slope.unit) == ("%", "B/min")


def test_busy_mean_is_all_the_work_over_the_time_of_executing() -> None:
    executed = {A: [(0.0, 2.0), (1.0, 4.0), (8.0, 30.0)]}  # executing in six of ten seconds
    usage = _usage(
        *(_sample(float(second), utilization=48.0) for second in range(1, 11)), work=ExecutedWork(executed, outputs=3)
    )
    assert float(usage.utilization.busy_mean) == pytest.approx(80.0)
    assert usage.utilization.busy_mean.name == "gpu.utilization.busy_mean"


def test_no_gpu_was_busy_for_more_than_all_of_the_time() -> None:
    usage = _usage(_sample(10.0, 10.0, utilization=60.0), work=ExecutedWork({A: [(0.0, 5.0)]}))
    assert usage.utilization.busy_mean == 100.0


def test_busy_mean_of_servers_weighs_each_by_its_time() -> None:
    work = ExecutedWork({A: [(0.0, 10.0)], B: [(0.0, 5.0)]})
    usage = _usage(_sample(10.0, 10.0, utilization=90.0), _sample(10.0, 10.0, B, "GPU-2", utilization=30.0), work=work)
    assert float(usage.utilization.mean) == 60.0
    assert float(usage.utilization.busy_mean) == pytest.approx(80.0)


def test_without_a_prompt_nothing_was_busy() -> None:
    busy = _usage(_sample(10.0, 10.0, utilization=60.0)).utilization.busy_mean
    assert busy.n == 0
    with pytest.raises(NoSamples, match=r"gpu\.utilization\.busy_mean"):
        assert busy > 0


@pytest.mark.parametrize(
    "metric",
    [
        "utilization.mean", "utilization.p95", "utilization.max", "utilization.busy_mean", "vram.peak", "vram.mean",
        "memory_used.peak", "memory_used.mean", "memory_used.slope", "temperature.max", "temperature.mean",
        "power.mean", "power.max", "energy", "energy_per_image", "clock.mean", "clock.min", "throttled",
    ],
)  # fmt: skip
def test_what_no_source_told_is_not_compared(metric: str) -> None:
    value: Any = _usage(_sample(1.0), work=ExecutedWork({A: [(0.0, 5.0)]}, outputs=2))
    for name in metric.split("."):
        value = getattr(value, name)
    assert value.n == 0
    assert value.name == f"gpu.{metric}"
    with pytest.raises(NoSamples):
        assert value < 1


def test_a_slip_of_the_pen_is_no_metric() -> None:
    usage: Any = _usage(_sample(1.0, utilization=1.0))
    with pytest.raises(AttributeError):
        usage.utilisation  # noqa: B018
    with pytest.raises(AttributeError):
        usage.vram.p95  # noqa: B018


def test_energy_is_the_sum_of_the_cards_and_says_where_it_comes_from() -> None:
    counted = [_sample(0.0, 0.0, energy=0.0), _sample(10.0, 10.0, energy=500.0)]
    powered = [_sample(10.0, 10.0, gpu="GPU-2", power=30.0)]
    work = ExecutedWork(outputs=4)
    usage = _usage(*counted, *powered, work=work)
    assert (usage.energy, usage.energy.source, usage.energy.unit) == (800.0, "counter and power", "J")
    assert (usage.energy_per_image, usage.energy_per_image.n) == (200.0, 4)
    assert _usage(*counted, work=work).energy_per_image.source == "counter"
    # Another card reports nothing, so the sum would be too small.
    assert _usage(*counted, _sample(10.0, 10.0, gpu="GPU-3"), work=work).energy.n == 0
    assert _usage(*counted).energy_per_image.n == 0


def test_two_servers_on_one_card_use_its_energy_once() -> None:
    usage = _usage(_sample(10.0, 10.0, power=30.0), _sample(10.0, 10.0, server=B, power=30.0))
    assert usage.energy == 300.0
    assert list(usage.devices) == ["GPU-1"]


def test_throttling_is_a_share_of_time_by_reason() -> None:
    usage = _usage(
        _sample(2.0, 2.0, throttle=("sw_power_cap",)),
        _sample(3.0, 1.0, throttle=("sw_power_cap", "sw_thermal")),
        _sample(10.0, 7.0, throttle=()),
    )
    assert float(usage.throttled) == pytest.approx(30.0)
    assert {reason: float(share) for reason, share in usage.throttled.reasons.items()} == pytest.approx(
        {"sw_power_cap": 30.0, "sw_thermal": 10.0}
    )
    assert usage.throttled.reasons["hw_thermal"] == 0
    with pytest.raises(UsageError, match=r"reasons\['hw_termal'\]: legal: hw_thermal"):
        usage.throttled.reasons["hw_termal"]


def test_each_gpu_by_itself() -> None:
    usage = _usage(
        _sample(10.0, 10.0, utilization=90.0, temperature=70.0),
        _sample(10.0, 10.0, gpu="GPU-2", utilization=30.0, temperature=40.0),
    )
    assert float(usage.utilization.mean) == 60.0
    assert usage.temperature.max == 70.0
    assert usage.devices["GPU-2"].utilization.mean == 30.0
    assert usage.devices["GPU-2"].temperature.max.name == "gpu.devices[GPU-2].temperature.max"
    with pytest.raises(UsageError, match=r"gpu.devices\['GPU-3'\]: no such GPU was seen; there are: GPU-"):
        usage.devices["GPU-3"]


def test_the_first_gpus_of_two_servers_are_two() -> None:
    usage = _usage(_sample(1.0, gpu="cuda:0"), _sample(1.0, server=B, gpu="cuda:0"))
    assert list(usage.devices) == [f"{A} cuda:0", f"{B} cuda:0"]


def test_a_long_window_full_of_prompts_has_an_interval_and_others_say_why_not() -> None:
    samples = [_sample(float(second), utilization=40.0 + second % 20) for second in range(1, 121)]
    work = ExecutedWork({A: [(0.0, 120.0)]})
    mean = _usage(*samples, window=(0.0, 120.0), work=work).utilization.mean
    assert mean.interval is not None
    assert mean.interval[0] < float(mean) < mean.interval[1]
    assert judge(mean, "<", 90).verdict == "pass"
    short = _usage(*samples, window=(0.0, 30.0), work=work).utilization.mean
    assert short.interval == (-math.inf, math.inf)
    judgement = judge(short, "<", 90)
    assert judgement.verdict == "unsupported"
    assert judgement.sentence.endswith("%, but a window of 30 s is shorter than 60 s.")


def test_where_no_load_was_looked_at_an_idle_gpu_is_an_interval_and_no_gap() -> None:
    samples = [_sample(float(second), utilization=0.0) for second in range(1, 121)]
    mean = _usage(*samples, window=(0.0, 120.0)).utilization.mean
    assert mean.interval == (0.0, 0.0)
    assert judge(mean, "<", 5).verdict == "pass"
    beside_a_load = _usage(*samples, window=(0.0, 120.0), work=ExecutedWork({})).utilization.mean
    assert judge(beside_a_load, "<", 5).sentence.endswith("but no prompt was executed in one of its 10 parts.")


def test_an_interval_of_percentages_stays_within_them() -> None:
    samples = [_sample(float(second), utilization=100.0 * (second % 24 < 12)) for second in range(1, 121)]
    usage = _usage(*samples, window=(0.0, 120.0), work=ExecutedWork({A: [(0.0, 120.0)]}))
    busy = usage.utilization.busy_mean
    assert busy.interval is not None
    assert 0.0 <= busy.interval[0] <= busy.interval[1] <= 100.0


@given(st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0, 100)), min_size=2, max_size=20), st.floats(0.1, 0.9))
def test_two_halves_of_a_window_are_the_whole(steps: list[tuple[float, float]], cut: float) -> None:
    time, samples = 0.0, []
    for span, value in steps:
        time += span
        samples.append(_sample(time, span, utilization=value))
    halves = [(0.0, cut * time), (cut * time, time)]
    means = [float(_usage(*samples, window=window).utilization.mean) for window in halves]
    whole = float(_usage(*samples, window=(0.0, time)).utilization.mean)
    assert means[0] * cut + means[1] * (1 - cut) == pytest.approx(whole, abs=1e-6)


# --- as part of a load ---


def _load(**facts: Any) -> Any:
    """Return four-second prompts at 0, 10, … 90 s on two servers in turn, whose GPUs are at 16 and 8 %."""
    prompts = [prompt(10.0 * n, server=(A, B)[n % 2], outputs=IMAGE, workflow=f"w{n % 3}") for n in range(10)]
    gpus = [
        _sample(float(second), server=server, gpu=gpu, utilization=value, power=100.0)
        for server, gpu, value in ((A, "GPU-1", 16.0), (B, "GPU-2", 8.0))
        for second in range(1, 121)
    ]
    return run_of(*prompts, gpu_usage=tuple(gpus), **facts)


def test_a_load_and_its_servers() -> None:
    load = _load()
    assert float(load.gpu.utilization.mean) == pytest.approx(12.0)
    assert float(load.gpu.utilization.busy_mean) == pytest.approx(60.0)
    assert float(load.gpu.energy_per_image) == pytest.approx(2 * 100 * 100 / 10)
    first = load.by("server")[A].gpu
    assert float(first.utilization.mean) == pytest.approx(16.0)
    assert float(first.utilization.busy_mean) == pytest.approx(80.0)
    assert float(load.by("server")[B].gpu.energy_per_image) == pytest.approx(100 * 100 / 5)


def test_a_load_between_two_times_counts_prompts_that_began_before() -> None:
    part = _load().between(2, 12)  # two seconds each of the first two prompts
    assert float(part.gpu.utilization.busy_mean) == pytest.approx(60.0)
    assert part.gpu.utilization.mean.n == 20
    assert float(part.gpu.energy) == pytest.approx(2000.0)


def test_a_gpu_does_not_say_whose_prompt_it_works_on() -> None:
    with pytest.raises(NoSamples, match=r"\[workflow=w1\] gpu\.power\.mean has no samples"):
        assert _load().by("workflow")["w1"].gpu.power.mean < 1


def test_workers_have_the_gpus_of_their_balancer() -> None:
    prompts = [prompt(0.0, server="http://balancer", worker=A), prompt(5.0, server="http://balancer", worker=B)]
    gpus = tuple(_sample(float(n), server=server, utilization=8.0) for server in (A, B) for n in range(1, 101))
    load = run_of(*prompts, gpu_usage=gpus, workers=(A, B))
    assert load.by("server")["http://balancer"].gpu.utilization.mean.n == 200
    assert load.by("worker")[A].gpu.utilization.mean.n == 100
    assert float(load.by("worker")[A].gpu.utilization.busy_mean) == pytest.approx(100.0)


def test_the_figures() -> None:
    figures = _load(gpu_sources=("http://a: nvml",)).to_dict()
    gpu = figures["gpu"]
    assert figures["gpu_sources"] == ["http://a: nvml"]
    assert gpu["utilization"] == {"mean": 12.0, "p95": 16.0, "max": 16.0, "busy_mean": pytest.approx(60.0)}
    assert gpu["energy"] == {"joules": 20000.0, "per_image": 2000.0, "source": "power"}
    assert set(gpu["devices"]) == {"GPU-1", "GPU-2"}
    assert "vram" not in gpu
    assert not any(math.isnan(value) for value in gpu["power"].values())
    assert run_of(prompt()).to_dict()["gpu"] == {}


def test_comparisons_are_told() -> None:
    seen: list[str] = []
    with watch_comparisons(lambda metric, op, bound, result: seen.append(f"{metric.name} {op} {bound} {result}")):
        assert 10 <= _load().gpu.utilization.mean <= 15
    assert seen == ["gpu.utilization.mean >= 10 True", "gpu.utilization.mean <= 15 True"]
