"""Figures from a server's log: lines as a real ComfyUI writes them, each counted once, whatever part of it is shown."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.monitor.log_figures import MOST_ENTRIES, PACE_SERVES, LogFigures
from pytest_comfyload.monitor.server_record import ServerRecord
from pytest_comfyload.protocol.bodies import LogEntry, parse_log

LOAD = "Requested to load BaseModel\n"
# From a real ComfyUI 0.3.75: the last of six steps, as written when the bar is closed.
BAR = "\r100%|██████████| 6/6 [01:08<00:00, 11.42s/it]"
# From a real ComfyUI that ran out of VRAM.
RETRY = "Warning: Ran out of memory when regular VAE decoding, retrying with tiled VAE decoding.\n"


def figures() -> tuple[LogFigures, ServerRecord]:
    """Return figures that have read once, as what was written before the first read is not counted."""
    record = ServerRecord("a")
    found = LogFigures(record)
    found.read([LogEntry("0", LOAD)], 0.0)
    return found, record


def entries(messages: list[str]) -> list[LogEntry]:
    start = datetime(2026, 11, 29)
    return [LogEntry((start + timedelta(seconds=n)).isoformat(), message) for n, message in enumerate(messages)]


@given(st.lists(st.sampled_from([LOAD, RETRY, BAR, "got prompt\n", ""]), max_size=60), st.lists(st.integers(1, 30)))
def test_each_entry_counts_once_as_long_as_it_is_shown(messages: list[str], sizes: list[int]) -> None:
    found, record = figures()
    log, at = entries(messages), 0
    for size in [*sizes, *[30] * 2]:
        at = min(len(log), at + size)
        # ComfyUI shows the last entries, which overlap with those of the previous read.
        found.read(log[max(0, at - 30) : at], 1.0)
    assert record.model_loads == messages[:at].count(LOAD)
    assert record.silent_ooms == messages[:at].count(RETRY)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (BAR, 1 / 11.42),
        ("\r 33%|███▎      | 2/6 [00:01<00:03,  1.13it/s]", 1.13),
        ("\r100%|█| 20/20 [00:00<00:00, 158.30it/s]", 158.3),
        ("\r  0%|          | 0/6 [00:00<?, ?it/s]", None),
        ("\r 50%|█████     | 3/6 [00:00<?, 0.00it/s]", None),
        ("\r 50%|█████     | 3/6 [00:03<00:03,  1.00MB/s]", None),
        ("my node says 6/6 [00:01<00:00, 9.00it/s] and more\n", None),
        ("\r100%|█| 20/20 [" + "0" * 10_000 + "<00:00, 2.00it/s]", None),
        ("Prompt executed in 70.76 seconds\n", None),
    ],
)
def test_the_pace_is_that_of_a_progress_bar(message: str, expected: float | None) -> None:
    found, record = figures()
    found.read(entries([message]), 1.0)
    assert record.steps_per_second == (None if expected is None else pytest.approx(expected))


def test_an_old_pace_is_not_shown() -> None:
    found, record = figures()
    log = entries([BAR])
    found.read(log, 100.0)
    found.read(log, 100.0 + PACE_SERVES)
    assert record.steps_per_second is not None
    found.read(log, 101.0 + PACE_SERVES)
    assert record.steps_per_second is None


@given(st.recursive(st.none() | st.text() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["t", "m", "entries"]), inner)))  # fmt: skip
def test_whatever_a_server_calls_its_log_is_read(content: object) -> None:
    found, _ = figures()
    for body in ({"entries": content}, {"entries": [content]}):
        found.read(parse_log(body), 1.0)


def test_what_is_kept_of_a_log_is_bounded() -> None:
    found, record = figures()
    found.read(entries([f"{'x' * 100_000}{n}" for n in range(MOST_ENTRIES + 5)]), 1.0)
    assert found._seen is not None
    assert len(found._seen) <= MOST_ENTRIES
    assert max(len(entry.message) for entry in found._seen) <= 1000
    assert record.model_loads == 0
