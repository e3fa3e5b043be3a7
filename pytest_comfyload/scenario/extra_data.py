"""The `extra_data` sent with each prompt: its API keys are registered as secrets, and none of it is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.redaction import hide

__all__ = ["API_KEYS", "OWN_KEY", "api_keys", "hide_extra_data", "read_extra_data"]

# The key under which a prompt carries the run that sent it.
OWN_KEY = "comfyload"
# Environment variables with the keys for paid nodes, and ComfyUI's names for these.
API_KEYS: Mapping[str, str] = {
    "COMFYUI_API_KEY_COMFY_ORG": "api_key_comfy_org",
    "COMFYUI_AUTH_TOKEN_COMFY_ORG": "auth_token_comfy_org",
}
_SECRET_NAME = re.compile(r"key|token|secret|passw|auth|credential", re.IGNORECASE)


def read_extra_data(value: object) -> Mapping[str, Any]:
    """Read the argument of a scenario. Raises UsageError, whose message does not contain the value."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UsageError("extra_data is not a dict of text to value, such as {'extra_pnginfo': {'workflow': {...}}}")
    if OWN_KEY in value:
        raise UsageError(f"extra_data: the key {OWN_KEY!r} is taken: it marks the prompts of a run")
    try:
        json.dumps(dict(value), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise UsageError(
            f"extra_data has a value that JSON cannot represent; its keys are {', '.join(value)}"
        ) from None
    hide_extra_data(value)
    return value


def api_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the keys for paid nodes from the environment, as extra_data."""
    keys = {name: value for variable, name in API_KEYS.items() if (value := environ.get(variable, "").strip())}
    hide(*keys.values())
    return keys


def hide_extra_data(extra_data: Mapping[str, Any]) -> None:
    """Register its secrets for redaction: error messages of nodes often contain the key that was refused."""
    hide(*_secrets(extra_data))


def _secrets(value: object, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _secrets(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets(inner, name)
    elif isinstance(value, str) and _SECRET_NAME.search(name):
        yield value
