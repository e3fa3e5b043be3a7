"""Whatever a server does, the load stays within its time and memory, counts every prompt, and reports what happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.hostile_cases import CASES
from tests.hostile.hostile_loads import LINES, complaints, dirt, run_cases

PARTS = 2


@pytest.mark.parametrize("part", range(PARTS))
def test_hostile_server(part: int, tmp_path: Path) -> None:
    cases = [case for case in CASES.values() if case.tested][part::PARTS]
    verdicts = run_cases(cases, tmp_path)
    assert {verdict.case.name: found for verdict in verdicts if (found := complaints(verdict))} == {}
    processes = {verdict.output: verdict.code for verdict in verdicts}
    assert {output: found for output in processes if (found := dirt(output))} == {}
    assert set(processes.values()) <= {0, 1}


def test_each_case_has_its_line() -> None:
    assert {name for name, case in CASES.items() if case.tested} - set(LINES) == set()
