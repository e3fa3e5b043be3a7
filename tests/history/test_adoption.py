"""Spools become records, of finished runs and of interrupted ones, of this session and of dead ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.errors import BadFile, StoreError
from pytest_comfyload.history.adoption import SessionLock, adopt, adoptable, header_of
from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import TestChecks
from pytest_comfyload.history.spool import Spool, spool_folder
from pytest_comfyload.history.store import Store
from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import OutcomeStatus
from tests.result.outcomes import failure, load_of, outcome

COME = Provenance(commit="c" * 40, label="mine")
CHECK = TestChecks("test_it", (Check("throughput", 5.0, "images/min", 1, ">", 4.0, True),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return spool_folder(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / ".comfyload")


def _spool(
    folder: Path,
    load: LoadResult,
    session: str = "mine",
    *,
    ended: bool = True,
    pictures: tuple[KeptPicture, ...] = (),
    **header: Any,
) -> Path:
    told = {**header_of(session, COME, folder), "facts": load.facts, **header}
    with Spool(folder, load.facts.run_id, told) as spool:
        for each in load.all_outcomes:
            spool.append(each)
        if ended:
            spool.end(load, pictures)
    return spool.path


def test_a_run_that_ended(folder: Path, store: Store) -> None:
    load = load_of(outcome(), outcome(1.0, warmup=True), subject={"KSampler.steps": 20})
    spool = _spool(folder, load)
    adopt(spool, store, [CHECK])
    assert not spool.exists()
    (row,) = store.runs()
    kept = store.load(row)
    assert (row.state, row.commit, row.label, row.slos) == ("valid", "c" * 40, "mine", (1, 1))
    assert kept.outcomes == load.all_outcomes
    assert kept.subject["KSampler.steps"] == 20
    assert kept.figures == load.to_dict()


def test_pictures_go_with_the_run_and_with_its_file(folder: Path, store: Store, tmp_path: Path) -> None:
    shown = KeptPicture("p", "slowest", "image/webp", bytes(range(256)), 256, 128)
    spool = _spool(folder, load_of(outcome()), pictures=(shown,))
    assert adopt(spool, store).pictures == (shown,)
    (tmp_path / "other" / "runs").mkdir(parents=True)
    (name,) = store.files()
    shutil.copy(tmp_path / ".comfyload" / "runs" / name, tmp_path / "other" / "runs")
    merged = Store.open(tmp_path / "other")
    assert merged.load(merged.runs()[0]).pictures == (shown,)


def test_pictures_that_are_none_cost_no_run(folder: Path, store: Store) -> None:
    """For example, a browser would execute scripts in an image of this type."""
    spool = _spool(folder, load_of(outcome()))
    svg = {"prompt_id": "p", "why": "bad", "media_type": "image/svg+xml", "content": "", "width": 1, "height": 1}
    text = spool.read_text(encoding="utf-8")
    assert text.count('"pictures":[]') == 1
    spool.write_text(text.replace('"pictures":[]', f'"pictures":[{json.dumps(svg)}]'), encoding="utf-8")
    record = adopt(spool, store)
    assert (record.state, record.pictures) == ("valid", ())


def test_a_run_that_was_cut_off(folder: Path, store: Store) -> None:
    measured = outcome(2.0), failure(OutcomeStatus.CENSORED)
    spool = _spool(folder, load_of(*measured, outcome(-1.0, warmup=True)), ended=False)
    record = adopt(spool, store)
    assert (record.state, record.facts.submitted, len(record.outcomes)) == ("incomplete", 2, 3)
    assert record.facts.window == (0.0, measured[0].end)
    assert record.load().invalid_because == "the run was cut off"
    assert store.runs()[0].state == "incomplete"


def test_a_run_that_was_cut_off_before_its_first_prompt_ended(folder: Path, store: Store) -> None:
    record = adopt(_spool(folder, load_of(), ended=False), store)
    assert (record.state, record.outcomes, record.facts.window) == ("incomplete", (), (0.0, 0.0))


def test_a_store_that_refuses_leaves_the_spool(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spool = _spool(folder, load_of(outcome()))
    with pytest.raises(StoreError):
        adopt(spool, Store.open(tmp_path / "file"))
    assert spool.exists()


@pytest.mark.parametrize("header", [{"provenance": {"commit": 3}}, {"facts": {}}, {"facts": None}])
def test_a_spool_that_says_nothing_of_its_run_is_refused(folder: Path, store: Store, header: dict[str, Any]) -> None:
    spool = _spool(folder, load_of(outcome()), ended=False, **header)
    with pytest.raises(BadFile, match=r"run-1\.jsonl .*(Expected|missing|does not name)"):
        adopt(spool, store)
    assert spool.exists()


def test_own_spools_are_adoptable_and_those_that_are_not_to_be_kept_are_not(folder: Path) -> None:
    own = _spool(folder, load_of(run_id="run-1"))
    _spool(folder, load_of(run_id="run-2"), provenance=None)
    (folder / "rubbish.jsonl").write_bytes(b"\xff\n")
    (folder / "empty.jsonl").touch()
    assert adoptable(folder, "mine") == [own]


def test_a_session_that_lives_adopts_its_own(folder: Path) -> None:
    theirs = _spool(folder, load_of(), "comfyload-test-living")
    code = """
import sys
from pathlib import Path
from pytest_comfyload.history.adoption import SessionLock
lock = SessionLock(sys.argv[1], Path(sys.argv[2]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, "comfyload-test-living", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert adoptable(folder, "mine") == []
        other.kill()
        other.wait()
    assert adoptable(folder, "mine") == [theirs]


def test_a_session_that_ended_leaves_no_lock(folder: Path) -> None:
    before = list(folder.iterdir())
    lock = SessionLock("one", folder)
    assert lock.acquire()
    assert len(list(folder.iterdir())) == len(before) + 1
    lock.release()
    assert list(folder.iterdir()) == before


def test_temporary_files_may_be_removed_while_a_session_lives(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another session must not adopt its spools because its temporary files no longer exist."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    _spool(folder, load_of(), "comfyload-test-living")
    lock = SessionLock("comfyload-test-living", folder)
    assert lock.acquire()
    shutil.rmtree(temporary)
    assert adoptable(folder, "mine") == []
    lock.release()
    assert len(adoptable(folder, "mine")) == 1


def test_of_another_machine_only_what_is_old_is_left_behind(folder: Path) -> None:
    theirs = _spool(folder, load_of(), "comfyload-test-far", host="far away")
    assert adoptable(folder, "mine") == []
    os.utime(theirs, (time.time() - 90_000,) * 2)
    assert adoptable(folder, "mine") == [theirs]
