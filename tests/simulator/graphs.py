"""Prompts in API format that are shared by several tests."""

from __future__ import annotations

from typing import Any

__all__ = ["sleep", "txt2img"]


def txt2img(seed: int = 1, *, checkpoint: str = "sd_xl_base_1.0.safetensors", **latent: int) -> dict[str, Any]:
    """Return a text-to-image prompt: one image of 1024×1024 in 20 steps, unless `latent` says otherwise."""
    steps = latent.pop("steps", 20)
    size = {"width": 1024, "height": 1024, "batch_size": 1} | latent
    sampler = {
        "seed": seed,
        "steps": steps,
        "cfg": 7.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
    }
    return {
        "3": {"class_type": "KSampler", "inputs": sampler},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "5": {"class_type": "EmptyLatentImage", "inputs": size},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad quality", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "test", "images": ["8", 0]}},
    }


def sleep(seconds: float, seed: int = 1) -> dict[str, Any]:
    """Return a prompt that takes a known time."""
    return {
        "1": {"class_type": "ProbeSleep", "inputs": {"seconds": seconds, "seed": seed, "width": 64}},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "sleepy", "images": ["1", 0]}},
    }
