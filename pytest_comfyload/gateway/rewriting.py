"""Translation of worker messages: file names get the worker's name, timestamps are converted to one clock."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_comfyload.protocol.json_values import as_dict, as_list, finite

__all__ = [
    "ENDS",
    "StampTranslator",
    "ended_entry",
    "failed_entry",
    "file_paths",
    "frame",
    "gateway_time",
    "named",
    "split",
]

# Events that end a prompt, with the resulting status.
ENDS: Mapping[str, str] = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "interrupted",
}
_OWN_FOLDERS = ("output", "temp")


def gateway_time(scale: float) -> float:
    """Return the time on the gateway's clock: seconds since the epoch, times the time scale of simulated workers."""
    return time.time() * scale


class StampTranslator:
    """Conversion of a worker's timestamps to the gateway's clock, since the clocks of workers differ.

    Each prompt bounds the offset between the two clocks: its start is stamped after it was sent, and before the event
    arrives.
    """

    def __init__(self) -> None:
        self._offset: float | None = None

    def observe(self, stamp: object, sent: float, arrived: float) -> None:
        """Narrow down the offset; `stamp` is in the worker's milliseconds, the others are in the gateway's seconds."""
        seconds = finite(stamp)
        if seconds is None:
            return
        low, high = sent - seconds / 1000, arrived - seconds / 1000
        self._offset = high if self._offset is None else min(max(self._offset, low), high)

    def translated(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the event with its timestamp on the gateway's clock."""
        stamp = finite(data.get("timestamp"))
        if stamp is None or self._offset is None:
            return dict(data)
        return {**data, "timestamp": round(stamp + self._offset * 1000)}


def frame(kind: str, data: Mapping[str, Any]) -> bytes:
    """Return a message encoded as ComfyUI encodes it."""
    return json.dumps({"type": kind, "data": data}).encode()


def named(output: Mapping[str, Any], worker: str) -> dict[str, Any]:
    """Return a node's output with the worker's name in each subfolder, since workers use the same file names."""
    return {
        kind: [_named(item, worker) for item in items] if isinstance(items, list) else items
        for kind, items in output.items()
    }


def _named(item: Any, worker: str) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get("filename"), str):
        return item
    if item.get("type", "output") not in _OWN_FOLDERS:
        return item
    subfolder = item.get("subfolder")
    return {**item, "subfolder": f"{worker}/{subfolder}" if isinstance(subfolder, str) and subfolder else worker}


def split(subfolder: str) -> tuple[str, str]:
    """Split a subfolder written by `named` into the worker and the worker's own subfolder."""
    worker, _, rest = subfolder.replace("\\", "/").partition("/")
    return worker, rest


def file_paths(outputs: Mapping[str, Any]) -> Iterator[str]:
    """Yield the key under which the owner of each file is stored, for outputs returned by `named`."""
    for output in outputs.values():
        for items in as_dict(output).values():
            for item in as_list(items):
                if isinstance(item, dict) and isinstance(item.get("filename"), str):
                    kind = item.get("type", "output")
                    if kind in _OWN_FOLDERS:
                        yield f"{kind}/{item.get('subfolder', '')}/{item['filename']}"


def ended_entry(
    entry: Mapping[str, Any], item: list[Any], worker: str, stamps: StampTranslator
) -> tuple[str, dict[str, Any], list[bytes]]:
    """Return a finished prompt's status, its history entry as the gateway shows it, and its client's last messages.

    Args:
        entry: The worker's history entry.
        item: The prompt as /queue shows it.
    """
    outputs = {
        node: named(output, worker)
        for node, output in as_dict(entry.get("outputs")).items()
        if isinstance(output, dict)
    }
    status = as_dict(entry.get("status"))
    messages = [
        [kind, stamps.translated(data)]
        for kind, data in (
            each for each in as_list(status.get("messages")) if isinstance(each, list) and len(each) == 2
        )
        if isinstance(data, dict)
    ]
    ends = [(kind, data) for kind, data in messages if kind in ENDS]
    kind, data = ends[-1] if ends else _supposed_end(status, str(item[1]))
    # The worker's own item lists the outputs that it chose to execute.
    targets = (*as_list(entry.get("prompt")), *(None,) * 5)[4]
    shown = {
        **entry,
        "prompt": [*item[:4], targets if isinstance(targets, list) else item[4]],
        "outputs": outputs,
        "status": {**status, "messages": messages},
    }
    return ENDS[kind], shown, [frame(kind, data), _last(str(item[1]))]


def _supposed_end(status: Mapping[str, Any], id: str) -> tuple[str, dict[str, Any]]:
    kind = "execution_success" if status.get("status_str") == "success" else "execution_interrupted"
    return kind, {"prompt_id": id, "timestamp": round(time.time() * 1000)}


def failed_entry(
    item: list[Any], kind: str, message: str, at: float, node: tuple[str, str] = ("", "")
) -> tuple[str, dict[str, Any], list[bytes]]:
    """Return what `ended_entry` returns, for a prompt that no worker has completed.

    Args:
        kind: The exception type that clients are shown.
        at: Seconds on the gateway's clock.
        node: The id and class of the node at fault.
    """
    stamp = {"prompt_id": item[1], "timestamp": round(at * 1000)}
    error = {
        **stamp,
        "node_id": node[0],
        "node_type": node[1],
        "executed": [],
        "exception_message": message,
        "exception_type": kind,
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
    }
    interrupted = kind == "Interrupted"
    end = "execution_interrupted" if interrupted else "execution_error"
    data = {**stamp, "node_id": node[0], "node_type": node[1], "executed": []} if interrupted else error
    status = {"status_str": "error", "completed": False, "messages": [["execution_start", stamp], [end, data]]}
    entry = {"prompt": item, "outputs": {}, "status": status, "meta": {}}
    return ENDS[end], entry, [frame(end, data), _last(str(item[1]))]


def _last(id: str) -> bytes:
    return frame("executing", {"node": None, "prompt_id": id})
