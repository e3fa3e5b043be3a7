"""Two real ComfyUI servers of one installation: one is killed in a run and restarted; no prompt goes missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_comfyload.launch import ComfyInstall
from tests.launch.test_installation import checksum
from tests.plugin.suite import ALONE

PROBES = Path(__file__).parents[1] / "real_comfyui" / "probe_nodes"
SUITE = """
import json, threading, time, urllib.request

def kill_in_mid_run(server):
    while len(json.load(urllib.request.urlopen(f"{server.url}/history"))) < 6:
        time.sleep(0.05)
    server.kill()

def work(seconds):
    size = {"width": 64, "height": 64, "batch_size": 1, "color": 0}
    return {
        "1": {"class_type": "ProbeSleep", "inputs": {"seconds": seconds, "seed": 0, "width": 64}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }

def test_it(run_load, comfyui_process):
    first, other = comfyui_process.servers
    killer = threading.Thread(target=kill_in_mid_run, args=(first,))
    killer.start()
    load = run_load(work(0.5), users=4, duration="24s", max_send_lag="5s", id="launched")
    killer.join()
    accounts = load.accounting
    print("ENDED", dict(accounts.by_status), load.facts.notes, load.facts.cold_starts)
    assert accounts.submitted == sum(accounts.by_status.values()) == accounts.intended > 30
    assert accounts.by_status["success"] > 20
    assert first.state.deaths == ("was killed by signal 9",)
    assert other.state.deaths == ()
    assert load.cold_start.n == 3
    assert any("was killed by signal 9 during the run and was restarted" in n for n in load.facts.notes)
    last = max(load.by("server")[first.url].outcomes, key=lambda outcome: outcome.intended)
    assert last.succeeded
"""


@pytest.mark.long
def test_two_servers_of_which_one_is_killed(
    real_comfyui_install: ComfyInstall, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = real_comfyui_install
    for name, value in {**install.env, "TMPDIR": str(pytester.path)}.items():
        monkeypatch.setenv(name, value)
    pytester.makepyfile(SUITE)
    before = checksum(install.main.parent)
    result = pytester.runpytest_subprocess(
        *ALONE, "-rP", f"--comfyui-launch={install.main.parent}", f"--comfyui-python={install.python}",
        "--comfyui-count=2", f"--comfyui-args={' '.join(install.args)}", f"--comfyui-node={PROBES}", timeout=180,
    )  # fmt: skip
    result.assert_outcomes(passed=1)
    assert checksum(install.main.parent) == before
    assert list(pytester.path.glob("comfyload-*-launched/*")) == []
