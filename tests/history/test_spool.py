from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.spool import KEPT, Spool, drop_oldest, read_end, read_pictures, read_spool, spool_folder
from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus
from pytest_comfyload.result.output_files import FetchedFile
from tests.result.outcomes import load_of, outcome

_SECONDS = st.floats(0, 1e9)
_MAYBE = st.none() | _SECONDS
_NODES = st.builds(
    NodeInterval,
    node_id=st.text(),
    class_type=st.text(),
    start=_SECONDS,
    end=_SECONDS,
    steps=st.lists(st.tuples(_SECONDS, _SECONDS), max_size=3).map(tuple),
)
_TIMELINES = st.builds(
    Timeline,
    send_lag=_SECONDS,
    sent=_SECONDS,
    accepted=_MAYBE,
    started=_MAYBE,
    ended=_MAYBE,
    delivered=_MAYBE,
    fetched=_MAYBE,
    nodes=st.lists(_NODES, max_size=2).map(tuple),
)
_FILES = st.builds(FetchedFile, size=st.none() | st.integers(0, 2**40), width=st.none() | st.integers(1, 2**20))
OUTCOMES = st.builds(
    Outcome,
    status=st.sampled_from(OutcomeStatus),
    intended=_SECONDS,
    warmup=st.booleans(),
    error=st.none() | st.text(),
    cache_class=st.none() | st.sampled_from(CacheClass),
    timeline=st.none() | _TIMELINES,
    outputs=st.lists(_FILES, max_size=2).map(tuple),
    texts=st.lists(st.text(), max_size=2).map(tuple),
    text=st.none() | st.text(),
    seeds=st.dictionaries(st.text(), st.integers(-(2**63), 2**64 - 1), max_size=2),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return spool_folder(tmp_path)


@given(outcomes=st.lists(OUTCOMES, max_size=4))
def test_what_is_spooled_is_read(outcomes: list[Outcome], tmp_path_factory: pytest.TempPathFactory) -> None:
    with Spool(tmp_path_factory.mktemp("spool"), "run-1", {"title": "ünï\ncode"}) as spool:
        for made in outcomes:
            spool.append(made)
    assert list(read_spool(spool.path)) == outcomes


def test_the_first_line_says_which_run_it_is(folder: Path) -> None:
    with Spool(folder, "run-1", {"title": "test_slo", "seed": 7}) as spool:
        spool.append(outcome())
    first = spool.path.read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(first) == {"run_id": "run-1", "title": "test_slo", "seed": 7}


def test_each_outcome_can_be_read_at_once(folder: Path) -> None:
    with Spool(folder, "run-1", {}) as spool:
        for number in range(3):
            spool.append(dataclasses.replace(outcome(), iteration=number))
            assert [made.iteration for made in read_spool(spool.path)] == list(range(number + 1))


def test_two_runs_do_not_share_a_spool(folder: Path) -> None:
    with Spool(folder, "run-1", {}), pytest.raises(FileExistsError):
        Spool(folder, "run-1", {})


@given(cut=st.integers(1, 400))
def test_a_torn_last_line_is_skipped(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Spool(tmp_path_factory.mktemp("spool"), "run-1", {}) as spool:
        spool.append(outcome(text="kept"))
        whole = spool.path.stat().st_size
        spool.append(outcome(text="torn"))
    lines = spool.path.read_bytes()
    spool.path.write_bytes(lines[: min(len(lines) - 2, whole + cut)])
    assert [made.text for made in read_spool(spool.path)] == ["kept"]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"{}",
        b"null",
        b"\xff\xfe",
        b'"\xff"',
        b'{"prompt_id": "\xff"}',
        b"\0" * 50,
        b"[" * 100_000,
        b'{"status": 7}',
    ],
)
def test_a_line_that_is_rubbish_is_skipped(folder: Path, rubbish: bytes) -> None:
    with Spool(folder, "run-1", {}) as spool:
        spool.append(outcome(text="before"))
    with spool.path.open("ab") as file:
        file.write(rubbish + b"\n")
        file.write(spool.path.read_bytes().splitlines()[1].replace(b"before", b"after") + b"\n")
    assert [made.text for made in read_spool(spool.path)] == ["before", "after"]


@given(content=st.binary(max_size=200))
def test_no_bytes_whatever_raise(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("spool") / "a.jsonl"
    path.write_bytes(content)
    assert list(read_spool(path)) == []


def test_git_does_not_see_the_folder(tmp_path: Path) -> None:
    folder = spool_folder(tmp_path)
    assert folder == tmp_path / ".comfyload" / "spool"
    ignore = tmp_path / ".comfyload" / ".gitignore"
    assert ignore.read_text(encoding="utf-8") == "*\n"
    ignore.write_text("mine", encoding="utf-8")
    spool_folder(tmp_path)
    assert ignore.read_text(encoding="utf-8") == "mine"


def test_the_oldest_spools_are_dropped(folder: Path) -> None:
    (folder / "note.txt").touch()
    for age in range(KEPT + 5):
        path = folder / f"run-{age:02d}.jsonl"
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    drop_oldest(folder)
    assert sorted(path.name for path in folder.glob("*.jsonl")) == [f"run-{age:02d}.jsonl" for age in range(KEPT)]
    assert (folder / "note.txt").exists()


def test_a_run_that_ended_says_what_it_came_to(folder: Path) -> None:
    alone, crowded = outcome(prompt_id="a"), outcome(1.0, prompt_id="b")
    load = load_of(alone, dataclasses.replace(crowded, contended=True), subject={"KSampler.steps": 20})
    with Spool(folder, "run-1", {}) as spool:
        spool.append(alone)
        spool.append(crowded)
        assert read_end(spool.path) is None
        spool.end(load)
    assert list(read_spool(spool.path)) == [alone, crowded]
    ended = read_end(spool.path)
    assert ended is not None
    assert (ended.facts, ended.outcomes) == (load.facts, load.outcomes)


def test_pictures_are_in_the_last_line(folder: Path) -> None:
    shown = KeptPicture("a", "typical", "image/webp", bytes(range(256)), 256, 128)
    load = load_of(outcome())
    with Spool(folder, "run-1", {}) as spool:
        assert read_pictures(spool.path) == ()
        spool.append(load.outcomes[0])
        assert read_pictures(spool.path) == ()
        spool.end(load, (shown,))
    assert read_pictures(spool.path) == (shown,)
    assert read_end(spool.path) is not None
    assert shown.data_url.startswith("data:image/webp;base64,AAECAw")


def test_what_is_secret_is_not_spooled(folder: Path) -> None:
    with Spool(folder, "run-1", {}) as spool:
        spool.append(outcome(inputs={"Api.api_key": "hunter2", "Api.seed": 3}))
    assert b"hunter2" not in spool.path.read_bytes()
    assert [dict(made.inputs) for made in read_spool(spool.path)] == [{"Api.api_key": "…", "Api.seed": 3}]


KILLED = """
import os, sys
from pathlib import Path
from pytest_comfyload.history.spool import Spool
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus

spool = Spool(Path(sys.argv[1]), "killed", {})
for number in range(3):
    spool.append(Outcome("p", "http://gpu1", "c", 0, number, "w", OutcomeStatus.SUCCESS, 0.0))
os._exit(9)
"""


def test_what_a_killed_writer_had_written_stays(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], timeout=60)
    assert done.returncode == 9
    assert [made.iteration for made in read_spool(folder / "killed.jsonl")] == [0, 1, 2]
