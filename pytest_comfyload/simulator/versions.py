"""Differences between the ComfyUI versions that the simulator emulates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MAX_UPLOAD_BYTES", "NEWEST", "VERSIONS", "Version"]

MAX_UPLOAD_BYTES = 100 * 1024 * 1024
_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One ComfyUI release.

    `modern`: it has /api/jobs, throttled progress, only canonical UUIDs as prompt ids, `missing_node_type` errors, and
    a 500 for a prompt that is not an object. `stamped`: accepted prompts have a `create_time`. `ram_headroom`: bytes of
    RAM that the RAM-pressure cache keeps free, at most all of the machine's; 0 if there is no such cache. `system` and
    `features`: what only this version adds to /system_stats and /features.
    """

    name: str
    modern: bool
    stamped: bool
    cache: str
    ram_headroom: int
    system: Mapping[str, Any]
    features: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[str, ...]


_FOLDERS = (
    "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models",
    "embeddings", "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "custom_nodes", "hypernetworks",
    "photomaker", "classifiers", "model_patches", "audio_encoders",
)  # fmt: skip


def _with(folders: tuple[str, ...], after: str, *more: str) -> tuple[str, ...]:
    at = folders.index(after) + 1
    return (*folders[:at], *more, *folders[at:])


_FOLDERS_0_3_75 = _with(_FOLDERS, "upscale_models", "latent_upscale_models")
_FOLDERS_0_33 = (
    *_with(_FOLDERS_0_3_75, "custom_nodes", "datasets"),
    "background_removal", "frame_interpolation", "geometry_estimation", "optical_flow", "detection",
)  # fmt: skip
_PACKAGES_0_33 = (
    ("comfyui-frontend-package", None, "1.49.6"),
    ("comfyui-workflow-templates", None, "0.11.44"),
    ("comfyui-embedded-docs", None, "0.5.10"),
    ("comfy-kitchen", "0.2.31", "0.2.31"),
    ("comfy-aimdo", "0.4.13", "0.4.13"),
)

_ALL = (
    Version(
        name="0.3.64",
        modern=False,
        stamped=False,
        cache="classic",
        ram_headroom=0,
        system={
            "os": "posix",
            "required_frontend_version": "1.27.10",
            "installed_templates_version": "0.1.95",
            "required_templates_version": "0.1.95",
        },
        folders=_FOLDERS,
    ),
    Version(
        name="0.3.75",
        modern=False,
        stamped=True,
        cache="classic",
        ram_headroom=4 * _GIB,
        system={
            "os": "posix",
            "required_frontend_version": "1.32.9",
            "installed_templates_version": None,
            "required_templates_version": "0.7.25",
        },
        folders=_FOLDERS_0_3_75,
    ),
    Version(
        name="0.33.0",
        modern=True,
        stamped=True,
        cache="ram",
        ram_headroom=128 * _GIB,
        system={
            "os": "linux",
            "required_frontend_version": "1.49.6",
            "installed_templates_version": None,
            "required_templates_version": "0.11.44",
            "comfy_package_versions": [
                {"name": name, "installed": installed, "required": required}
                for name, installed, required in _PACKAGES_0_33
            ],
            "deploy_environment": "local-git",
        },
        features={
            "supports_model_type_tags": True,
            "extension": {"manager": {"supports_v4": True}},
            "node_replacements": True,
            "assets": False,
        },
        folders=_FOLDERS_0_33,
    ),
)
VERSIONS: Mapping[str, Version] = {version.name: version for version in _ALL}
NEWEST = _ALL[-1].name
