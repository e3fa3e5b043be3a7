"""What a server could send, intentionally or not: JSON values of any shape, and messages that are almost right."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

__all__ = ["ANY_JSON", "MESSAGES", "QUEUES", "STATS"]

TYPES = [
    "status",
    "feature_flags",
    "execution_start",
    "execution_cached",
    "execution_success",
    "execution_error",
    "execution_interrupted",
    "executing",
    "executed",
    "progress",
    "progress_state",
]
# Texts may contain half of a surrogate pair: JSON's \ud800 escape can express what UTF-8 cannot.
_TEXT = st.one_of(st.text(max_size=8), st.sampled_from(["\ud83d", "a\udcff.png"]))
_NUMBERS = st.one_of(
    st.integers(-10, 10**13), st.floats(), st.sampled_from([math.nan, math.inf, 10**400, -(10**400), 1e308, True])
)
_SCALARS = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXT)
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXT, inner, max_size=5)),
    max_leaves=12,
)


def _nearly(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Mappings in which each field is right, wrong or missing."""
    return st.fixed_dictionaries({}, optional={key: st.one_of(good, ANY_JSON) for key, good in fields.items()})


_STATES = st.dictionaries(_TEXT, _nearly({"value": _NUMBERS, "max": _NUMBERS, "state": _TEXT}), max_size=3)
_FIELDS = {
    "prompt_id": _TEXT,
    "timestamp": _NUMBERS,
    "node": st.one_of(st.none(), _TEXT),
    "node_id": _TEXT,
    "node_type": _TEXT,
    "exception_type": _TEXT,
    "exception_message": _TEXT,
    "value": _NUMBERS,
    "max": _NUMBERS,
    "output": st.one_of(st.none(), st.dictionaries(_TEXT, ANY_JSON, max_size=2)),
    "nodes": st.one_of(st.lists(_TEXT, max_size=3), _STATES),
    "status": _nearly({"exec_info": _nearly({"queue_remaining": _NUMBERS})}),
    "sid": _TEXT,
}
MESSAGES = st.tuples(st.one_of(st.sampled_from(TYPES), ANY_JSON), st.one_of(_nearly(_FIELDS), ANY_JSON))

_ITEM = st.one_of(ANY_JSON, st.tuples(_NUMBERS, _TEXT, ANY_JSON).map(list))
QUEUES = _nearly({"queue_running": st.lists(_ITEM, max_size=3), "queue_pending": st.lists(_ITEM, max_size=3)})
_DEVICE = {
    "name": _TEXT,
    "type": st.sampled_from(["cuda", "cpu", "mps"]),
    "index": _NUMBERS,
    "vram_total": _NUMBERS,
    "vram_free": _NUMBERS,
}
_SIMULATOR = _nearly({"time_scale": _NUMBERS})
STATS = _nearly(
    {
        "system": _nearly(
            {
                "simulator": _SIMULATOR,
                "argv": st.lists(ANY_JSON, max_size=3),
                "comfyui_version": _TEXT,
                "ram_total": _NUMBERS,
                "ram_free": _NUMBERS,
            }
        ),
        "devices": st.lists(_nearly(_DEVICE), max_size=3),
    }
)
