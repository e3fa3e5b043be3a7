"""The node cache in each mode: the simulator keeps and evicts exactly what the real ComfyUI 0.3.75 does."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pytest_comfyload.launch import ComfyInstall, ComfyProcess
from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.real_comfyui import build
from tests.simulator.talking import Talk, until

FLAGS = {"classic": (), "lru=6": ("--cache-lru", "6"), "none": ("--cache-none",)}
ALL = "1 3 2"


def prompt(seed: int, prefix: str = "cache") -> dict[str, Any]:
    """Return a prompt that inverts an image and saves it."""
    return {
        "1": {"class_type": "ProbeSleep", "inputs": {"seconds": 0.01, "seed": seed, "width": 64}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": prefix}},
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    }


# The prompts in order; for each cache mode, the nodes that are cached and those that run, in order of execution.
STEPS: list[tuple[Any, dict[str, tuple[str, str]]]] = [
    (prompt(1), {"classic": ("", ALL), "lru=6": ("", ALL), "none": ("", ALL)}),
    (prompt(1), {"classic": ("1 2 3", ""), "lru=6": ("1 2 3", ""), "none": ("", ALL)}),
    (prompt(1, "other"), {"classic": ("1 3", "2"), "lru=6": ("1 3", "2"), "none": ("", ALL)}),
    (prompt(2), {"classic": ("", ALL), "lru=6": ("", ALL), "none": ("", ALL)}),
    (prompt(2), {"classic": ("1 2 3", ""), "lru=6": ("1 2 3", ""), "none": ("", ALL)}),
    # Seven results exceed six: first, what only the second prompt had used last is evicted; later, whole prompts are.
    (prompt(3), {"classic": ("", ALL), "lru=6": ("", ALL), "none": ("", ALL)}),
    (prompt(1), {"classic": ("", ALL), "lru=6": ("1 3", "2"), "none": ("", ALL)}),
    (prompt(2), {"classic": ("", ALL), "lru=6": ("", ALL), "none": ("", ALL)}),
    ({"unload_models": True}, {}),
    (prompt(2), {"classic": ("1 2 3", ""), "lru=6": ("1 2 3", ""), "none": ("", ALL)}),
    ({"free_memory": True}, {}),
    (prompt(2), {"classic": ("", ALL), "lru=6": ("", ALL), "none": ("", ALL)}),
]


@contextmanager
def simulated(mode: str) -> Iterator[str]:
    cache = "" if mode == "classic" else mode
    with SimulatorProcess(time_scale=20.0, probe_nodes=True, comfyui_version="0.3.75", cache=cache) as server:
        yield server.url


@contextmanager
def real(install: ComfyInstall, folder: Path, mode: str) -> Iterator[str]:
    base = build.new_base_directory(folder / "base", build.models(install.python))
    install = dataclasses.replace(install, args=(*install.args, *FLAGS[mode]))
    with ComfyProcess(install, base, log=folder / "comfyui.log") as server:
        yield server.url


@pytest.mark.parametrize("mode", FLAGS)
def test_the_simulator_caches_in_this_mode(mode: str) -> None:
    with simulated(mode) as url:
        check(url, mode)


@pytest.mark.parametrize("mode", FLAGS)
def test_the_real_server_caches_in_this_mode(mode: str, real_comfyui_install: ComfyInstall, tmp_path: Path) -> None:
    with real(real_comfyui_install, tmp_path, mode) as url:
        check(url, mode)


def check(url: str, mode: str) -> None:
    argv, seen = asyncio.run(conversation(url))
    flags = [word for word in argv if word.startswith("--cache")]
    assert flags == [flag for flag in FLAGS[mode] if flag.startswith("--")]
    assert seen == [by_mode[mode] for _, by_mode in STEPS if by_mode]


async def conversation(url: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the server's command line and, for each prompt, what was cached and what ran."""
    async with aiohttp.ClientSession() as session:
        server = Talk(session, url)
        argv = (await server.get("/system_stats"))["system"]["argv"]
        async with server.listening() as socket:
            seen = []
            for body, by_mode in STEPS:
                if not by_mode:
                    assert await server.post("/free", body) == 200
                    # The worker frees memory between prompts: one that arrives while it wakes up would run first.
                    await asyncio.sleep(1.0)
                    continue
                await server.submit(body)
                seen.append(what_ran(await until_idle(socket)))
            return argv, seen


async def until_idle(socket: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while not events or events[-1]["data"].get("node", "") is not None:
        events += await until(socket, "executing")
    return events


def what_ran(events: list[dict[str, Any]]) -> tuple[str, str]:
    [cached] = [event["data"]["nodes"] for event in events if event["type"] == "execution_cached"]
    ran = [event["data"]["node"] for event in events if event["type"] == "executing"]
    return " ".join(cached), " ".join(node for node in ran if node is not None)
