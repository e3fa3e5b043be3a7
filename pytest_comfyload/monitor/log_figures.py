"""Figures that only a server's log provides: sampling speed, model loads, and silent out-of-memory retries.

Opt-in: `/internal/logs/raw` is not a stable interface, and its lines are written for people. It keeps 300 writes; if a
server writes more than that between two reads, some are missed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_comfyload.monitor.server_record import ServerRecord
from pytest_comfyload.protocol.bodies import LogEntry
from pytest_comfyload.protocol.oom import is_silent_retry

__all__ = ["LogFigures"]

# Seconds after which a sampling speed is no longer shown.
PACE_SERVES = 15.0
# Limits on one response: entries, of which ComfyUI keeps 300, and characters per entry.
MOST_ENTRIES, MOST_TEXT = 1000, 1000
# The last state of a tqdm progress bar: `6/6 [00:05<00:00,  1.13it/s]`.
_BAR = re.compile(r"\d/\d{1,9} \[[\d:]{1,20}<[\d:?]{1,20}, {1,10}(\d{1,9}(?:\.\d{1,9})?)(it/s|s/it)\]\s{0,9}$")
_MODEL = re.compile(r"Requested to load \w")


class LogFigures:
    """Counts from repeated reads of the whole log; each entry counts once, by its timestamp and text. No I/O."""

    def __init__(self, record: ServerRecord) -> None:
        self._record = record
        # None before the first read: entries written before it are not counted.
        self._seen: frozenset[LogEntry] | None = None
        self._paced_at = 0.0

    def read(self, log: Sequence[LogEntry], now: float) -> None:
        """Count the new entries of the log. `now`: seconds of a monotonic clock."""
        entries = [LogEntry(entry.stamp[:100], entry.message[-MOST_TEXT:]) for entry in log[-MOST_ENTRIES:]]
        if self._seen is not None:
            for entry in dict.fromkeys(entries):
                if entry not in self._seen:
                    self._take(entry.message, now)
        self._seen = frozenset(entries)
        if now - self._paced_at > PACE_SERVES:
            self._record.steps_per_second = None

    def _take(self, message: str, now: float) -> None:
        self._record.model_loads += _MODEL.match(message) is not None
        self._record.silent_ooms += is_silent_retry(message)
        bar = _BAR.search(message)
        if bar is not None and (value := float(bar[1])) > 0:
            self._record.steps_per_second = value if bar[2] == "it/s" else 1 / value
            self._paced_at = now
