"""The `extra_data` that is sent with each prompt; it may hold API keys, and is never shown or stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_comfyload.errors import UsageError

__all__ = ["API_KEYS", "OWN_KEY", "api_keys", "concealed", "read_extra_data"]

# Under this key a prompt carries the run that sent it.
OWN_KEY = "comfyload"
# The environment variables with the keys of paid nodes, and what ComfyUI calls these.
API_KEYS: Mapping[str, str] = {
    "COMFYUI_API_KEY_COMFY_ORG": "api_key_comfy_org",
    "COMFYUI_AUTH_TOKEN_COMFY_ORG": "auth_token_comfy_org",
}
_HIDDEN = "…"
_SECRET_NAME = re.compile(r"key|token|secret|passw|auth|credential", re.IGNORECASE)
# Shorter values are flags, and would be found in every text.
_SECRET_LENGTH = 6


def read_extra_data(value: object) -> Mapping[str, Any]:
    """Read the argument of a scenario. Raises UsageError, without the value."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UsageError("extra_data is not a dict of text to value, such as {'extra_pnginfo': {'workflow': {...}}}")
    if OWN_KEY in value:
        raise UsageError(f"extra_data: the key {OWN_KEY!r} is taken: it marks the prompts of a run")
    try:
        json.dumps(dict(value), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise UsageError(f"extra_data holds what JSON cannot carry; its keys are {', '.join(value)}") from None
    return value


def api_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """The keys of paid nodes that the environment holds, as extra_data."""
    return {name: value for variable, name in API_KEYS.items() if (value := environ.get(variable, "").strip())}


def concealed(text: str, extra_data: Mapping[str, Any]) -> str:
    """`text` without the secrets of `extra_data`: nodes like to say which key it was that was refused."""
    for secret in sorted(set(_secrets(extra_data)), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text


def _secrets(value: object, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _secrets(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets(inner, name)
    elif isinstance(value, str) and len(value) >= _SECRET_LENGTH and _SECRET_NAME.search(name):
        yield value
