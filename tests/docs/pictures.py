"""The figures of the explanation, drawn from the package's own models: `python -m tests.docs.pictures` writes them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape

from pytest_comfyload.metrics.queueing import serve
from tests.docs.blocks import DOCS

__all__ = ["FOLDER", "PICTURES"]

FOLDER = DOCS / "_static"
WIDTH = 720
_INK, _FAINT, _GRID = "#1f2933", "#52606d", "#d9dee4"
_BLUE, _ORANGE, _GREEN, _RED = "#1f6feb", "#c2620b", "#1a7f37", "#b3261e"


def phases() -> str:
    """Draw the phases of one prompt, not to scale."""
    parts = (
        ("send_lag", 46, _FAINT), ("submit", 60, _FAINT), ("queue_time", 180, _ORANGE),
        ("generation_time", 210, _BLUE), ("delivery", 66, _FAINT), ("fetch_time", 90, _GREEN),
    )  # fmt: skip
    moments = ("due", "sent", "accepted", "started", "ended", "known", "complete")
    ends = list(itertools.accumulate((width for _, width, _ in parts), initial=30))
    drawn = []
    for (name, width, color), left in zip(parts, ends, strict=False):
        drawn.append(_box(left, 56, width - 2, 38, color))
        inside = width > 100
        drawn.append(_text(left + width / 2, 80 if inside else 48, name, "#fff" if inside else _INK, anchor="middle"))
    drawn += [
        _text(at, 114, moment, _FAINT, anchor="middle", size=12) for at, moment in zip(ends, moments, strict=True)
    ]
    drawn += [_line(ends[0], 136, ends[-1] - 2, 136, _INK), _line(ends[0], 130, ends[0], 142, _INK)]
    drawn += [_line(ends[-1] - 2, 130, ends[-1] - 2, 142, _INK), _text(WIDTH / 2, 158, "total_time", anchor="middle")]
    drawn += [_text(ends[2], 24, "by the server's clock", _FAINT, size=12), _line(ends[2], 30, ends[4] - 2, 30, _FAINT)]
    return _svg(172, drawn)


def verdicts() -> str:
    """Draw intervals against a bound, one for each verdict."""
    rows = (
        ("pass", 9.8, 9.2, 11.2, _GREEN, "9.8 s, interval below 12 s"),
        ("unsupported", 9.8, 9.2, None, _ORANGE, "9.8 s, but 15 prompts have no upper end for a P95"),
        ("inconclusive", 11.8, 10.9, 12.7, _ORANGE, "11.8 s, interval reaches beyond"),
        ("fail", 14.1, 12.6, 15.0, _RED, "14.1 s, even the low end is over"),
    )

    def x(seconds: float) -> float:
        return 120 + (seconds - 8) * 34

    drawn = [_line(x(12), 18, x(12), 178, _INK, dashed=True), _text(x(12) + 6, 26, "bound: 12 s", _INK, size=12)]
    for row, (name, value, low, high, color, about) in enumerate(rows):
        y = 52 + row * 34
        end = x(high) if high is not None else x(16)
        drawn += [
            _text(16, y + 4, name, color, bold=True),
            _line(x(low), y, end, y, color, wide=3, dashed=high is None),
        ]
        drawn += [_dot(x(value), y, color), _text(410, y + 4, about, size=12)]
    for seconds in range(8, 17, 2):
        drawn.append(_text(x(seconds), 196, f"{seconds} s", _FAINT, anchor="middle", size=12))
    return _svg(206, drawn)


def limit() -> str:
    """Draw a series of sessions, its level, and the limit that follows from its noise."""
    rng = random.Random(4)
    values = [1.5 * (1 + rng.gauss(0, 0.016)) for _ in range(14)] + [1.5 * 1.255]
    level = sorted(values[:-1])[7]
    bound = level * 1.067

    def y(seconds: float) -> float:
        return 170 - (seconds - 1.4) * 260

    drawn = [_box(60, y(bound), 560, y(level) - y(bound), "#e8f0fe"), _line(60, y(level), 620, y(level), _BLUE)]
    drawn += [_line(60, y(bound), 620, y(bound), _RED, dashed=True)]
    drawn += [_text(626, y(level) + 4, "level", _BLUE), _text(626, y(bound) + 4, "limit +6.7 %", _RED)]
    for number, value in enumerate(values):
        drawn.append(_dot(80 + number * 37, y(value), _RED if value > bound else _BLUE))
    drawn.append(_text(80 + 14 * 37 - 10, y(values[-1]) + 4, "regressed: +25.5 %", _RED, anchor="end"))
    drawn.append(_text(60, 190, "one dot is one session: the median of its runs", _FAINT, size=12))
    return _svg(200, drawn)


def abba() -> str:
    """Draw two orders of runs under a steady drift: only one gives both sides the same average."""
    drawn = []
    for left, order in ((30, "AABB"), (390, "ABBA")):
        drawn.append(_text(left, 24, " ".join(order), bold=True))
        places = {"A": list[float](), "B": list[float]()}
        for run, side in enumerate(order):
            y = 120 - 20 * run
            places[side].append(y)
            color = _BLUE if side == "A" else _ORANGE
            drawn += [
                _box(left + run * 66, y, 54, 150 - y, color),
                _text(left + run * 66 + 27, 144, side, "#fff", anchor="middle"),
            ]
        for side, ys in places.items():
            mean, color = sum(ys) / len(ys), _BLUE if side == "A" else _ORANGE
            shift = 0 if side == "A" else 3 * (places["A"] != ys)
            drawn.append(_line(left - 8, mean + shift, left + 270, mean + shift, color, dashed=True))
        same = sum(places["A"]) == sum(places["B"])
        drawn.append(_text(left, 176, "equal averages" if same else "B looks slower than A", _GREEN if same else _RED))
    return _svg(190, drawn)


def queueing() -> str:
    """Draw the p95 of total_time against the load, by the recursion that plans and capacities use."""
    rates = [0.5 + 0.25 * step for step in range(46)]
    curves = {"1 server": (1, _BLUE), "2 servers, one queue": (2, _ORANGE)}

    def x(rate: float) -> float:
        return 60 + rate * 48

    def y(seconds: float) -> float:
        return 220 - min(seconds, 125) * 1.6

    drawn = [_line(x(0), y(tick), x(12), y(tick), _GRID) for tick in range(0, 121, 20)]
    drawn += [_text(x(0) - 6, y(tick) + 4, f"{tick} s", _FAINT, anchor="end", size=12) for tick in range(0, 121, 20)]
    drawn += [_text(x(rate), 238, str(rate), _FAINT, anchor="middle", size=12) for rate in range(0, 13, 2)]
    drawn += [
        _line(x(0), y(60), x(12), y(60), _RED, dashed=True),
        _text(x(0) + 6, y(60) - 6, "SLO: p95 < 60 s", _RED, size=12),
    ]
    for name, (servers, color) in curves.items():
        points = [(rate, _p95(rate, servers)) for rate in rates if rate < 5.9 * servers]
        within = [(rate, time) for rate, time in points if time <= 120]
        drawn.append(_path([(x(rate), y(time)) for rate, time in within], color))
        drawn.append(_text(x(within[-1][0]) - 8, y(within[-1][1]) + 12, name, color, anchor="end"))
    drawn.append(_text(x(6), 256, "prompts per minute", _FAINT, anchor="middle", size=12))
    return _svg(266, drawn)


def _p95(rate: float, servers: int, prompts: int = 20_000) -> float:
    """Return the p95 in seconds of prompts of 10 s (standard deviation 1 s) that arrive at random, `rate` a minute."""
    rng = random.Random(1)
    arrivals = list(itertools.accumulate(rng.expovariate(rate / 60) for _ in range(prompts)))
    passages = serve(arrivals, [max(1.0, rng.gauss(10, 1)) for _ in range(prompts)], servers)
    totals = sorted(end - arrival for arrival, end in zip(passages.arrivals, passages.ends, strict=True))
    return totals[int(0.95 * prompts)]


PICTURES: Mapping[str, Callable[[], str]] = {
    f"{each.__name__}.svg": each for each in (phases, verdicts, limit, abba, queueing)
}


def _svg(height: float, drawn: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        'font-family="system-ui, sans-serif" font-size="14">'
    )
    # A background of its own, for dark pages.
    return "\n".join((head, _box(0, 0, WIDTH, height, "#fff"), *drawn, "</svg>", ""))


def _box(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" fill="{color}"/>'


def _line(x: float, y: float, to_x: float, to_y: float, color: str, *, wide: float = 1.5, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{color}" stroke-width="{wide:g}"{dashes}/>'


def _path(points: Sequence[tuple[float, float]], color: str) -> str:
    return f'<polyline points="{" ".join(_pairs(points))}" fill="none" stroke="{color}" stroke-width="2.5"/>'


def _pairs(points: Iterable[tuple[float, float]]) -> Iterator[str]:
    return (f"{x:.1f},{y:.1f}" for x, y in points)


def _dot(x: float, y: float, color: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}"/>'


def _text(
    x: float, y: float, text: str, color: str = _INK, *, anchor: str = "start", size: int = 14, bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {place}{weight} fill="{color}">{escape(text)}</text>'


def main() -> None:
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
