"""The progress of a run: a headline before it, a live view of a few lines in a terminal, single lines elsewhere.

Measured times are in seconds of the server's clock, which is virtual in a simulator; the time left is in real seconds.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from pytest_comfyload.metrics.units import counted, format_duration
from pytest_comfyload.result.checks import format_value
from pytest_comfyload.text import harmless_line

if TYPE_CHECKING:
    from pytest_comfyload.engine.progress import LoadProgress

__all__ = ["ERASE", "drawn_below", "headline", "plain_line", "spool_line", "test_name", "view_lines"]

# Clears the screen from the cursor to its end.
ERASE = "\x1b[J"
_BAR, _LEAST_BAR = 30, 8


def headline(title: str, scenario: str, progress: LoadProgress, runs: int = 1) -> str:
    """Return the line before a load: what it is, and how long it and all `runs` of it will take, if known."""
    return f"comfyload: {test_name(title)}: {scenario}{_expectation(progress)}{_expectation_of_all(progress, runs)}"


def plain_line(progress: LoadProgress, run: str = "") -> str:
    """Return the progress as one line of a log; `run` says which of several runs it is."""
    parts = [_stand(progress), *_left(progress), *_facts(progress), *_errors(progress)]
    return f"comfyload: {run}{', '.join(parts)}"


def spool_line(title: str, progress: LoadProgress) -> str:
    """Return the progress as far as a spool records it, without prompts in flight and the servers' queues."""
    p95 = [f"total p95 {format_value(progress.p95, 's')}"] if progress.p95 is not None else []
    return f"{title}: {' · '.join([_stand(progress), *_left(progress), *p95, *_errors(progress)])}"


def test_name(title: str) -> str:
    """Return the title without the file, which pytest has printed already."""
    file, colons, name = title.partition("::")
    return name if colons and file.endswith(".py") else title


def view_lines(
    title: str, scenario: str, progress: LoadProgress, *, color: bool, width: int, encoding: str = "utf-8"
) -> list[str]:
    """Return three lines of at most `width` columns in the encoding's characters, with ANSI colours if `color`."""
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
        Text.assemble((harmless_line(test_name(title)), "bold"), f" · {harmless_line(scenario)}"),
        _advance(progress, width, "--" if console.options.ascii_only else "━╸", color=color),
        Text.assemble(" · ".join(_facts(progress)), *((f" · {error}", "red") for error in _errors(progress))),
    ):
        console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    file.seek(0)
    return file.read().splitlines()


def drawn_below(lines: Sequence[str], column: int) -> str:
    """Return the text that draws lines below the cursor's line and restores the cursor, so that `ERASE` removes them.

    The movements are relative, since drawing in the last row scrolls the screen.
    """
    below = "".join(f"\r\n{line}" for line in lines)
    return f"{ERASE}{below}\x1b[{len(lines)}A\x1b[{column + 1}G"


def _advance(progress: LoadProgress, width: int, drawn: str, *, color: bool) -> Text:
    """Return a progress bar and its text; the bar is red if prompts failed, and omitted in a narrow terminal."""
    words = Text(" · ".join([_stand(progress), *_left(progress)]))
    done, whole = (progress.elapsed, progress.expected) if progress.total is None else (progress.done, progress.total)
    room = min(_BAR, width - words.cell_len - 2)
    if not whole or progress.warming_up or room < _LEAST_BAR:
        return words
    halves = round(2 * room * min(done, whole) / whole)
    full = drawn[0] * (halves // 2) + drawn[1] * (halves % 2)
    rest = (drawn[0] if color else " ") * (room - len(full))
    return Text.assemble((full, "red" if progress.errors else "green"), (rest, "bright_black"), "  ", words)


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
    simulated, done = "" if progress.scale == 1 else " simulated", counted(progress.done, "prompt")
    if progress.warming_up:
        return f"warming up for {_rough(progress.elapsed)}{simulated}"
    if progress.total is not None:
        return f"{progress.done} of {counted(progress.total, 'prompt')} in {_rough(progress.elapsed)}{simulated}"
    if progress.draining and progress.expected is not None:
        return f"{done}, draining since {_rough(progress.elapsed - progress.expected)}{simulated}"
    of = "" if progress.expected is None else f" of {_rough(progress.expected)}"
    return f"{done} in {_rough(progress.elapsed)}{of}{simulated}"


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
    """Format a duration in whole seconds, since fractions are noise during a run."""
    return f"{round(seconds)} s" if round(seconds) < 60 else format_duration(round(seconds))
