"""Situations that the old rule got wrong, judged by the real comparison code over a real store."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.compare.acceptance import Acceptance
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.comparison import RunComparer, SeriesComparison
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.history.store import Store
from pytest_comfyload.metrics.regression import RegressionVerdict
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.run_facts import GpuFacts, ServerFacts
from tests.history.records import SERVER
from tests.history.repository import Repository
from tests.result.outcomes import load_of, outcome

DAY = 86400.0
SUBJECT = {"CheckpointLoaderSimple.ckpt_name": "sd15.safetensors", "KSampler.steps": 20}


class History:
    """A repository with a store, to which sessions are added day by day, with 2 % of noise."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository.begin(folder)
        self.store = Store.open(folder / ".comfyload")
        self._rng = random.Random(7)
        self._day = 0

    def session(
        self, factor: float = 1.0, *, commit: str | None = None, runs: int = 1, title: str = "test_slo.py::test_it",
        subject: dict[str, Any] = SUBJECT, server: ServerFacts = SERVER, **facts: Any,
    ) -> None:  # fmt: skip
        """Add the session of the next day, of a new commit unless one is given."""
        self._day += 1
        commit = commit or self.repository.commit(f"commit {self._day}")
        for number in range(runs):
            time = 2.0 * factor * math.exp(self._rng.gauss(0, 0.02))
            come = Provenance(commit=commit, branch="main", session=f"session {self._day}")
            begun = {
                "epoch": 1.7e9 + DAY * self._day + 60 * number,
                "run_id": f"{self._day:03d}-{number}",
                "title": title,
            }
            self.store.add(record_of(_load(time, **begun, subject=subject, server_facts=(server,), **facts), come))

    def judge(self, *acceptances: Acceptance, run: int = -1) -> SeriesComparison:
        """Judge the newest run, or another one by its index in order of time."""
        rows = sorted(self.store.runs(), key=lambda row: row.time)
        return RunComparer(rows, self.store.load, CommitGraph(Git(self.repository.path)), acceptances).judge(rows[run])


def _load(time: float, **facts: Any) -> LoadResult:
    """Return ten prompts with slightly different times, nine tenths of which are sampling."""
    times = [time * (1 + 0.01 * (number - 4.5) / 4.5) for number in range(10)]
    prompts = [
        outcome(20.0 * at, generation=each, nodes=(
            NodeInterval("3", "KSampler", 20.0 * at, 20.0 * at + 0.9 * each),
            NodeInterval("8", "VAEDecode", 20.0 * at + 0.9 * each, 20.0 * at + each),
        ))
        for at, each in enumerate(times)
    ]  # fmt: skip
    return load_of(*prompts, window=(0.0, 200.0), **facts)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "repository")


def _sessions(history: History, factors: Sequence[float], **different: Any) -> None:
    for factor in factors:
        history.session(factor, **different)


def test_an_outlier_run_is_not_the_noise(history: History) -> None:
    """One run of 20 took 3.25 times as long: under the old rule the limit was 116 %, and +73 % inconclusive."""
    _sessions(history, [1.0] * 12 + [3.25] + [1.0] * 7)
    history.session(1.73, runs=3)
    found = history.judge()
    assert found.fails
    assert found.gate.comparison.limit < 9
    assert found.nodes[0].startswith("KSampler ")


@pytest.mark.parametrize("ago", [1, 2, 3, 5, 22])
def test_a_merged_step_is_told_and_does_not_fail_the_next_commit(history: History, ago: int) -> None:
    """Under the old rule, a step merged one or two sessions ago failed every clean commit."""
    _sessions(history, [1.0] * 12 + [1.43] * ago)
    history.session(1.43, runs=3)
    found = history.judge()
    assert (found.verdict, found.fails) == (RegressionVerdict.UNCHANGED, False)
    culprit = history.repository.git("rev-parse", f"HEAD~{ago}")
    told = f"main became ([34].*) % slower at {culprit[:10]}, {ago} session{'s' * (ago > 1)} ago, not accepted."
    told_change = re.search(told, found.sentence())
    assert told_change is not None
    assert float(told_change[1]) == pytest.approx(43, abs=7)


@pytest.mark.parametrize("ago", [1, 2, 3, 5])
def test_a_merged_step_does_not_hide_the_next_one(history: History, ago: int) -> None:
    """Under the old rule, a step merged five sessions ago raised the limit to 58 %."""
    _sessions(history, [1.0] * 12 + [1.43] * ago)
    history.session(1.43 * 1.3, runs=3)
    found = history.judge()
    assert found.fails
    assert found.gate.comparison.change == pytest.approx(30, abs=6)


def test_a_step_fails_when_it_comes_and_not_after_it_is_accepted(history: History) -> None:
    _sessions(history, [1.0] * 10)
    history.session(1.43, runs=3)
    commit = history.repository.git("rev-parse", "HEAD")
    assert history.judge().fails
    accepted = Acceptance(commit[:12], "better pictures")
    assert not history.judge(accepted).fails
    _sessions(history, [1.43, 1.43])
    later = history.judge(accepted)
    assert (later.verdict, later.step, len(later.level)) == (RegressionVerdict.UNCHANGED, None, 2)


