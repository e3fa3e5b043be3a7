"""A server in each of its cache modes: what is measured does not depend on how much it caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch import ComfyInstall, ComfyProcess
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass
from pytest_comfyload.run.ab import Turn, run_ab
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.conftest import CHECKPOINT, TIME_SCALE
from tests.contract.loads import SMALL, run
from tests.real_comfyui import build
from tests.real_comfyui.target import Target

# For each mode, the flags of the real server and the simulator's name for it. The first two keep the results of all
# prompts of all runs, as newer versions do on a machine with a lot of memory.
MODES = {
    "lru": (("--cache-lru", "200"), "lru=200"),
    "ram": (None, "ram"),  # 0.3.75 does not have this cache
    "none": (("--cache-none",), "none"),
    "classic": ((), "classic"),
}
KEEPING = ("lru", "ram")
SERVERS = [
    *(("simulator", mode) for mode in MODES),
    *(pytest.param(("real", mode), marks=pytest.mark.real) for mode, (flags, _) in MODES.items() if flags is not None),
]
# The step counts differ by more than other load on this machine could make up for.
FEW, MANY = 2, 16


@pytest.fixture(scope="module", params=SERVERS, ids=lambda param: "-".join(param))
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    name, mode = request.param
    return name, mode


@pytest.fixture(scope="module")
def mode(kind: tuple[str, str]) -> str:
    return kind[1]


@pytest.fixture(scope="module")
def server(
    kind: tuple[str, str], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    name, mode = kind
    flags, simulated = MODES[mode]
    if name == "simulator":
        with SimulatorProcess(time_scale=TIME_SCALE, cache=simulated) as simulator:
            yield Target(name, simulator.url, CHECKPOINT)
        return
    installed: ComfyInstall = request.getfixturevalue("real_comfyui_install")
    install = dataclasses.replace(installed, args=(*installed.args, *(flags or ())))
    folder = tmp_path_factory.mktemp(mode)
    base = build.new_base_directory(folder / "base", build.models(install.python))
    with ComfyProcess(install, base, log=folder / "comfyui.log") as process:
        yield Target(name, process.url, CHECKPOINT)


def txt2img(server: Target, folder: Path, repetition: str = "", **more: object) -> LoadResult:
    scenario = Scenario.build("txt2img", iterations=3, max_send_lag="30s", inputs=SMALL, **more)
    address = ServerAddress.parse(server.url)
    return run_load(LoadRun(scenario, (address,), "modes", folder, folder, repetition=repetition))


def test_every_prompt_has_its_text_encoded(server: Target, mode: str, tmp_path: Path) -> None:
    for _ in range(2):
        load = txt2img(server, tmp_path, prompts=["the same"])
        assert load.state == "valid", load.invalid_because
        ran = load.executions["txt2img"]
        assert ran["KSampler"] == [0, 3]
        # Without a cache, the negative prompt, which never changes, is encoded as well.
        assert ran["CLIPTextEncode"] == ([0, 0, 3] if mode == "none" else [0, 3, 0])


def test_a_fixed_seed_runs_anew_or_not_at_all(server: Target, mode: str, tmp_path: Path) -> None:
    first, second = (txt2img(server, tmp_path, seed=7) for _ in range(2))
    assert first.state == "valid", first.invalid_because
    if mode in KEEPING:
        assert {outcome.cache_class for outcome in second.outcomes} == {CacheClass.PARTLY}
        assert str(second.invalid_because).startswith(
            "KSampler, CLIPTextEncode, VAEDecode had new input and came from the server's cache in all 3 successful "
            "prompts: an earlier run sent the same; leave out seed="
        )
        assert (second.cached, second.generation_time.n) == (3, 0)
    else:
        assert second.state == "valid", second.invalid_because
    rerun = txt2img(server, tmp_path, seed=7, repetition="rerun 1")
    assert rerun.state == "valid", rerun.invalid_because
    assert rerun.seed != first.seed == second.seed == 7


# The default mode is tested in tests/contract/test_ab.py.
@pytest.mark.parametrize(
    "kind",
    [("simulator", "ram"), pytest.param(("real", "lru"), marks=[pytest.mark.real, pytest.mark.long])],
    indirect=True,
)
def test_halves_do_the_same_work(server: Target, tmp_path: Path) -> None:
    def half(scenario: Scenario, turn: Turn) -> LoadResult:
        address = ServerAddress.parse(server.url)
        return run_load(LoadRun(scenario, (address,), f"modes, {turn.side}", tmp_path, tmp_path, half=turn.half))

    # The first pass is the same in A and B: whichever runs second would find it in the cache.
    ab = run_ab(
        "upscale",
        A={"inputs": {"Second Pass.steps": FEW}},
        B={"inputs": {"Second Pass.steps": MANY}},
        pairs=7,
        title="modes",
        half=half,
        seed=7,
        max_send_lag="30s",
        inputs={address: value for address, value in SMALL.items() if not address.endswith("steps")}
        | {"First Pass.steps": 4},
    )
    assert ab.invalid_because is None
    assert ab.other_work == ()
    assert ab.verdict == "regressed", ab.sentence()
    for load in (*ab.A, *ab.B):
        assert load.executions["upscale"]["KSampler"] == [0, 0, 1]
        # The cache contains nothing from the previous run.
        assert load.all_outcomes[0].cache_class is CacheClass.COLD


def test_what_is_saved_once_more_is_no_measurement(server: Target, mode: str, tmp_path: Path) -> None:
    pinned = {"KSampler.seed": 7, "Positive Prompt.text": "a cat", "SaveImage.filename_prefix": "again_{index}"}
    load = run(server, tmp_path, "txt2img", iterations=3, inputs=pinned, overrides=SMALL, max_send_lag="30s")
    if mode == "none":
        assert load.state == "valid", load.invalid_because
    else:
        assert "all 3 successful prompts came entirely from the server's cache" in str(load.invalid_because)
