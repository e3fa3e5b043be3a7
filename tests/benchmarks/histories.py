"""Synthetic histories, stored by the real code: runs like those of a simulator, of many commits."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from pytest_comfyload.history.provenance import Machine, Provenance
from pytest_comfyload.history.record import Record, TestChecks, record_of
from pytest_comfyload.history.store import Store
from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus
from pytest_comfyload.result.output_files import FetchedFile
from pytest_comfyload.result.run_facts import Device, RunFacts, ServerFacts
from pytest_comfyload.result.telemetry import GpuSample

__all__ = ["BEGIN", "DAY", "SCENARIOS", "fill", "record"]

SCENARIOS = ("txt2img", "img2img", "inpainting", "upscale", "controlnet", "lora", "sdxl", "mix")
DAY = 86400.0
BEGIN = 1_735_700_000.0
_URL = "http://gpu1:8188"
_TITLES = (
    "Speed up the sampler",
    "Bump torch",
    "Tidy the loader",
    "Cache text encodings",
    "Fix a typo",
    "New scheduler",
)
_AUTHORS = ("Ada", "Grace", "Edsger", "Barbara")


def fill(store: Store, commits: int, *, scenarios: int = 8, prompts: int = 6, per_day: float = 4.0) -> None:
    for number in range(commits):
        for scenario in range(scenarios):
            come = {"session": f"session {number}"}
            store.add(record(number, scenario, prompts=prompts, per_day=per_day, come=come))


def record(
    number: int,
    scenario: int = 0,
    *,
    prompts: int = 6,
    per_day: float = 4.0,
    level: float | None = None,
    come: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Record:
    """Return a run of commit `number`. After a while each scenario becomes slower, some faster again later.

    `level`: seconds of sampling; `come` and `facts` replace fields of the provenance and of the run's facts.
    """
    rng = random.Random(number * 100 + scenario)
    title = f"sample_suites/test_{SCENARIOS[scenario]}.py::test_slo"
    time = BEGIN + number * DAY / per_day + scenario * 60
    known = Provenance(
        machine=Machine("c0ffee", "AMD EPYC", 16, 64e9, "Linux-6.1", "3.11.9"),
        commit=f"{number:08x}" + "c0ffee" * 5 + "00",
        branch="main" if number % 7 else "feature/faster",
        dirty=False,
        title=_TITLES[number % len(_TITLES)] + f" ({number})",
        author=_AUTHORS[number % len(_AUTHORS)],
        date=time - 600,
        tag=f"v1.{number // 100}" if number % 100 == 99 else None,
        repository="https://example.org/studio/pictures",
        comfyload="0.1.0",
    )
    slow = level if level is not None else _level(number, scenario)
    outcomes = list(_outcomes(rng, prompts, slow, failing=number % 50 == 17))
    last = max(each.end or each.intended + 5 for each in outcomes)
    known_facts = RunFacts(
        run_id=f"{number:05d}-{scenario}-{rng.randrange(16**6):06x}", title=title, scenario="users=3, iterations=5",
        workflow=SCENARIOS[scenario], servers=(_URL,), seed=7, epoch=time, window=(0.0, last), time_scale=None,
        intended=len(outcomes), submitted=len(outcomes), loop_lag=0.001, max_send_lag=0.1, load="users=3, iterations=5",
        gpu_sources=("nvml: GPU-4f0c",), gpu_usage=tuple(_gpu(rng, last)),
        subject={"KSampler.steps": 20 if number < 400 else 25, "CheckpointLoaderSimple.ckpt_name": "sd15.safetensors"},
        server_facts=(_server(number),),
    )  # fmt: skip
    known_facts = replace(known_facts, **(facts or {}))
    load = LoadResult(known_facts, outcomes)
    p95 = float(load.total_time.p95)
    checks = (
        Check("success_rate", float(load.success_rate), "%", len(outcomes), "==", 100.0, load.success_rate == 100),
        Check("generation_time.p95", float(load.generation_time.p95), "s", len(outcomes), "<", 6.0, True),
        Check("total_time.p95", p95, "s", len(outcomes), "<", 20.0, p95 < 20),
    )
    made = record_of(load, msgspec.structs.replace(known, **(come or {})), (TestChecks(title, checks),))
    gpu = {"utilization": {"mean": 70 + 20 * rng.random()}, "vram": {"peak": 60 + slow}}
    return msgspec.structs.replace(made, figures={**made.figures, "gpu": gpu})


def _level(number: int, scenario: int) -> float:
    base = 2.0 + 0.4 * scenario
    if number > 300 + 40 * scenario:
        base *= 1.15
    if number > 700 + 20 * scenario:
        base *= 0.9
    return base


def _outcomes(rng: random.Random, prompts: int, level: float, *, failing: bool) -> Iterator[Outcome]:
    free = 0.0
    noise = rng.gauss(1, 0.015)
    for number in range(prompts):
        intended = 0.2 * number
        sampling = level * noise * rng.gauss(1, 0.02)
        sent = intended + 0.002
        accepted = sent + 0.004
        started = max(accepted, free)
        load_end = started + 0.12
        sampled = load_end + sampling
        decoded = sampled + 0.3
        saved = decoded + 0.05
        free = saved
        steps = tuple((load_end + sampling * step / 20, float(step)) for step in range(1, 21))
        nodes = (
            NodeInterval("4", "CheckpointLoaderSimple", started, load_end),
            NodeInterval("3", "KSampler", load_end, sampled, steps),
            NodeInterval("8", "VAEDecode", sampled, decoded),
            NodeInterval("9", "SaveImage", decoded, saved),
        )
        line = Timeline(0.002, sent, accepted, started, saved, saved + 0.03, saved + 0.08, nodes)
        outcome = Outcome(
            f"{rng.randrange(16**8):08x}-2222-3333-4444-555555555555", _URL, f"client-{number % 3}", number % 3,
            number // 3, "txt2img", OutcomeStatus.SUCCESS, intended, timeline=line, cache_class=CacheClass.WARM,
            outputs=(FetchedFile("9", "images", f"comfyload_{number:05d}_.png", "", "output", 380_000, 512, 512),),
            text="a lighthouse at dawn, oil on canvas",
        )  # fmt: skip
        if failing and number == prompts - 1:
            oom = replace(line, ended=None, delivered=None, fetched=None)
            outcome = replace(
                outcome,
                status=OutcomeStatus.OOM,
                timeline=oom,
                outputs=(),
                error="torch.OutOfMemoryError: CUDA out of memory.",
            )
        yield outcome


def _gpu(rng: random.Random, last: float) -> Iterator[GpuSample]:
    for second in range(1, int(last) + 1):
        busy = 85 + 12 * rng.random()
        yield GpuSample(
            _URL, "GPU-4f0c", float(second), 1.0, busy, (9 + rng.random()) * 1024**3, 24 * 1024.0**3, 62.0, 310.0
        )


def _server(number: int) -> ServerFacts:
    card = Device("cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "cuda", 24 * 1024.0**3)
    torch = "2.5.1" if number < 600 else "2.6.0"
    return ServerFacts(
        _URL, "0.3.64" if number < 200 else "0.3.75", torch, "3.11.9", "posix", ("--port", "8188"), (card,)
    )
