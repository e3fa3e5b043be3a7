"""What `comfyload monitor` costs a server and this machine: a real ComfyUI with a full history, and 500 ends a second.

    python -m tests.benchmarks.bench_monitor [--seconds 60] [--history 10001]

The real server first executes prompts until its history is full; then its CPU time is measured alternately without and
with a monitor. The server with 500 ends a second is a stub, whose history gains 500 entries of 5.7 kB per second and
drops as many.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web

from pytest_comfyload.launch import ComfyProcess
from pytest_comfyload.monitor.history_tail import REMEMBERED
from tests.benchmarks.soak import resident
from tests.real_comfyui import build

PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
ROUNDS = 2
ENDS_PER_SECOND = 500
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, including all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def monitor(url: str) -> Iterator[tuple[int, str]]:
    """Run a monitor at 1 Hz; yield its process id and its URL."""
    command = [sys.executable, "-c", "from pytest_comfyload.cli import main; main()", "monitor", "--port", "0"]
    with subprocess.Popen([*command, "--comfyui-url", url], stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            found = re.search(r"(http://\S+)/metrics", child.stderr.readline())
            assert found
            time.sleep(3)
            yield child.pid, found[1]
        finally:
            child.kill()


def counted(monitor_url: str) -> float:
    with urllib.request.urlopen(f"{monitor_url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("comfyui_generations_total{"))


async def fill(url: str, prompts: int) -> None:
    """Execute prompts, all but the first from the cache."""
    async with ClientSession() as session:
        for _ in range(prompts):
            async with session.post(f"{url}/prompt", json={"prompt": PROMPT}) as answer:
                assert answer.status == 200
        remaining = 1
        while remaining:
            await asyncio.sleep(1)
            async with session.get(f"{url}/prompt") as answer:
                remaining = (await answer.json())["exec_info"]["queue_remaining"]


def real_server(seconds: float, history: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        install, folder = build.install(), Path(name)
        base = build.new_base_directory(folder / "base", build.models(install.python))
        with ComfyProcess(install, base, log=folder / "log") as server:
            asyncio.run(fill(server.url, history))
            used: dict[bool, list[float]] = {False: [], True: []}
            own = memory = 0.0
            for watched in [False, True] * ROUNDS:
                with monitor(server.url) if watched else contextlib.nullcontext((0, "")) as (pid, _):
                    begin, own_begin = cpu_seconds(server.pid), cpu_seconds(pid) if watched else 0.0
                    time.sleep(seconds)
                    used[watched].append((cpu_seconds(server.pid) - begin) / seconds)
                    if watched:
                        own, memory = (cpu_seconds(pid) - own_begin) / seconds, resident(pid)
    alone, with_monitor = min(used[False]), min(used[True])
    print(f"real ComfyUI, idle, history of {history}: {100 * alone:.2f} % of a core alone")
    print(f"  with a monitor at 1 Hz: {100 * with_monitor:.2f} %, {100 * (with_monitor - alone):.2f} % more")
    print(f"  the monitor itself: {100 * own:.2f} % of a core, {memory / 1e6:.0f} MB")


# --- many ends -------------------------------------------------------------------------------------------------------


def serve_many_ends() -> None:
    """Serve as a ComfyUI with a full history and prompts that end all the time; print its URL."""
    keys: deque[str] = deque((str(number) for number in range(10_001)), maxlen=10_001)
    numbers = itertools.count(10_001)
    filler = "x" * 5_000

    def entry(key: str) -> dict[str, Any]:
        stamp = {"prompt_id": key, "timestamp": 1000}
        messages = [["execution_start", stamp], ["execution_success", {**stamp, "timestamp": 2000}]]
        return {
            "prompt": [int(key), key, PROMPT, {"filler": filler}, ["2"]],
            "outputs": {},
            "status": {"status_str": "success", "completed": True, "messages": messages},
        }

    async def history(request: web.Request) -> web.Response:
        size, offset = int(request.query["max_items"]), int(request.query.get("offset", -1))
        begin = max(0, len(keys) - size) if offset < 0 else offset
        return web.json_response({key: entry(key) for key in itertools.islice(keys, begin, begin + size)})

    async def prompt(request: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": 1}})

    async def stats(request: web.Request) -> web.Response:
        system = {"comfyui_version": "0.3.75", "argv": ["main.py"], "ram_total": 2, "ram_free": 1}
        return web.json_response({"system": system, "devices": [{"name": "cpu", "vram_total": 2, "vram_free": 1}]})

    async def ended(request: web.Request) -> web.Response:
        return web.json_response(int(keys[-1]) - 10_000)

    async def run() -> None:
        application = web.Application()
        routes = {"/history": history, "/prompt": prompt, "/system_stats": stats, "/ended": ended}
        for path, handler in routes.items():
            application.router.add_get(path, handler)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        begin, done = time.monotonic(), 0
        while True:
            await asyncio.sleep(0.01)
            due = int((time.monotonic() - begin) * ENDS_PER_SECOND)
            keys.extend(str(next(numbers)) for _ in range(due - done))
            done = due

    asyncio.run(run())


def many_ends(seconds: float) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.bench_monitor", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        try:
            with monitor(url) as (pid, own_url):
                # Wait until it remembers the maximum number of ids.
                time.sleep(1.2 * REMEMBERED / ENDS_PER_SECOND)
                begin, before, first = cpu_seconds(pid), resident(pid), counted(own_url)
                truth = _ended(url)
                time.sleep(seconds)
                used, grown = (cpu_seconds(pid) - begin) / seconds, resident(pid) - before
                rate = (counted(own_url) - first) / seconds
                print(f"{ENDS_PER_SECOND} ends a second for {seconds:.0f} s: {rate:.0f} counted a second, of")
                print(f"  {(_ended(url) - truth) / seconds:.0f}; {100 * used:.0f} % of a core, {before / 1e6:.0f} MB,")
                print(f"  {grown / 1e6:+.1f} MB from first to last")
        finally:
            child.kill()


def _ended(url: str) -> int:
    with urllib.request.urlopen(f"{url}/ended") as answer:
        return int(json.load(answer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement (default: 60)")
    parser.add_argument("--history", type=int, default=10_001, help="entries of the real server (default: 10,001)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve_many_ends()
    else:
        many_ends(chosen.seconds)
        real_server(chosen.seconds, chosen.history)


if __name__ == "__main__":
    main()
