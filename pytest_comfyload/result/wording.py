"""How figures are written wherever a person reads them."""

from __future__ import annotations

import math

__all__ = ["format_interval", "format_value"]


def format_value(value: float, unit: str) -> str:
    """Three significant digits at most below a thousand; counts and percentages as they are; bytes as MiB or GiB."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if unit == "B" or unit.startswith("B/"):
        power, name = (3, "GiB") if abs(value) >= 1024**3 else (2, "MiB")
        return format_value(value / 1024**power, unit.replace("B", name, 1))
    value = round(value, 4) + 0.0  # a tenth of a millisecond at least, and no −0
    whole = value == int(value) or abs(value) >= 1000
    digits = f"{value:.0f}" if whole and abs(value) < 1e6 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip() if unit != "%" else f"{digits} %"


def format_interval(lower: float, upper: float, unit: str) -> str:
    """`9.1–12.3 s`; with the unit at both ends where they differ in it."""
    low, high = (format_value(end, unit).partition(" ") for end in (lower, upper))
    if "" in (low[2], high[2]) or low[2] == high[2]:
        return f"{low[0]}–{high[0]} {high[2] or low[2]}".rstrip()
    return f"{''.join(low)}–{''.join(high)}"
