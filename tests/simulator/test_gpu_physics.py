from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.simulator.gpu_model import AMBIENT, Board, BoardState
from pytest_comfyload.simulator.timing import GPUS

BOARDS = st.sampled_from([gpu.board for gpu in GPUS.values()])
LOADS = st.floats(0, 1)
STRETCHES = st.lists(st.tuples(st.floats(0, 100), LOADS), max_size=5)
BOARD = GPUS["rtx4090"].board
LONG = 3600.0


def after(board: Board, stretches: list[tuple[float, float]]) -> BoardState:
    condition = board.idle()
    for seconds, load in stretches:
        condition = board.after(condition, seconds, load)
    return condition


@given(BOARDS, STRETCHES, st.floats(0, 20), LOADS)
def test_energy_is_the_integral_of_power(
    board: Board, earlier: list[tuple[float, float]], seconds: float, load: float
) -> None:
    """Compared with Simpson's rule over 400 slices, whose error is far below the tolerance."""
    begin = after(board, earlier)
    slices = 400
    width = seconds / slices
    powers = [board.after(begin, width * number / 2, load).power for number in range(2 * slices + 1)]
    integral = width / 6 * (powers[0] + 4 * sum(powers[1::2]) + 2 * sum(powers[2:-1:2]) + powers[-1])
    assert board.after(begin, seconds, load).energy - begin.energy == pytest.approx(integral, rel=1e-6, abs=1e-6)


@given(BOARDS, STRETCHES, st.floats(0, 100), st.floats(0, 100), LOADS)
def test_one_long_stretch_is_two_short_ones(
    board: Board, earlier: list[tuple[float, float]], one: float, two: float, load: float
) -> None:
    begin = after(board, earlier)
    at_once = board.after(begin, one + two, load)
    in_two = board.after(board.after(begin, one, load), two, load)
    assert at_once.power == pytest.approx(in_two.power)
    assert at_once.temperature == pytest.approx(in_two.temperature)
    assert at_once.energy == pytest.approx(in_two.energy)


@given(BOARDS, STRETCHES)
def test_no_load_leads_out_of_the_board_s_bounds(board: Board, stretches: list[tuple[float, float]]) -> None:
    condition = after(board, stretches)
    assert board.idle_power - 1e-9 <= condition.power <= board.power_limit + 1e-9
    assert board.idle().temperature - 1e-9 <= condition.temperature <= board.hot + 1e-9


@given(BOARDS, LOADS, LOADS)
def test_more_load_means_more_of_everything(board: Board, one: float, two: float) -> None:
    low, high = (after(board, [(10.0, load)]) for load in sorted((one, two)))
    assert low.power <= high.power
    assert low.temperature <= high.temperature
    assert low.energy <= high.energy


def test_an_idle_board_stays_as_it_is_and_one_at_its_limit_becomes_hot() -> None:
    idle, hot = after(BOARD, [(LONG, 0.0)]), after(BOARD, [(LONG, 1.0)])
    assert (idle.power, idle.temperature) == (BOARD.idle_power, BOARD.idle().temperature)
    assert idle.energy == pytest.approx(BOARD.idle_power * LONG)
    assert AMBIENT < idle.temperature < AMBIENT + 10
    assert (hot.power, hot.temperature) == pytest.approx((BOARD.power_limit, BOARD.hot))


def test_heat_lags_behind_power_both_ways() -> None:
    working = after(BOARD, [(5.0, 1.0)])
    assert working.power > 0.99 * BOARD.power_limit
    assert working.temperature < AMBIENT + 0.25 * (BOARD.hot - AMBIENT)
    resting = after(BOARD, [(300.0, 1.0), (5.0, 0.0)])
    assert resting.power < 1.1 * BOARD.idle_power
    assert resting.temperature > AMBIENT + 0.75 * (BOARD.hot - AMBIENT)


def test_no_card_gets_as_hot_as_those_that_throttle() -> None:
    assert all(gpu.board.hot < 83 for gpu in GPUS.values())