def test_what_was_accepted_is_noise_in_no_test(history: History) -> None:
    """There are few sessions, and the step is in this test as well as in the one whose noise it borrows."""
    for factor in (1.0, 1.0, 1.0, 1.0, 1.43, 1.43):
        for title in ("test_it", "test_other"):
            history.session(factor, title=title)
    first = Acceptance("", "better pictures", since="2023-11-23T00:00:00Z")  # the ninth session
    history.session(1.43, title="test_it")
    found = history.judge(first)
    assert found.gate.comparison.borrowed == 1
    assert found.gate.comparison.limit < 15 < history.judge().gate.comparison.limit


@pytest.mark.parametrize("nights", [1, 2, 10])
def test_a_nightly_series_sees_tonight(history: History, nights: int) -> None:
    """The old rule pooled ten nights of one commit with tonight: +43 % was unchanged."""
    _sessions(history, [1.0] * 8)
    commit = history.repository.commit("the last")
    _sessions(history, [1.0] * nights, commit=commit)
    newer = _server(comfyui="0.3.76")
    history.session(1.43, commit=commit, runs=3, server=newer)
    found = history.judge()
    assert found.fails
    assert "Same commit as in the session of " in found.sentence()
    assert found.sentence().endswith("changed: ComfyUI 0.3.75 → 0.3.76.")
    history.session(1.43, commit=commit, server=newer)
    assert "It became 4" in history.judge().sentence()
    assert "Changed then: ComfyUI 0.3.75 → 0.3.76." in history.judge().sentence()
    assert not history.judge().fails


def test_a_nightly_step_is_accepted_by_its_time(history: History) -> None:
    commit = history.repository.commit("the only one")
    _sessions(history, [1.0] * 8 + [1.43] * 3, commit=commit)
    accepted = Acceptance("", "a new driver", since="2023-11-23T22:00:00Z")
    assert accepted.begins == pytest.approx(1.7e9 + DAY * 9, abs=DAY)
    found = history.judge(accepted)
    assert (found.verdict, len(found.level), found.step) == (RegressionVerdict.UNCHANGED, 2, None)
    first = history.judge(accepted, run=8)
    assert first.accepted is accepted
    assert not first.fails


def test_on_day_one_two_sessions_are_enough(history: History) -> None:
    """The old rule needed five sessions for a verdict, and ten for one that fails."""
    for _ in range(2):
        for title in ("test_it", "test_other"):
            history.session(title=title)
    history.session(1.5, title="test_it", runs=3)
    found = history.judge()
    assert found.fails
    assert "wide, with 2 baseline sessions" in found.sentence()
    assert found.gate.comparison.borrowed == 1


def test_creep_is_seen(history: History) -> None:
    """The level rises by half a percent per commit over 40 commits; under the old rule, none of them failed."""
    _sessions(history, [1.0] * 20 + [1.005**number for number in range(1, 41)])
    found = [history.judge(run=number) for number in range(30, 60, 4)]
    told = [each for each in found if each.creep is not None]
    assert told[0].creep is not None
    assert told[0].creep.change < 12
    assert any(each.fails for each in told)
    assert "since the first 10 sessions over " in told[-1].sentence()


@pytest.mark.parametrize("others", [1, 3, 5])
def test_mixed_subjects_are_not_noise(history: History, others: int) -> None:
    """Under the old rule, runs with another checkpoint raised the limit to 275 %."""
    xl = SUBJECT | {"CheckpointLoaderSimple.ckpt_name": "sdxl.safetensors"}
    for number in range(20):
        odd = number % 4 == 1 and number < 4 * others
        history.session(3.25 if odd else 1.0, subject=xl if odd else SUBJECT)
    history.session(1.73, runs=3)
    found = history.judge()
    assert found.fails
    assert found.gate.comparison.limit < 9
    left_out = f"level from {20 - others} of 20 sessions; {others} with other inputs left out: "
    assert found.baseline.notes[0].startswith(left_out)
    assert "sdxl.safetensors → sd15.safetensors" in found.baseline.notes[0]


def test_a_new_driver_is_compared_and_named(history: History) -> None:
    _sessions(history, [1.0] * 6, gpu_facts=(_gpu("550.54"),))
    history.session(1.3, runs=3, gpu_facts=(_gpu("570.10"),))
    found = history.judge()
    assert found.fails
    assert found.subject == ("driver 550.54 → 570.10",)


def test_a_refused_run_explains_nothing(history: History) -> None:
    _sessions(history, [1.0] * 6)
    history.session(2.0, invalid="the generator was late", runs=3)
    found = history.judge()
    assert found.sentence() == "Not compared: the run is invalid."
    assert (found.nodes, found.explained, found.subject, found.fails) == ((), (), (), False)


def _server(**different: Any) -> ServerFacts:
    return dataclasses.replace(SERVER, **different)


def _gpu(driver: str) -> GpuFacts:
    return GpuFacts(SERVER.url, "GPU-1", driver=driver)
