"""A run while it runs: a headline before it, a few lines that follow it on a terminal, single lines elsewhere.

What the server's clock measures is shown in its time, virtual on a simulated one; how long is left, in real time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pytest_comfyload.metrics.units import format_duration
from pytest_comfyload.result.checks import format_value
from pytest_comfyload.text import harmless_line

if TYPE_CHECKING:
    from pytest_comfyload.engine.progress import LoadProgress

__all__ = ["ERASE", "drawn_below", "headline", "plain_line", "view_lines"]

# What is below the cursor, and right of it, is gone.
ERASE = "\x1b[J"
_BAR = 30


def headline(title: str, scenario: str, progress: LoadProgress, runs: int = 1) -> str:
    """Before the load: what it is, and how long it, and all `runs` like it, will take where that is known."""
    return f"comfyload: {title}: {scenario}{_expectation(progress)}{_expectation_of_all(progress, runs)}"


def plain_line(title: str, progress: LoadProgress) -> str:
    """For a log: the run in one line."""
    parts = [_stand(progress), *_facts(progress), *_errors(progress), *_left(progress)]
    return f"comfyload: {title}: {', '.join(parts)}"


def view_lines(
    title: str, scenario: str, progress: LoadProgress, *, color: bool, width: int, encoding: str = "utf-8"
) -> list[str]:
    """Three lines of at most `width` columns, with ANSI colours if `color`, in what the encoding has."""
    file = io.TextIOWrapper(io.BytesIO(), encoding, errors="replace", newline="\n")
    console = Console(
        file=file,
        width=width,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    for line in (
        Text.assemble((harmless_line(title), "bold"), f" · {harmless_line(scenario)}"),
        _advance(progress),
        Text.assemble(" · ".join(_facts(progress)), *((f" · {error}", "red") for error in _errors(progress))),
    ):
        console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    file.seek(0)
    return file.read().splitlines()


def drawn_below(lines: Sequence[str], column: int) -> str:
    """Return what draws lines below the cursor's own and leaves the cursor in place, where `ERASE` removes them.

    The movements are relative, since drawing in the last row scrolls the screen.
    """
    below = "".join(f"\r\n{line}" for line in lines)
    return f"{ERASE}{below}\x1b[{len(lines)}A\x1b[{column + 1}G"


def _advance(progress: LoadProgress) -> Table:
    row = Table.grid(padding=(0, 2, 0, 0))
    text = Text(" · ".join([_stand(progress), *_left(progress)]), no_wrap=True, overflow="ellipsis")
    done, whole = (progress.elapsed, progress.expected) if progress.total is None else (progress.done, progress.total)
    if whole and not progress.warming_up:
        row.add_row(ProgressBar(total=whole, completed=min(done, whole), width=_BAR), text)
    else:
        row.add_row(text)
    return row


def _expectation(progress: LoadProgress) -> str:
    if progress.expected is None:
        return ""
    expectation = f", expected {_rough(progress.expected)}"
    if progress.scale == 1:
        return expectation
    return f"{expectation} simulated, about {_rough(max(1.0, progress.expected / progress.scale))}"


def _expectation_of_all(progress: LoadProgress, runs: int) -> str:
    if progress.expected is None or runs == 1:
        return ""
    return f"; {runs} such runs {_rough(max(1.0, runs * progress.expected / progress.scale))} and their warm-ups"


def _stand(progress: LoadProgress) -> str:
    simulated = "" if progress.scale == 1 else " simulated"
    if progress.warming_up:
        return f"warming up for {_rough(progress.elapsed)}{simulated}"
    if progress.total is not None:
        return f"{progress.done} of {progress.total} prompts in {_rough(progress.elapsed)}{simulated}"
    if progress.draining and progress.expected is not None:
        return f"{progress.done} prompts, draining since {_rough(progress.elapsed - progress.expected)}{simulated}"
    of = "" if progress.expected is None else f" of {_rough(progress.expected)}"
    return f"{progress.done} prompts in {_rough(progress.elapsed)}{of}{simulated}"


def _facts(progress: LoadProgress) -> Iterator[str]:
    yield f"{progress.in_flight} in flight"
    yield f"{progress.queue_remaining} in the queue"
    if progress.p95 is not None:
        yield f"total p95 {format_value(progress.p95, 's')}"
    if progress.steps_per_second is not None:
        yield f"{format_value(progress.steps_per_second, 'it/s')}"


def _errors(progress: LoadProgress) -> Iterator[str]:
    if progress.dropped:
        yield f"{progress.dropped} dropped"
    yield from (f"{count} {kind}" for kind, count in progress.errors.items())


def _left(progress: LoadProgress) -> list[str]:
    if progress.remaining is None or progress.draining:
        return []
    return [f"about {_rough(progress.remaining / progress.scale)} left"]


def _rough(seconds: float) -> str:
    """Whole seconds below a minute: more is noise while a run runs."""
    return f"{round(seconds)} s" if round(seconds) < 60 else format_duration(round(seconds))
