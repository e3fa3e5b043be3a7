"""Runs that are old by every given criterion may be deleted, and runs with a label or tag stay."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_comfyload.history.store import superfluous
from tests.history.records import row

ROWS = [
    *(row(number) for number in range(4)),
    row(4, test="test_other"),
    row(5, fingerprint="76543210"),
    row(-1, label="before the upgrade"),
    row(-2, tag="v1.0"),
]
BEGIN = ROWS[0].time


@pytest.mark.parametrize(
    ("criteria", "numbers"),
    [
        ({"keep": 2}, [1, 0]),
        ({"keep": 0}, [5, 4, 3, 2, 1, 0]),
        ({"keep": 9}, []),
        ({"before": BEGIN + 2}, [1, 0]),
        ({"before": BEGIN + 1, "keep": 2}, [0]),
        ({"before": BEGIN + 9, "keep": 3}, [0]),
        ({"keep": 3, "named": True}, [0, -1, -2]),
    ],
)
def test_what_may_go(criteria: dict[str, Any], numbers: list[int]) -> None:
    assert [int(gone.file.removesuffix(".run")) for gone in superfluous(ROWS, **criteria)] == numbers
