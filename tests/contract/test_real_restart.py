"""A real server that is killed in the middle of a run and restarted: every prompt is accounted for."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch import ComfyInstall, ComfyProcess
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.contract.loads import fetched, probe
from tests.real_comfyui import build


def test_kill_and_restart_in_mid_run(real_comfyui_install: ComfyInstall, tmp_path: Path) -> None:
    base = build.new_base_directory(tmp_path / "base", build.models(real_comfyui_install.python))
    scenario = Scenario.build(probe(1.0), users=3, iterations=6, warmup=0, timeout="60s")
    with ComfyProcess(real_comfyui_install, base, log=tmp_path / "comfyui.log") as server:

        def kill_and_restart() -> None:
            # One of them is the readiness prompt.
            while len(fetched(f"{server.url}/history")) < 5:
                time.sleep(0.05)
            server.kill()
            server.start()

        thread = threading.Thread(target=kill_and_restart)
        thread.start()
        load = run_load(LoadRun(scenario, (ServerAddress.parse(server.url),), "restart", tmp_path, tmp_path))
        thread.join()
    by_status = load.accounting.by_status
    assert load.accounting.intended == load.accounting.submitted == sum(by_status.values()) == 18
    # What was in the killed server's queue is lost with it; everything before and after succeeded.
    assert set(by_status) <= {OutcomeStatus.SUCCESS, OutcomeStatus.LOST, OutcomeStatus.CONNECTION}
    assert by_status[OutcomeStatus.SUCCESS] >= 9
    assert 1 <= by_status[OutcomeStatus.LOST] + by_status[OutcomeStatus.CONNECTION] <= 9
    last = max(load.outcomes, key=lambda outcome: outcome.intended)
    assert last.status is OutcomeStatus.SUCCESS
