"""Graphs that several workflow tests share, and the real server's /object_info for their classes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.template import DrawnPrompt
from pytest_comfyload.workflow.workflow import Workflow

OBJECT_INFO: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "object_info.json").read_text())

FLUX: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "flux.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a hill", "clip": ["1", 1]}},
    "3": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["2", 0]}},
    "4": {"class_type": "BasicGuider", "inputs": {"model": ["1", 0], "conditioning": ["3", 0]}},
    "5": {"class_type": "RandomNoise", "inputs": {"noise_seed": ["57:3", 0]}},
    "57:3": {"class_type": "PrimitiveInt", "inputs": {"value": 11}, "_meta": {"title": "Seed"}},
    "6": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["5", 0], "guider": ["4", 0]}},
}

CONTROLNET: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
    "2": {"class_type": "PrimitiveString", "inputs": {"value": "a cat"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": ["2", 0], "clip": ["1", 1]}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["1", 1]}},
    "5": {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["3", 0], "negative": ["4", 0], "strength": 1.0, "image": ["8", 0]},
    },
    "6": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["5", 0], "negative": ["5", 1]}},
    "7": {"class_type": "KSampler", "inputs": {"seed": 2, "positive": ["5", 0], "negative": ["5", 1]}},
    "8": {"class_type": "LoadImage", "inputs": {"image": "edges.png"}},
}
INFO = ObjectInfo(OBJECT_INFO)
TXT2IMG = Workflow.load("txt2img")


def vary(workflow: Workflow, seed: int = 1, text: str | None = "TEXT", info: Any = OBJECT_INFO) -> DrawnPrompt:
    return workflow.on(ObjectInfo(info)).vary(random.Random(seed), text=text, filename_prefix="load/x")
