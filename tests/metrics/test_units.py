"""Sizes as people write them."""

from __future__ import annotations

import math

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.units import as_float, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1kB", 1000), ("64MiB", 64 * 2**20), ("1.5 gib", 3 * 2**29), ("2GB", 2 * 10**9), (" 10MB ", 10**7)],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text, "x") == size


@pytest.mark.parametrize("text", ["", "5", "MB", "-1MB", "0MB", "0.0001kB", "1e9GB", "infGB", "9" * 400 + "GB", "5TB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size; write a number and a unit"):
        parse_size(text, "x")


@pytest.mark.parametrize(
    ("value", "number"), [(3, 3.0), (10**400, math.inf), (-(10**400), -math.inf), (math.inf, math.inf)]
)
def test_a_whole_number_may_be_larger_than_any_float(value: float, number: float) -> None:
    """It may be the bound of an SLO; as a duration it is refused."""
    assert as_float(value) == number
