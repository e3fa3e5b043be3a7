"""Intended differences between the simulator and the recorded servers, and what varies between any two runs.

MEANT is the only list of differences: each rewrites a real server's answer into the simulator's answer, and one that no
longer rewrites anything fails the conformance test. `settled` removes what differs between two runs of the same real
server: times, random names, sizes of random images, and the order of what ComfyUI keeps in sets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["MEANT", "Meant", "settled"]

OLDEST = "0.3.64"
OLD = "0.3.75"
NEWEST = "0.33.0"
ALL = (OLDEST, OLD, NEWEST)


@dataclass(frozen=True)
class Meant:
    """An intended difference: why it is intended, where it applies, and how the recorded value is rewritten."""

    reason: str
    versions: tuple[str, ...]
    place: str
    """A regular expression that matches `case METHOD /path` or `case socket`."""
    rewrite: Callable[[Any], Any]


def _without(*keys: str) -> Callable[[Any], Any]:
    return lambda value: _walk(value, lambda found: {k: v for k, v in found.items() if k not in keys})


def _description_emptied(found: dict[str, Any]) -> dict[str, Any]:
    return found | {"description": ""} if "python_module" in found else found


def _as_simulated_machine(stats: Any) -> Any:
    system = stats["system"] | {"simulator": {"time_scale": "<float>", "gpu": "<str>", "guessed_times": []}}
    return {"system": system, "devices": [device | {"index": "<int>"} for device in stats["devices"]]}


def _without_menus(found: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of `/object_info` without what only the menus of the front end show."""
    if "python_module" not in found:
        return found
    menus = ("search_aliases", "essentials_category")
    category = found["category"].removeprefix("model/")
    return {key: value for key, value in found.items() if key not in menus} | {"category": category}


def _without_new_samplers(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_new_samplers(item) for item in value if item not in ("exp_heun_2_x0", "exp_heun_2_x0_sde")]
    if isinstance(value, dict):
        return {key: _without_new_samplers(item) for key, item in value.items()}
    return value


MEANT = [
    Meant(
        "tooltips are prose of ComfyUI's, not interface",
        ALL,
        "http_reads GET /object_info/.*|prompt_errors .*",
        _without("tooltip", "output_tooltips"),
    ),
    Meant(
        "descriptions of nodes are prose of ComfyUI's, not interface",
        ALL,
        "http_reads GET /object_info/.*",
        lambda value: _walk(value, _description_emptied),
    ),
    Meant(
        "the simulator says that it is one, and has a GPU where the recorded machines had none",
        ALL,
        "http_reads GET /system_stats",
        _as_simulated_machine,
    ),
    Meant(
        "what the menus of the web front end show is not interface",
        (NEWEST,),
        "http_reads GET /object_info/.*",
        lambda value: _walk(value, _without_menus),
    ),
    Meant(
        "two samplers came after 0.3.75, whose node classes the simulator has",
        (NEWEST,),
        "http_reads GET /object_info/KSampler",
        _without_new_samplers,
    ),
    Meant("the simulator has no web front end, so no extensions of one", (OLDEST,), ".* GET /extensions", lambda _: []),
]


def settled(value: Any, place: str) -> Any:
    """Return a value without what differs between two runs of the same server."""
    if place.endswith("/system_stats"):
        return _walk_leaves(_walk(value, lambda found: found | {"argv": []} if "argv" in found else found), _kind)
    return _walk(_settled_lists(value), _settled_keys)


def _settled_keys(found: dict[str, Any]) -> dict[str, Any]:
    return {key: _SETTLERS[key](value) if key in _SETTLERS else _settled_text(value) for key, value in found.items()}


def _settled_text(value: Any) -> Any:
    """Mask the five random letters in the file names of PreviewImage."""
    return re.sub(r"ComfyUI_temp_[a-z]{5}_", "ComfyUI_temp_*_", value) if isinstance(value, str) else value


def _kind(value: Any) -> str:
    return f"<{type(value).__name__}>"


def _lines(value: list[str]) -> str:
    return f"<lines: {bool(value) and all(isinstance(line, str) for line in value)}>"


def _head(value: str) -> str:
    """Return only the format signature of an image or a binary message, without the random content."""
    return value[:16] if value.startswith("0000000") else value[:8]


_SETTLERS: dict[str, Callable[[Any], Any]] = {
    "timestamp": _kind,
    "create_time": _kind,
    "bytes": _kind,
    "head_hex": _head,
    "traceback": _lines,
    "current_inputs": lambda value: {name: [_kind(item) for item in items] for name, items in value.items()},
    "executed": sorted,
    "current_outputs": sorted,
    "dependent_outputs": sorted,
}


def _settled_lists(value: Any) -> Any:
    """Sort the outputs of queue items, which come from a set."""
    if isinstance(value, list):
        items = [*value[:4], sorted(value[4])] if _is_item(value) else value
        return [_settled_lists(item) for item in items]
    if isinstance(value, dict):
        return {key: _settled_lists(item) for key, item in value.items()}
    return value


def _is_item(value: list[Any]) -> bool:
    return len(value) == 5 and isinstance(value[2], dict) and isinstance(value[3], dict)


def _walk(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Apply `change` to every object, innermost first."""
    if isinstance(value, dict):
        return change({key: _walk(item, change) for key, item in value.items()})
    if isinstance(value, list):
        return [_walk(item, change) for item in value]
    return value


def _walk_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _walk_leaves(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk_leaves(item, change) for item in value]
    return change(value)
