"""The generator against a farm of fast servers: prompts per CPU second, whether a run that is wrong says so, and rates.

    python -m tests.benchmarks.bench_generator [PYTHON]

With `PYTHON`, the interpreter of an environment with locust and pillow, the same load is also measured with Locust
users that send, poll, download and decode. CPU time is that of whole processes; the start-up cost of a run cancels out
in the difference to a run of three times the length.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.benchmarks.farm import farm
from tests.run.fast_server import GRAPH

__all__ = ["cost_rows", "memory_rows", "rate_rows", "truth_rows"]

# Seconds that a prompt takes on the farm.
WORK = 0.02
_LOCUST = """
import io, json, os, random, time
from locust import FastHttpUser, task
from locust.exception import StopUser
from PIL import Image

GRAPH, LEFT = json.loads(os.environ["GRAPH"]), [int(os.environ["PROMPTS"]), 0]

class User(FastHttpUser):
    @task
    def prompt(self):
        if LEFT[0] <= 0:
            if LEFT[1] == 0:
                os._exit(0)
            raise StopUser
        LEFT[0] -= 1
        LEFT[1] += 1
        GRAPH["1"]["inputs"]["color"] = random.randrange(1, 2**24)
        name = "%032x" % random.getrandbits(128)
        self.client.post("/prompt", json={"prompt": GRAPH, "prompt_id": name, "client_id": "locust"})
        while name not in (found := self.client.get(f"/history/{name}", name="/history").json()):
            time.sleep(0.05)
        for output in found[name]["outputs"].values():
            for image in output["images"]:
                answer = self.client.get("/view", params=image, name="/view")
                Image.open(io.BytesIO(answer.content)).load()
        LEFT[1] -= 1
"""


def cost_rows(peers: str | None = None, prompts: int = 1000, rounds: int = 3) -> Iterator[dict[str, Any]]:
    """Yield prompts per CPU second as medians of alternating rounds: ours by users and sockets, and Locust's."""
    loads = [
        (users, sockets) for users in (20, 200) for sockets in ("per_user", "shared", *(["polls"] if peers else []))
    ]
    found: dict[tuple[int, str], list[int]] = {load: [] for load in loads}
    for _ in range(rounds):
        with farm(WORK) as url:
            for users, sockets in loads:
                run = partial(_cost_run, peers, url, users, sockets)
                found[users, sockets].append(_per_cpu_second(prompts, run))
    for (users, sockets), rates in found.items():
        client = "Locust" if sockets == "polls" else "pytest-comfyload"
        row: dict[str, Any] = {"client": client, "users": users, "sockets": sockets}
        row |= {"prompts_per_cpu_s": round(median(rates)), "rounds": rates}
        if peers:
            ratios = [ours / theirs for ours, theirs in zip(rates, found[users, "polls"], strict=True)]
            row["of_locust"] = round(median(ratios), 2)
        yield row


def _cost_run(peers: str | None, url: str, users: int, sockets: str, prompts: int) -> None:
    if sockets == "polls":
        assert peers is not None
        _locust(peers, url, users, prompts)
    else:
        _in_a_process({"url": url, "users": users, "sockets": sockets, "prompts": prompts})


def memory_rows(few: int = 20, many: int = 420) -> Iterator[dict[str, Any]]:
    """Yield kilobytes per user under a load that saturates the generator, from processes with few and many users."""
    with farm(WORK) as url:
        for sockets in ("per_user", "shared"):
            load = {"url": url, "sockets": sockets, "prompts": 3000}
            peaks = [_in_a_process({**load, "users": users}) for users in (few, many)]
            yield {"sockets": sockets, "users": many, "kb_per_user": round((peaks[1] - peaks[0]) / (many - few))}


def truth_rows() -> Iterator[dict[str, Any]]:
    """Yield closed loads beyond the generator's capacity: the median total time, and the validity of the run."""
    for users in (1, 40, 80, 120, 200):
        with farm(WORK) as url, TemporaryDirectory() as folder:
            yield {"users": users, **_facts(_load(url, folder, users=users, shared_iterations=max(50, 8 * users)))}


def rate_rows(seconds: int = 30) -> Iterator[dict[str, Any]]:
    """Yield open loads: the rate that was reached."""
    for rate in (100, 200, 500, 1000):
        with farm(WORK) as url, TemporaryDirectory() as folder:
            load = _load(url, folder, rate=f"{rate}/s", duration=f"{seconds}s")
            sent = [outcome.timeline.sent for outcome in load.outcomes if outcome.timeline and not outcome.warmup]
            reached = (len(sent) - 1) / (max(sent) - min(sent))
            yield {"rate": rate, "reached": round(reached, 1), **_facts(load)}


def _load(url: str, folder: str, **arguments: Any) -> LoadResult:
    colors = {"EmptyImage.color": list(range(1, 100_000))}
    scenario = Scenario.build(GRAPH, inputs=colors, **arguments)
    place = Path(folder)
    return run_load(LoadRun(scenario, (ServerAddress.parse(url),), "benchmark", place, place, private=True))


def _facts(load: LoadResult) -> dict[str, Any]:
    return {
        "state": load.state,
        "total_p50_ms": round(1000 * float(load.total_time.p50), 1),
        "generation_p50_ms": round(1000 * float(load.generation_time.p50), 1),
        "send_lag_p99_ms": round(1000 * float(load.send_lag.p99), 1),
        "clock_notes": [note for note in load.facts.notes if "clock" in note or "stamps" in note],
        "invalid_because": load.invalid_because,
    }


def _per_cpu_second(prompts: int, run: Any) -> int:
    few, many = _cpu_of(run, prompts), _cpu_of(run, 3 * prompts)
    return round(2 * prompts / (many - few))


def _cpu_of(run: Any, prompts: int) -> float:
    """Return the CPU seconds of the processes that `run` starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(prompts)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _in_a_process(load: Mapping[str, Any]) -> int:
    """Run a load in a process of its own and return its peak memory in kilobytes."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_generator", "--load", json.dumps(load)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _run_here(url: str, users: int, sockets: str, prompts: int) -> None:
    with TemporaryDirectory() as folder:
        shape = {"users": users, "sockets": sockets, "shared_iterations": prompts}
        load = _load(url, folder, max_send_lag="60s", warmup=0, **shape)
    assert load.success_rate == 100
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _locust(python: str, url: str, users: int, prompts: int) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "locustfile.py").write_text(textwrap.dedent(_LOCUST), encoding="utf-8")
        command = [python, "-m", "locust", "--headless", "-u", str(users), "-r", str(users), "--host", url]
        variables = {**os.environ, "GRAPH": json.dumps(GRAPH), "PROMPTS": str(prompts)}
        subprocess.run(command, cwd=folder, env=variables, check=True, capture_output=True)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--load"]:
        _run_here(**json.loads(arguments[1]))
        return
    for rows in (cost_rows(arguments[0] if arguments else None), memory_rows(), truth_rows(), rate_rows()):
        for row in rows:
            print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
