"""More steps take longer, on the simulator and on a real server: the ratio's whole interval is above 1."""

from __future__ import annotations

from pathlib import Path

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.ab import Turn, run_ab
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.real_comfyui.target import Target

# The step counts differ by more than other load on this machine could make up for.
FEW, MANY = 2, 20
SMALL = {
    "CheckpointLoaderSimple.ckpt_name": "tiny_sd15.safetensors",
    "EmptyLatentImage.width": 64,
    "EmptyLatentImage.height": 64,
}


def test_more_steps_take_longer(target: Target, tmp_path: Path) -> None:
    server = ServerAddress.parse(target.url)

    def half(scenario: Scenario, turn: Turn) -> LoadResult:
        return run_load(LoadRun(scenario, (server,), f"contract, {turn.side}", tmp_path, tmp_path, half=turn.half))

    ab = run_ab(
        "txt2img",
        A={"inputs": {"KSampler.steps": FEW}},
        B={"inputs": {"KSampler.steps": MANY}},
        pairs=7,
        title="contract",
        half=half,
        inputs=SMALL,
        max_send_lag="30s",
    )
    assert ab.invalid_because is None
    assert ab.generation_time.ratio.lower > 1, ab.sentence()
    assert ab.node_time["KSampler"].ratio.lower > 1
    assert ab.verdict == "regressed", ab.sentence()
    # The same seeds but different step counts: the images differ.
    assert [pair.identical for pair in ab.pictures] == [False] * 7
