"""One load from several generators: the same prompts and times as from one; a lost generator is reported."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.plan import Share
from pytest_comfyload.errors import GeneratorError, LoadStopped, UsageError
from pytest_comfyload.history.spool import read_end, spool_folder
from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.run import distributed, generator_channel
from pytest_comfyload.run.distributed import generator_specs
from pytest_comfyload.run.generator_channel import GeneratorChannel
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.run.observer import RunObserver
from pytest_comfyload.scenario.scenario import Scenario
from tests.run.fast_server import GRAPH, fast_server
from tests.sshd import new_ssh_server

pytest.importorskip("execnet")

OPEN = {"rate": "30/s", "arrival": "poisson", "duration": "2s"}


@pytest.fixture(scope="module")
def farm() -> Iterator[ServerAddress]:
    """A server that runs any number of prompts at once, in 0.2 s each."""
    with fast_server(0.2) as url:
        yield ServerAddress(url)


def _run(
    farm: ServerAddress, folder: Path, *tx: str, load: Mapping[str, object], observer: RunObserver | None = None
) -> LoadResult:
    scenario = Scenario.build(
        GRAPH, **{"seed": 7, "inputs": {"EmptyImage.color": [*range(50)]}, "allow_cached": True, "drain": "10s",
        "max_send_lag": "30s", **load}
    )  # fmt: skip
    observer = observer or RunObserver()
    return run_load(
        LoadRun(scenario, (farm,), "a title", folder, folder, observer=observer, generators=generator_specs(tx))
    )


def _sent(load: LoadResult) -> list[tuple[float, object]]:
    """Return what was sent and when, in seconds since the start of the window."""
    begin = load.facts.window[0]
    return sorted((round(each.intended - begin, 6), str(each.inputs)) for each in load.outcomes)


# --- the same load ---


def test_an_open_load_of_three_generators_is_that_of_one(farm: ServerAddress, tmp_path: Path) -> None:
    one, three = _run(farm, tmp_path, load=OPEN), _run(farm, tmp_path, "3*popen", load=OPEN)
    assert _sent(three) == _sent(one)
    assert three.state == "valid"
    assert three.success_rate == 100
    assert three.facts.intended == three.facts.submitted == len(three.outcomes) == sum(_done(three))
    assert max(_done(three)) - min(_done(three)) <= 1
    assert [each.lost for each in three.facts.generators] == [None] * 3
    # The controller itself runs a single warm-up and keeps a single run.
    assert sum(each.warmup for each in three.all_outcomes) == 1
    assert len({each.prompt_id for each in three.all_outcomes}) == len(three.all_outcomes)
    kept = read_end(spool_folder(tmp_path) / f"{three.facts.run_id}.jsonl")
    assert kept is not None
    assert kept.to_dict() == three.to_dict()


def _done(load: LoadResult) -> list[int]:
    return [each.done for each in load.facts.generators]


def test_users_are_dealt_out(farm: ServerAddress, tmp_path: Path) -> None:
    load = {"users": 5, "iterations": 2}
    one, two = _run(farm, tmp_path, load=load), _run(farm, tmp_path, "2*popen", load=load)
    prompts = [{(each.user, each.iteration, str(each.inputs)) for each in run.outcomes} for run in (one, two)]
    assert prompts[0] == prompts[1]
    assert _done(two) == [6, 4]


@given(st.integers(1, 9), st.integers(0, 40))
def test_shares_are_a_partition(count: int, places: int) -> None:
    shares = [Share(number, count) for number in range(count)]
    assert all(sum(share.has(place) for share in shares) == 1 for place in range(places))


# --- a generator is lost ---


class _Strike(RunObserver):
    """Sends a signal to the second generator in the middle of the load."""

    def __init__(self, pids: list[int], number: int) -> None:
        self._pids = pids
        self._number = number
        self._ended = 0

    def on_outcome(self, outcome: Outcome) -> None:
        self._ended += 1
        if self._ended == 20:
            os.kill(self._pids[1], self._number)


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process ids of the generators."""
    found: list[int] = []
    start = distributed._channel

    def remembered(*arguments: Any) -> Any:
        channel = start(*arguments)
        found.append(channel.gateway._io.popen.pid)
        return channel

    monkeypatch.setattr(distributed, "_channel", remembered)
    return found


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, "its process has ended"), (signal.SIGSTOP, "it sent nothing for 2.5 s")],
)
def test_a_lost_generator_makes_the_run_incomplete_and_the_others_go_on(
    farm: ServerAddress,
    tmp_path: Path,
    pids: list[int],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    reason: str,
) -> None:
    monkeypatch.setattr(generator_channel, "PERIOD", 0.5)
    load = _run(farm, tmp_path, "3*popen", observer=_Strike(pids, number), load={**OPEN, "duration": "4s"})
    assert load.state == "incomplete"
    assert load.invalid_because is not None
    assert f"generator 2 of 3 (popen) was lost: {reason}" in load.invalid_because
    lost = load.facts.generators[1]
    assert 0 < lost.done <= lost.submitted
    assert sum(_done(load)) == len(load.outcomes) == load.facts.submitted
    # The other generators sent all their prompts, and no process of the lost one is left on this machine.
    assert all(_done(load)[place] > lost.done for place in (0, 2))
    _await_the_end_of(pids)


