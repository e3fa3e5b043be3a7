"""What is installed on a server beside ComfyUI, from bodies that not every server sends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pytest_comfyload.errors import NotComfyUI
from pytest_comfyload.protocol.json_values import finite, json_name, storable

__all__ = ["parse_custom_nodes", "parse_model_sizes"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


def parse_custom_nodes(body: object) -> dict[str, str]:
    """ComfyUI-Manager's list: by the name of its folder, the commit or version of each pack that is enabled; empty
    where it does not know one. Raises: NotComfyUI.
    """
    if not isinstance(body, dict):
        raise NotComfyUI(f"GET /customnode/installed answered with {json_name(body)} where a JSON object is expected")
    return {
        storable(name): _version(pack.get("ver"))
        for name, pack in body.items()
        if isinstance(pack, Mapping) and pack.get("enabled") is not False
    }


def parse_model_sizes(body: object) -> dict[str, int]:
    """Bytes of each file in a folder of models, by its name there. Raises: NotComfyUI."""
    if not isinstance(body, list):
        raise NotComfyUI(f"GET /experiment/models answered with {json_name(body)} where a JSON list is expected")
    files = [file for file in body if isinstance(file, dict) and isinstance(file.get("name"), str)]
    return {storable(file["name"]): int(size) for file in files if (size := finite(file.get("size"))) is not None}


def _version(told: Any) -> str:
    if not isinstance(told, str) or told == "unknown":
        return ""
    return told[:7] if _COMMIT.fullmatch(told) else storable(told)
