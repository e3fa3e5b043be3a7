from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.simulator import SimulatorSettings
from pytest_comfyload.simulator.__main__ import main
from pytest_comfyload.simulator.faults import FAULTS, Faults, parse_fault


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"slow-pots": 1}, "unknown fault 'slow-pots'; the nearest are: slow-post, "),
        ({"oom": 1.5}, "oom takes a probability from 0 to 1, not 1.5"),
        ({"oom": float("nan")}, "oom takes"),
        ({"restart": 2.5}, "restart takes a whole number from 1, not 2.5"),
        ({"restart": 0}, "restart takes"),
        ({"slow-view": -1}, "slow-view takes virtual seconds from 0, not -1"),
        ({"login": 1.0}, "login takes no value, not 1.0"),
    ],
)
def test_a_fault_that_cannot_be_meant_is_refused(bad: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        SimulatorSettings(faults=bad)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_can_be_had_by_its_name_alone_and_with_its_default(name: str) -> None:
    fault = FAULTS[name]
    SimulatorSettings(faults={name: True})
    assert Faults({name: True}, 0).get(name, -1) == fault.default
    assert fault.allows(fault.default) or fault.kind.value == "no value"


def test_the_command_line_names_faults_as_the_settings_do() -> None:
    assert parse_fault("oom=0.05") == ("oom", 0.05)
    assert parse_fault("login") == ("login", True)
    with pytest.raises(UsageError, match="'often' is not a number"):
        parse_fault("oom=often")


def test_help_lists_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(f"  {fault.name}" in told and fault.meaning in told for fault in FAULTS.values())


def test_an_unknown_fault_on_the_command_line_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "0", "--fault", "omm"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("unknown fault 'omm'; the nearest are: oom, ")
    assert told.count("\n") == 1


@given(st.integers(), st.floats(0, 1), st.integers())
def test_the_same_thing_is_struck_again_or_spared_again(seed: int, chance: float, key: int) -> None:
    values: dict[str, Any] = {"oom": chance}
    assert Faults(values, seed).strikes("oom", key) == Faults(values, seed).strikes("oom", key)
    assert not Faults(values, seed).strikes("node-error", key)


def test_a_probability_is_kept_and_differs_between_faults_and_seeds() -> None:
    def struck(seed: int, name: str) -> list[bool]:
        faults = Faults({name: 0.25}, seed)
        return [faults.strikes(name, key) for key in range(4000)]

    assert 900 < sum(struck(0, "oom")) < 1100
    assert struck(0, "oom") != struck(1, "oom")
    assert struck(0, "oom") != struck(0, "node-error")
