"""Whatever faults coincide, under any load, the run finishes in time, and every prompt has exactly one outcome."""

from __future__ import annotations

import pytest

from tests.hostile.storms import Storm, weather


@pytest.mark.parametrize("seed", [3, 11, 20])
def test_storm(seed: int) -> None:
    print(Storm.of(seed))
    assert weather(seed).faults == []


def test_a_seed_says_all_of_a_storm() -> None:
    assert Storm.of(7) == Storm.of(7)
    assert len({str(Storm.of(seed).load) for seed in range(50)}) == 50
    assert len({name for seed in range(200) for faults in Storm.of(seed).faults for name in faults}) > 20
