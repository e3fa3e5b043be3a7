"""What a user and a prompt cost the generator in memory, and ten thousand prompts in one run."""

from __future__ import annotations

import asyncio
import gc
import time
import uuid
from pathlib import Path

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.benchmarks.soak import resident

PROMPTS = 10_000
CONNECTED = 500
TINY = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "tiny"}},
}
SLEEP = {
    "1": {"class_type": "ProbeSleep", "inputs": {"seconds": 3600.0, "seed": 1, "width": 64}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "asleep"}},
}
COLORS = {"EmptyImage.color": list(range(1, 4000))}


def held() -> int:
    """Return the resident memory of this process in bytes, after garbage collection."""
    gc.collect()
    return resident("self")


def test_a_connected_user_and_a_prompt_in_flight() -> None:
    async def connect(url: str) -> tuple[float, float]:
        first = ComfyClient(ServerAddress.parse(url))
        await first.open()
        before = held()
        clients = [ComfyClient(ServerAddress.parse(url)) for _ in range(CONNECTED)]
        for client in clients:
            await client.open()
        connected = held()
        for client in clients:
            await client.submit(client.expect(str(uuid.uuid4()), SLEEP), SLEEP)
        in_flight = held()
        await asyncio.gather(*(client.aclose() for client in (first, *clients)))
        return (connected - before) / CONNECTED, (in_flight - connected) / CONNECTED

    with SimulatorProcess(time_scale=1, probe_nodes=True) as server:
        user, prompt = asyncio.run(connect(server.url))
    print(f"\na connected user: {user / 1000:.0f} kB, a prompt in flight: {prompt / 1000:.1f} kB more (of {CONNECTED})")
    assert user + prompt < 200_000


def test_ten_thousand_prompts(tmp_path: Path) -> None:
    scenario = Scenario.build(TINY, users=50, shared_iterations=PROMPTS, inputs=COLORS, fetch=False, max_send_lag="10s")
    with SimulatorProcess(time_scale=1000) as server:
        address = ServerAddress.parse(server.url)
        run_load(LoadRun(Scenario.build(TINY, iterations=50, inputs=COLORS), (address,), "warm", tmp_path, tmp_path))
        before, begin = held(), time.monotonic()
        load = run_load(LoadRun(scenario, (address,), "ten thousand", tmp_path, tmp_path))
        seconds, grown = time.monotonic() - begin, held() - before
    spool = max((tmp_path / ".comfyload" / "spool").glob("*.jsonl"), key=lambda path: path.stat().st_size)
    print(
        f"\n{PROMPTS} prompts by 50 users in {seconds:.0f} s ({PROMPTS / seconds:.0f}/s): "
        f"{grown / 1e6:.0f} MB more, {grown / PROMPTS / 1000:.1f} kB a prompt; "
        f"spool {spool.stat().st_size / 1e6:.1f} MB; "
        f"send_lag p99 {load.send_lag.p99 * 1000:.1f} ms, loop lag p99 {load.facts.loop_lag * 1000:.1f} ms"
    )
    assert len(load.outcomes) == PROMPTS
    assert load.success_rate == 100
    assert len(spool.read_bytes().splitlines()) == PROMPTS + 3  # the header, the warm-up prompt, the end
