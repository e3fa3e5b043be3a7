"""The simulator answers as the recorded ComfyUI servers did: every recording, over real sockets, value by value.

There is one exception. If several prompts are queued, the position of `status` among the events of a running prompt
depends on the timing of the POST; these are then compared as two separate streams, each in its order.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import aiohttp
import pytest
from PIL import Image

from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.versions import VERSIONS as EMULATED
from tests.simulator.conformance_differences import MEANT, Meant, settled
from tests.simulator.replay import RECORDINGS, Case, Frame, Replay, is_step, joined_late, load, received, replay
from tests.simulator.serving import serving

VERSIONS = sorted(path.name for path in RECORDINGS.iterdir())
assert set(VERSIONS) == set(EMULATED)
CASES = [(version, case.name) for version in VERSIONS for case in load(version)]
TALKATIVE = [(version, case.name) for version in VERSIONS for case in load(version) if case.sockets]

# The recorded servers had two tiny models, three probe nodes, previews enabled, and little memory.
SETTINGS = SimulatorSettings(
    time_scale=2.0,
    models={"checkpoints": ["tiny_sd15.safetensors"], "loras": ["tiny_lora.safetensors"]},
    stock_models=False,
    strict=True,
    probe_nodes=True,
    preview_method="latent2rgb",
    ram=25276502016 / 1024**3,
)
# The 0.3.64 server had saved two images before its recordings began.
EARLIER_PICTURES = {"0.3.64": ["loadtest_00001_.png", "loadtest_00002_.png"]}
# The workflows of 0.33.0 were recorded on a separate server; on the other one they are skipped before this case.
PROMPTS_OF_THE_OTHER_SERVER = (
    "txt2img_cold", "txt2img_cached", "txt2img_warm", "txt2img_batch4_256", "txt2img_new_prompt",
    "txt2img_own_prompt_id", "img2img", "inpainting", "upscale", "lora", "preview_image_two_outputs", "no_model_nodes",
    "preview_metadata",
)  # fmt: skip
LEFT_OUT = {"0.33.0": "execution_error_oom"}


@pytest.mark.parametrize(("version", "name"), CASES)
def test_answers_are_those_recorded(version: str, name: str) -> None:
    case, replayed = _replayed(version)[name]
    assert len(replayed.answers) == len(case.http)
    for exchange, answer in zip(case.http, replayed.answers, strict=True):
        place = f"{name} {exchange['method']} {exchange['path']}"
        recorded = {key: exchange[key] for key in ("status", "content_type", "response")}
        assert _comparable(answer, place, replayed) == _expected(recorded, place, version, replayed), place


@pytest.mark.parametrize(("version", "name"), TALKATIVE)
def test_each_socket_hears_what_was_recorded(version: str, name: str) -> None:
    case, replayed = _replayed(version)[name]
    assert replayed.sockets.keys() == case.sockets.keys()
    several = sum(exchange["path"] == "/prompt" and exchange["method"] == "POST" for exchange in case.http) > 1
    for client, frames in case.sockets.items():
        place = f"{name} {client}"
        late = joined_late(frames)
        recorded = [_expected(f, place, version, replayed) for f in _told(received(frames), late)]
        ours = [_comparable(frame, place, replayed) for frame in _told(replayed.sockets[client], late)]
        assert _streams(ours, several) == _streams(recorded, several), place


@pytest.mark.parametrize("meant", MEANT, ids=lambda meant: meant.reason)
def test_a_meant_difference_still_rewrites_something(meant: Meant) -> None:
    """That the simulator gives the rewritten answer, not the recorded one, is checked by the other tests."""
    for version in meant.versions:
        assert any(_rewrites(meant, case) for case in load(version)), version


def _rewrites(meant: Meant, case: Case) -> bool:
    for exchange in case.http:
        place = f"{case.name} {exchange['method']} {exchange['path']}"
        said = settled(exchange["response"], place)
        if re.fullmatch(meant.place, place) and meant.rewrite(said) != said:
            return True
    return False


@cache
def _replayed(version: str) -> dict[str, tuple[Case, Replay]]:
    """Replay all cases of a version, one after another, on the servers they were recorded on."""
    return asyncio.run(_replay_all(version))


async def _replay_all(version: str) -> dict[str, tuple[Case, Replay]]:
    replays: dict[str, tuple[Case, Replay]] = {}
    for cases in recording_servers(version):
        async with serving(replace(SETTINGS, comfyui_version=version)) as url:
            for name in EARLIER_PICTURES.get(version, []):
                await _save_picture(url, name)
            for case in cases:
                if case.name == LEFT_OUT.get(version):
                    await _take_numbers(url, len(PROMPTS_OF_THE_OTHER_SERVER))
                replays[case.name] = (case, await replay(case, url))
    return replays


def recording_servers(version: str) -> list[list[Case]]:
    """Return the cases grouped by the server they were recorded on."""
    cases = load(version)
    if version not in LEFT_OUT:
        return [cases]
    there = [case for case in cases if case.name in PROMPTS_OF_THE_OTHER_SERVER]
    return [there, [case for case in cases if case not in there]]


async def _take_numbers(url: str, count: int) -> None:
    """Use up prompt numbers: every POST is assigned one, even if it is rejected."""
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            async with session.post(f"{url}/prompt", json={}) as response:
                assert response.status == 400


async def _save_picture(url: str, name: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (128, 128), (10, 20, 30)).save(out, "PNG")
    form = aiohttp.FormData({"type": "output"})
    form.add_field("image", out.getvalue(), filename=name, content_type="image/png")
    async with aiohttp.ClientSession() as session, session.post(f"{url}/upload/image", data=form) as response:
        response.raise_for_status()


def _comparable(said: Any, place: str, replayed: Replay) -> Any:
    """Return the simulator's answer with its own prompt ids replaced by the recorded ones."""
    text = json.dumps(said)
    for recorded, ours in replayed.prompt_ids.items():
        text = text.replace(ours, recorded)
    return settled(json.loads(text), place)


def _expected(recorded: Any, place: str, version: str, replayed: Replay) -> Any:
    """Return the recorded answer with the intended differences applied."""
    value = settled({key: item for key, item in recorded.items() if key != "t"}, place)
    for meant in MEANT:
        if version in meant.versions and "response" in value and re.fullmatch(meant.place, place):
            value["response"] = meant.rewrite(value["response"])
    return value


def _told(frames: list[Frame], late: bool) -> list[Frame]:
    """Remove the steps of a running node from the frames of a socket that joined late."""
    return [frame for frame in frames if not (late and is_step(frame))]


def _streams(frames: list[Frame], several: bool) -> list[list[Frame]]:
    if not several:
        return [frames]
    status = [frame for frame in frames if frame.get("text", {}).get("type") == "status"]
    return [status, [frame for frame in frames if frame not in status]]
