"""A scripted history of a studio's tests, for which it is known what a report must say.

29 commits of four tests, on two kinds of GPU, and a comparison of A and B with pictures. At the last commit, img2img
is 73 % slower on a larger canvas, inpainting runs out of memory, and upscaling misses its P95. Before it: a permanent
step of txt2img, an invalid run, a branch, and commits with old dates, as after a rebase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec

from pytest_comfyload.history.record import Record, TestChecks, record_of
from pytest_comfyload.history.store import Store
from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import ABHalf, Device, ServerFacts
from tests.benchmarks.histories import SCENARIOS, record
from tests.report.html.stores import with_pictures

__all__ = ["COMMITS", "HEAD_TITLE", "scripted_store"]

COMMITS = 29
HEAD_TITLE = "Larger img2img canvas"
_HEAD = COMMITS - 1
_OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
_H100 = ServerFacts(
    "http://gpu2:8188", "0.3.75", "2.6.0", "3.11.9", "posix", (),
    (Device("cuda:0 NVIDIA H100 80GB HBM3 : cudaMallocAsync", "cuda", 80 * 1024.0**3),),
)  # fmt: skip


def scripted_store(folder: Path) -> Store:
    store = Store.open(folder)
    for number in range(COMMITS):
        for made in _runs_at(number):
            store.add(made)
    for made in _comparison():
        store.add(made)
    return store


def _comparison(pairs: int = 7) -> Iterator[Record]:
    """Yield the runs of both sides: B takes more steps and makes different pictures."""
    for number in range(2 * pairs):
        side: Literal["A", "B"] = "A" if number % 4 in (0, 3) else "B"
        facts = {
            "half": ABHalf("steps", "txt2img, steps", side, number // 2 + 1),
            "subject": {"KSampler.steps": 20 if side == "A" else 26},
        }
        made = record(number, 4, level=2.0 if side == "A" else 2.5, facts=facts)
        yield with_pictures(made, "navy" if side == "A" else "slateblue")


def _runs_at(number: int) -> Iterator[Record]:
    come = {
        "title": HEAD_TITLE if number == _HEAD else f"Change {number}",
        "tag": "v1.0" if number == 10 else None,
        "branch": "feature/tiles" if number in (12, 13) else "main",
        "session": f"session {number}",
        # As after a rebase: written long before it joined the history.
        **({"date": 1_700_000_000.0} if number in (20, 21) else {}),
    }
    canvas = 704 if number == _HEAD else 512
    yield _checked(record(number, 0, prompts=20, level=2.0 if number < 15 else 2.5, come=come), "txt2img")
    yield _checked(
        record(
            number, 1, prompts=20, level=1.0 if number < _HEAD else 2.0, come=come,
            facts={"subject": {"ImageScale.width": canvas, "KSampler.steps": 20}},
        ),
        "img2img",
    )  # fmt: skip
    if number % 2 == 0:
        yield _checked(
            record(number, 1, prompts=20, level=0.6, come=come, facts={"server_facts": (_H100,)}), "img2img", "h100"
        )
    yield _checked(_out_of_memory(number, come) if number == _HEAD else record(number, 2, prompts=20, come=come), "oom")
    invalid = "the generator was late (send_lag p99 173 > 100 ms)" if number == 18 else None
    yield _checked(record(number, 3, prompts=20, come=come, facts={"invalid": invalid}), "upscale")


def _out_of_memory(number: int, come: Mapping[str, object]) -> Record:
    made = record(number, 2, prompts=20, come=come)
    failing = {3, 7, 11, 12, 18}
    outcomes = [_failed(each) if place in failing else each for place, each in enumerate(made.outcomes)]
    remade = record_of(LoadResult(made.facts, outcomes), made.provenance)
    # A stored run's facts have no servers: those are in its environment.
    return msgspec.structs.replace(remade, environment=made.environment)


def _failed(outcome: Outcome) -> Outcome:
    line = outcome.timeline
    assert line is not None
    cut = replace(line, ended=None, delivered=None, fetched=None)
    return replace(outcome, status=OutcomeStatus.OOM, timeline=cut, outputs=(), error=_OOM)


def _checked(made: Record, kind: str, suffix: str = "") -> Record:
    """Give a run the checks of its test; `upscale` has always missed its own."""
    load = LoadResult(made.facts, made.outcomes)
    bound = {"upscale": 5.0}.get(kind, 90.0)
    checks = (
        Check.of(load.success_rate, "==", 100.0, bool(load.success_rate == 100)),
        Check.of(load.oom_errors, "==", 0.0, bool(load.oom_errors == 0)),
        Check.of(load.total_time.p95, "<", bound, bool(load.total_time.p95 < bound)),
    )
    reached = len(checks) if checks[0].passed else 1
    unreached = () if reached == len(checks) else ("load.oom_errors == 0", f"load.total_time.p95 < {bound:g}")
    run_id = f"{made.run_id}-{suffix}" if suffix else made.run_id
    tests = (TestChecks(made.facts.title, checks[:reached], unreached),)
    return msgspec.structs.replace(made, run_id=run_id, checks=tests, time=made.time + bool(suffix))


assert SCENARIOS[:4] == ("txt2img", "img2img", "inpainting", "upscale")
