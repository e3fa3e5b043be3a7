"""Live view for a terminal: the figures of each server, each with a sparkline of its last values."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_comfyload.metrics.intervals import percentile_of
from pytest_comfyload.monitor.server_record import WINDOW, ServerRecord

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["FIGURES", "Figure", "TopView"]

# Values in a sparkline, one per update.
SPARK = 8
# Columns per figure: a line of 80 columns fits two figures, one of 120 three.
CELL = 40
_LABEL, _VALUE = 16, 14
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a server: `key` in the JSON, `label` on the screen.

    `top` is the upper end of its sparkline; None means the largest value in it.
    """

    key: str
    label: str
    read: Callable[[ServerRecord], float | None]
    show: Callable[[ServerRecord, float], str]
    top: Callable[[ServerRecord], float | None] = lambda record: None


def _over_gpus(name: str, of: Callable[[Sequence[float]], float]) -> Callable[[ServerRecord], float | None]:
    """Return a reader that combines a figure over all GPUs of a server; it gives None if one does not report it."""

    def read(record: ServerRecord) -> float | None:
        values = [getattr(sample, name) for sample in record.gpu_samples.values()]
        return None if not values or None in values else of(values)

    return read


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _memory_used(record: ServerRecord) -> float | None:
    return _over_gpus("memory_used", sum)(record) or record.vram_used


def _memory_total(record: ServerRecord) -> float | None:
    return _over_gpus("memory_total", sum)(record) or record.vram_total


def _show_memory(record: ServerRecord, used: float) -> str:
    total = _memory_total(record)
    return f"{used / 2**30:.1f} GiB" if total is None else f"{used / 2**30:.1f}/{total / 2**30:.1f} GiB"


def _mean_time(record: ServerRecord) -> float | None:
    durations = record.recent.durations
    return _mean(durations) if durations else None


def _p95(record: ServerRecord) -> float | None:
    durations = record.recent.durations
    return percentile_of(durations, 95) if durations else None


def _to(top: float) -> Callable[[ServerRecord], float]:
    return lambda record: top


def _unit(unit: str, digits: int = 0) -> Callable[[ServerRecord, float], str]:
    return lambda record, value: f"{value:.{digits}f}{unit}"


def _seconds(record: ServerRecord, value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


FIGURES = (
    Figure("gpu_utilization_percent", "GPU utilization", _over_gpus("utilization", _mean), _unit(" %"), _to(100)),
    Figure("gpu_memory_used_bytes", "GPU memory", _memory_used, _show_memory, _memory_total),
    Figure("gpu_temperature_celsius", "GPU temperature", _over_gpus("temperature", max), _unit(" °C"), _to(100)),
    Figure("queue_pending", "Queue pending", lambda record: record.waiting, _unit("")),
    Figure("queue_running", "Queue running", lambda record: record.running, _unit(""), _to(1)),
    Figure("generation_time_mean_seconds", "Generation mean", _mean_time, _seconds),
    Figure("generation_time_p95_seconds", "Generation P95", _p95, _seconds),
    Figure("images_per_minute", "Throughput", lambda record: record.recent.images_per_minute, _unit(" img/min", 1)),
    Figure("success_rate_percent", "Success rate", lambda record: record.recent.success_rate, _unit(" %", 1), _to(100)),
)


class TopView:
    """Live view of several servers. Call `update` once per poll, then `lines`, `screen` or `data`."""

    def __init__(self, records: Sequence[ServerRecord], blocks: str = BLOCKS) -> None:
        self._records = records
        self._blocks = blocks
        self._history: dict[tuple[str, str], deque[float | None]] = {
            (record.server, figure.key): deque(maxlen=SPARK) for record in records for figure in FIGURES
        }

    def update(self) -> None:
        for record in self._records:
            for figure in FIGURES:
                self._history[record.server, figure.key].append(figure.read(record))

    def data(self) -> list[dict[str, Any]]:
        """Return the figures of each server as JSON values; None where unknown."""
        return [
            {
                "server": record.server,
                "up": record.up,
                "version": record.version,
                "simulated": record.simulated,
                "worker_dead": record.worker_dead,
                **{figure.key: figure.read(record) for figure in FIGURES},
                "gpu_memory_total_bytes": _memory_total(record),
            }
            for record in self._records
        ]

    def lines(self, width: int) -> Iterator[Text]:
        """Yield the lines of all servers."""
        from rich.text import Text

        for number, record in enumerate(self._records):
            if number:
                yield Text()
            yield from self._server(record, width)

    def screen(self, width: int, height: int) -> list[Text]:
        """Return the servers that fit completely, but at least the first one, and a status line below."""
        from rich.text import Text

        lines = list(self.lines(width))
        ends = [number for number, line in enumerate([*lines, Text()]) if not line.plain]
        fitting = [end for end in ends if end < height] or ends[:1]
        hidden = len(ends) - len(fitting)
        below = f"Times, throughput and success rate: the last {WINDOW / 60:.0f} minutes; Ctrl-C ends"
        if hidden:
            below = f"{hidden} of {len(ends)} servers do not fit: enlarge the terminal, or use --once; Ctrl-C ends"
        return [*lines[: fitting[-1]], Text(below, "dim", no_wrap=True, overflow="ellipsis")]

    def _server(self, record: ServerRecord, width: int) -> Iterator[Text]:
        yield _title(record)
        if not record.error or any(figure.read(record) is not None for figure in FIGURES):
            columns = max(1, width // CELL)
            cells = [self._cell(record, figure) for figure in FIGURES]
            for begin in range(0, len(cells), columns):
                yield _row(cells[begin : begin + columns])

    def _cell(self, record: ServerRecord, figure: Figure) -> Text:
        from rich.text import Text

        value = figure.read(record)
        shown = "–" if value is None else figure.show(record, value)
        spark = _sparkline(self._history[record.server, figure.key], figure.top(record), self._blocks)
        return Text.assemble((f"{figure.label:<{_LABEL}}", "dim"), f"{shown:>{_VALUE}} ", (f"{spark:<{SPARK}}", "cyan"))


def _title(record: ServerRecord) -> Text:
    from rich.text import Text

    state, style = ("up", "green") if record.up else ("no answer yet", "yellow")
    if record.error:
        state, style = "down", "bold red"
    if record.worker_dead:
        state, style = "worker dead", "bold red"
    what = [f"ComfyUI {record.version}"] if record.version else []
    what += ["SIMULATED in virtual time"] if record.simulated else []
    what += [record.error.removeprefix(f"http://{record.server}: ")] if record.error else []
    told = ((f", {each}", "dim") for each in what)
    return Text.assemble((record.server, "bold"), " ", (state, style), *told, no_wrap=True, overflow="ellipsis")


def _row(cells: Sequence[Text]) -> Text:
    from rich.text import Text

    return Text(" ").join(cells)


def _sparkline(values: Sequence[float | None], top: float | None, blocks: str) -> str:
    """Draw one character per value, scaled from 0 to `top` or the largest value; a space for an unknown value."""
    known = [value for value in values if value is not None]
    largest = max([*known, 0.0]) if top is None else top
    steps = len(blocks) - 1

    def block(value: float | None) -> str:
        if value is None:
            return " "
        return blocks[min(steps, max(0, round(steps * value / largest)))] if largest > 0 else blocks[0]

    return "".join(map(block, values))