def _await_the_end_of(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + 20
    while any(_lives(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_lives(pid) for pid in pids)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_that_is_stopped_ends_its_generators(farm: ServerAddress, tmp_path: Path, pids: list[int]) -> None:
    class Stop(RunObserver):
        ended = 0

        def on_outcome(self, outcome: Outcome) -> None:
            self.ended += 1

        def stopped(self) -> bool:
            return self.ended > 5

    begin = time.monotonic()
    with pytest.raises(LoadStopped, match="the load was stopped"):
        _run(farm, tmp_path, "2*popen", observer=Stop(), load={**OPEN, "duration": "10m"})
    assert time.monotonic() - begin < 60
    _await_the_end_of(pids)


def test_the_clock_of_a_generator_is_followed_as_it_drifts() -> None:
    """The clock drifts by 50 ppm, which is 0.18 s after an hour."""
    generator = object.__new__(GeneratorChannel)
    generator.offsets = [(1000.0, 3.0), (1060.0, 3.003)]
    clock = Clock(20.0, origin=990.0)
    timeline = Timeline(
        0.0, 72400.0, accepted=72400.5, nodes=(NodeInterval("1", "A", 72401.0, 72402.0, ((72401.5, 1.0),)),)
    )
    outcome = Outcome("p", "http://a:1", "c", 0, 0, "w", OutcomeStatus.SUCCESS, 72400.0, timeline=timeline)
    # 3610 s after its clock was set, 3600 s after the first offset: 0.181 s late, times 20 in scaled time.
    shifted = generator.shift(outcome, clock)
    assert shifted.intended == pytest.approx(72400.0 - 20 * 0.1805, abs=1e-6)
    assert shifted.timeline is not None
    moved = shifted.timeline.shifted(outcome.intended - shifted.intended)
    assert moved.accepted == pytest.approx(timeline.accepted)
    assert moved.nodes[0].steps[0][0] == pytest.approx(72401.5)
    generator.offsets = generator.offsets[:1]
    assert generator.shift(outcome, clock) is outcome


# --- loads that cannot start ---


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ({"users": 2, "shared_iterations": 4}, "shared_iterations= cannot be shared"),
        ({**OPEN, "max_in_flight": 4}, "max_in_flight= is a limit of one generator"),
    ],
)
def test_loads_that_cannot_be_dealt_out(
    farm: ServerAddress, tmp_path: Path, load: Mapping[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        _run(farm, tmp_path, "2*popen", load=load)


def test_another_version_there(farm: ServerAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_channel, "installed", lambda: "9.9")
    with pytest.raises(GeneratorError, match=r"generator 1 of 1 \(popen\) has .* and this process 9.9"):
        _run(farm, tmp_path, "popen", load=OPEN)


def test_no_package_there_and_no_python(farm: ServerAddress, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    with pytest.raises(GeneratorError, match="has no pytest-comfyload; install"):
        _run(farm, tmp_path, f"popen//python={tmp_path / 'bare' / 'bin' / 'python'}", load=OPEN)
    with pytest.raises(
        GeneratorError, match=r"cannot be started: its Python did not start .*; name one with //python="
    ):
        _run(farm, tmp_path, "popen//python=/nowhere/python", load=OPEN)


def test_specs() -> None:
    ssh = "ssh=-p 8670 user@gen1//python=python3"
    assert generator_specs(["2*popen", ssh]) == ("popen", "popen", ssh)
    for wrong in ("0*popen", "65*popen", "x*popen", "", "socket", "ssh=", "4*"):
        with pytest.raises(UsageError, match="--comfyload-tx"):
            generator_specs([wrong])


# --- over ssh ---


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The options and the host for ssh to log in to this machine."""
    server = new_ssh_server(tmp_path_factory.mktemp("ssh"))
    known = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={server.folder / 'known'} -o LogLevel=ERROR"
    with server.running():
        yield f"-p {server.port} -i {server.key} {known} {server.user}@127.0.0.1"


def test_a_generator_over_ssh_and_one_here(farm: ServerAddress, tmp_path: Path, ssh: str) -> None:
    one = _run(farm, tmp_path, load=OPEN)
    two = _run(farm, tmp_path, "popen", f"ssh={ssh}//python={sys.executable}", load=OPEN)
    assert _sent(two) == _sent(one)
    assert two.state == "valid"
    assert two.success_rate == 100
    assert max(_done(two)) - min(_done(two)) <= 1


# After a failed ssh, execnet leaves the pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("host", "python", "said"),
    [
        ("-p 1 nobody@127.0.0.1", sys.executable, "ssh cannot log in there"),
        (None, "/nowhere/python", "its Python did not start"),
    ],
)
def test_what_ssh_says_of_a_host_is_translated(
    farm: ServerAddress, tmp_path: Path, ssh: str, host: str | None, python: str, said: str
) -> None:
    with pytest.raises(GeneratorError, match=rf"generator 1 of 1 \(ssh=.*\) cannot be started: {said}"):
        _run(farm, tmp_path, f"ssh={host or ssh}//python={python}", load=OPEN)
    gc.collect()
