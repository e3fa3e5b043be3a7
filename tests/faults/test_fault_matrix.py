"""Whatever fault a server has during a run, every prompt has one outcome of the right kind, and the run finishes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.contract.loads import probe

USERS, ITERATIONS = 3, 4
INTENDED = USERS * ITERATIONS


@dataclass(frozen=True)
class Row:
    """A fault, the outcomes its prompts may have, of which `some` must occur, and a `note` required in the run."""

    faults: Mapping[str, object]
    kinds: frozenset[str]
    some: str
    note: str = ""
    state: str = "valid"
    workflow: str = ""


def row(fault: str, value: object = True, *, kinds: str, some: str = "", **more: str) -> object:
    allowed = frozenset(kinds.split())
    return pytest.param(Row({fault: value}, allowed, some or kinds.split()[0], **more), id=fault)


MATRIX = [
    row("oom", 0.4, kinds="oom success", workflow="txt2img"),
    row("node-error", 0.4, kinds="execution_error success"),
    row("interrupt", 0.4, kinds="interrupted success"),
    row("http-500", 0.4, kinds="http_error success"),
    row("http-503-burst", 20.0, kinds="http_error success"),
    row("missing-output", 0.4, kinds="http_error success"),
    row("blank-picture", 0.4, kinds="success", note="delivered blank pictures"),
    row("truncated-picture", 0.4, kinds="bad_output success"),
    row("drop-socket", 15, kinds="success"),
    row("deaf-socket", 12, kinds="success"),
    row("lost-event", 0.5, kinds="success"),
    row("duplicate-event", 0.5, kinds="success"),
    row("early-event", kinds="success"),
    row("slow-post", 2.0, kinds="success"),
    row("slow-history", 2.0, kinds="success"),
    row("history-race", 1.0, kinds="success"),
    row("evicted-history", kinds="success"),
    row("slow-view", 2.0, kinds="success"),
    row("stalled-socket", 2.0, kinds="success"),
    row("cached-empty-outputs", kinds="success"),
    row("clear-queue", 4, kinds="lost success"),
    row("restart", 4, kinds="lost success connection http_error"),
    row("dead-worker", 4, kinds="lost censored success", some="success", note="the worker is dead", state="invalid"),
    row("overheat", kinds="success", workflow="txt2img"),
    row("foreign", 1, kinds="success", note="foreign prompt", state="contaminated"),
    row("clock-step", 5.0, kinds="success", note="its clock was set forward", state="invalid"),
]


def run(row: Row, store: Path) -> LoadResult:
    with SimulatorProcess(time_scale=20, probe_nodes=True, seed=3, faults=row.faults) as server:
        scenario = Scenario.build(
            row.workflow or probe(1.0),
            users=USERS,
            iterations=ITERATIONS,
            warmup=0,
            timeout="400s",
            seed=5,
            max_send_lag="30s",
        )
        return run_load(LoadRun(scenario, (ServerAddress.parse(server.url),), "fault", store, store))


@pytest.mark.parametrize("row", MATRIX)
def test_fault(row: Row, tmp_path: Path) -> None:
    begin = time.monotonic()
    load = run(row, tmp_path)
    ended = {str(status) for status in load.accounting.by_status}
    # The first identity is true of any run that returns a result; here, in addition, nothing was dropped or forgotten.
    assert load.accounting.intended == load.accounting.submitted + int(load.dropped)
    assert sum(load.accounting.by_status.values()) == load.accounting.submitted
    assert load.accounting.submitted == INTENDED or load.state == "invalid"
    assert ended <= row.kinds, [outcome.error for outcome in load.outcomes if str(outcome.status) not in row.kinds]
    assert row.some in ended
    assert all(outcome.error for outcome in load.outcomes if not outcome.succeeded)
    said = " ".join((*load.facts.notes, str(load.invalid_because)))
    assert row.note in said
    assert load.state == row.state
    # The timeout of 400 virtual seconds is 20 real ones; a fault may cost a few of them, and never more.
    assert time.monotonic() - begin < 60


def test_a_login_in_front_is_said_before_the_load(tmp_path: Path) -> None:
    from pytest_comfyload.errors import LoginRequired

    with pytest.raises(LoginRequired, match="requires a login"):
        run(Row({"login": True}, frozenset(), ""), tmp_path)


def test_silent_retries_are_told_by_the_log(tmp_path: Path) -> None:
    scenario = Scenario.build("txt2img", users=2, iterations=3, inputs={"KSampler.steps": 4}, seed=2)
    with SimulatorProcess(time_scale=50, faults={"silent-oom": 1.0}) as server:
        load = run_load(LoadRun(scenario, (ServerAddress.parse(server.url),), "silent", tmp_path, tmp_path))
    assert load.success_rate == 100
    assert load.silent_ooms >= 1
