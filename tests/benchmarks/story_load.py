"""A pytest plugin that measures nothing: loads take the times that a story gives, and are spooled like real ones.

The story comes from the environment: `STORY_NOW`, seconds since 1970; `STORY_SLOWER`, a factor for the server; and
`STORY_COMFYUI`, its version. The file `speed` next to the suite gives the speed of the code under test.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from dataclasses import replace

import pytest

from pytest_comfyload.history.spool import Spool, spool_folder
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.run_facts import Device, ServerFacts
from pytest_comfyload.run import load_run
from pytest_comfyload.run.load_run import LoadRun
from tests.result.outcomes import load_of, outcome

URL = "http://gpu1:8188"
PROMPTS = 12
_NOISE_OF_SESSION, _NOISE_OF_RUN, _NOISE_OF_PROMPT = 0.012, 0.012, 0.03
_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    load_run.run_load = _run


def _run(run: LoadRun) -> LoadResult:
    now, number = float(os.environ["STORY_NOW"]), next(_numbers)
    run_id = f"{now:.0f}-{number:08x}"
    load = _measured(run, now + 60 * number, run_id, random.Random(f"{now} {run.title}").gauss(0, _NOISE_OF_SESSION))
    with Spool(spool_folder(run.store), run_id, {**run.told, "title": run.title, "facts": load.facts}) as spool:
        run.observer.on_spool(spool.path)
        for each in load.all_outcomes:
            spool.append(each)
        spool.end(load)
    return load


def _measured(run: LoadRun, now: float, run_id: str, shared: float) -> LoadResult:
    rng = random.Random(run_id + run.title)
    speed = float((run.files / "speed").read_text(encoding="utf-8"))
    level = 2.0 * speed * float(os.environ["STORY_SLOWER"]) * math.exp(shared + rng.gauss(0, _NOISE_OF_RUN))
    outcomes = []
    for number in range(PROMPTS):
        at, time = 30.0 * number, level * math.exp(rng.gauss(0, _NOISE_OF_PROMPT))
        nodes = (
            NodeInterval("3", "KSampler", at + 1.1, at + 1.1 + 0.9 * time),
            NodeInterval("8", "VAEDecode", at + 1.1 + 0.9 * time, at + 1.1 + time),
        )
        outcomes.append(outcome(at, generation=time, nodes=nodes, prompt_id=f"{run_id}-{number}"))
    card = Device("cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "cuda", 24 * 1024.0**3)
    server = ServerFacts(URL, os.environ["STORY_COMFYUI"], "2.9.1", "3.11.9", "posix", (), (card,))
    facts = load_of(*outcomes).facts
    facts = replace(
        facts, run_id=run_id, title=run.title, parameters=run.parameters, epoch=now, window=(0.0, 30.0 * PROMPTS),
        subject={"KSampler.steps": 20}, server_facts=(server,), load="1 user × 12 iterations",
    )  # fmt: skip
    return LoadResult(facts, outcomes)
