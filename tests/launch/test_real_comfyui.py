"""A real ComfyUI starts, executes, fails as the probe nodes make it, and can be killed and restarted."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.launch import ComfyInstall, ComfyProcess, wait_until_ready

SAVE = {"class_type": "PreviewImage", "inputs": {"images": ["last", 0]}}


def call(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as response:
        return json.loads(response.read() or b"null")


def last_message(url: str, prompt: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Run `prompt` and return its final event with its data."""
    prompt_id = str(uuid.uuid4())
    call(f"{url}/prompt", {"prompt": prompt, "prompt_id": prompt_id})
    event, data = ended(url, prompt_id)["status"]["messages"][-1]
    return event, data


def ended(url: str, prompt_id: str) -> dict[str, Any]:
    entry: dict[str, Any] = eventually(lambda: call(f"{url}/history/{prompt_id}"))[prompt_id]
    return entry


def eventually(ask: Callable[[], Any]) -> Any:
    """Return the answer of `ask` as soon as it is not empty, within a minute."""
    deadline = time.monotonic() + 60
    while not (answer := ask()):
        assert time.monotonic() < deadline, "it did not come in a minute"
        time.sleep(0.05)
    return answer


def sleep(seconds: float) -> dict[str, Any]:
    seed = uuid.uuid4().int % 2**32
    return {"class_type": "ProbeSleep", "inputs": {"seconds": seconds, "seed": seed, "width": 64}}


def test_it_is_the_version_that_was_asked_for(real_comfyui: str) -> None:
    assert call(f"{real_comfyui}/system_stats")["system"]["comfyui_version"] == "0.3.75"
    wait_until_ready(real_comfyui, timeout=30)


def test_it_samples_with_the_tiny_models(real_comfyui: str) -> None:
    def text(words: str) -> dict[str, Any]:
        return {"class_type": "CLIPTextEncode", "inputs": {"text": words, "clip": ["lora", 1]}}

    sampler = {"seed": 1, "steps": 2, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["lora", 0], "positive": ["yes", 0], "negative": ["no", 0], "latent_image": ["empty", 0]}
    lora = {"lora_name": "tiny_lora.safetensors", "strength_model": 1.0, "strength_clip": 1.0}
    prompt = {
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny_sd15.safetensors"}},
        "lora": {"class_type": "LoraLoader", "inputs": {**lora, "model": ["load", 0], "clip": ["load", 1]}},
        "yes": text("a cat"),
        "no": text("a dog"),
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "sample": {"class_type": "KSampler", "inputs": {**sampler, **links}},
        "last": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["load", 2]}},
        "save": SAVE,
    }
    assert last_message(real_comfyui, prompt)[0] == "execution_success"


@pytest.mark.parametrize(
    ("probe", "kind", "message"),
    [
        ("ProbeFail", "ValueError", "probe failure\n"),
        ("ProbeOOM", "torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 GiB."),
    ],
)
def test_probes_fail(real_comfyui: str, probe: str, kind: str, message: str) -> None:
    failing = {"class_type": probe, "inputs": {"image": ["sleep", 0]}}
    event, data = last_message(real_comfyui, {"sleep": sleep(0.1), "last": failing, "save": SAVE})
    assert event == "execution_error"
    assert (data["node_type"], data["exception_type"]) == (probe, kind)
    assert data["exception_message"].startswith(message)


def test_a_sleeping_probe_can_be_interrupted(real_comfyui: str) -> None:
    prompt_id = str(uuid.uuid4())
    call(f"{real_comfyui}/prompt", {"prompt": {"last": sleep(20), "save": SAVE}, "prompt_id": prompt_id})
    eventually(lambda: call(f"{real_comfyui}/queue")["queue_running"])
    call(f"{real_comfyui}/interrupt", {"prompt_id": prompt_id})
    assert ended(real_comfyui, prompt_id)["status"]["messages"][-1][0] == "execution_interrupted"


def test_it_comes_back_after_a_crash(real_comfyui_install: ComfyInstall, tmp_path: Path) -> None:
    server = ComfyProcess(real_comfyui_install, tmp_path / "not there yet", log=tmp_path / "comfyui.log")
    with server:
        server.kill()
        with pytest.raises(OSError, match="refused"):
            call(f"{server.url}/system_stats")
        server.start()
        assert len(call(f"{server.url}/history")) == 1  # the readiness prompt of the new process
