from __future__ import annotations

import math

import pytest

from pytest_comfyload.metrics.units import format_interval


@pytest.mark.parametrize(
    ("lower", "upper", "unit", "written"),
    [
        (9.14, 12.3, "s", "9.14–12.3 s"),
        (9.14, math.inf, "s", "9.14–∞ s"),
        (-math.inf, math.inf, "s", "−∞–∞"),
        (81.9, 100.0, "%", "81.9–100 %"),
        (512 * 2**20, 2 * 2**30, "B", "512 MiB–2 GiB"),
        (1, 3, "", "1–3"),
    ],
)
def test_an_interval_has_its_unit_once(lower: float, upper: float, unit: str, written: str) -> None:
    assert format_interval(lower, upper, unit) == written
