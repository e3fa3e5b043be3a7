"""The store loses no run, whatever happens to its writers, and copying files merges two stores."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pytest_comfyload.errors import StoreError, UsageError
from pytest_comfyload.history.record_file import encode
from pytest_comfyload.history.storage import Folder
from pytest_comfyload.history.store import Store, file_name
from tests.history.records import COMMIT, golden, record


@pytest.fixture(params=["folder", "file://", "memory://"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store.open(tmp_path / "store")
    pytest.importorskip("fsspec")
    where = f"{request.param}{tmp_path}/store"
    return Store.open(where)


def test_what_is_added_is_there(store: Store) -> None:
    assert store.runs() == []
    name = store.add(golden())
    (row,) = store.runs()
    assert store.load(row) == store.load(name) == golden()
    assert (row.commit, row.branch, row.tag, row.label) == (COMMIT, "main", "v1.2", "before the upgrade")
    assert (row.state, row.slos, row.test, row.parameters) == ("contaminated", (1, 1), "test_slo.py::test_slo", "a-5")
    assert row.figures["generation_time.p50"] == pytest.approx(2.0)


def test_a_name_says_time_commit_and_environment() -> None:
    made = golden()
    assert file_name(made) == f"20260131T120000-0123abcd_0123456789ab_{made.fingerprint}.run"
    assert file_name(record(commit=None)).split("_")[1] == "no-commit"


def test_a_run_id_that_is_a_path_names_no_file(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot name a file"):
        store.add(record(run_id="../escape"))


def test_runs_come_newest_first(store: Store) -> None:
    for number in (2, 0, 1):
        store.add(record(number))
    assert [row.run_id for row in store.runs()] == [record(number).facts.run_id for number in (2, 1, 0)]


def test_a_run_that_is_there_stays_as_it_is(store: Store) -> None:
    store.add(record(0))
    assert store.add(record(0, notes=("another",))) == file_name(record(0))
    assert store.load(file_name(record(0))).facts.notes == ()


def test_what_is_removed_is_gone(store: Store) -> None:
    store.add(record(0))
    store.add(record(1))
    gone = store.runs()[0]
    store.remove(gone)
    store.remove(gone)
    assert [row.run_id for row in store.runs()] == [record(0).run_id]
    with pytest.raises(StoreError):
        store.load(gone)


def test_a_torn_file_is_named_and_skipped(store: Store) -> None:
    name = store.add(record(0))
    store.add(record(1))
    whole = store.place.read(f"runs/{name}")
    store.place.remove(f"runs/{name}")
    store.place.write(f"runs/{name}", whole[: len(whole) // 2])
    for _ in range(2):
        assert [row.run_id for row in store.runs()] == [record(1).run_id]
        (line,) = store.skipped
        assert name in line
    store.place.write(f"runs/{name}", whole)
    assert len(store.runs()) == 2
    assert store.skipped == []


def test_two_stores_are_one_by_copying(tmp_path: Path) -> None:
    one, other = (Store.open(tmp_path / name) for name in ("one", "other"))
    one.add(record(0))
    other.add(record(0))
    other.add(record(1))
    assert len(one.runs()) == 1
    shutil.copytree(tmp_path / "other", tmp_path / "one", dirs_exist_ok=True)
    assert [row.run_id for row in one.runs()] == [record(1).run_id, record(0).run_id]


# --- the index is a cache ---


@pytest.mark.parametrize("damage", [b"", b"\x00", b"rubbish", b"\x82\xa7version\x01\xa4rows\x91\xc0"])
def test_a_damaged_index_is_made_anew(store: Store, damage: bytes) -> None:
    store.add(record(0))
    rows = store.runs()
    store.place.write("index.msgpack", damage)
    assert store.runs() == rows
    store.place.remove("index.msgpack")
    assert store.runs() == rows


def test_an_index_of_another_version_is_made_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_comfyload.history import index

    store.add(record(0))
    rows = store.runs()
    before = store.place.read("index.msgpack")
    monkeypatch.setattr(index, "VERSION", index.VERSION + 1)
    assert store.runs() == rows
    assert store.place.read("index.msgpack") != before


def test_files_that_are_known_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path)
    store.add(record(0))
    store.runs()
    store.add(record(1))
    read: list[str] = []
    original = Folder.read

    def noted(self: Folder, name: str) -> bytes:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(Folder, "read", noted)
    assert len(store.runs()) == 2
    assert read == ["index.msgpack", f"runs/{file_name(record(1))}"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.add(record(0))
    tmp_path.chmod(0o500)
    try:
        assert len(store.runs()) == 1
    finally:
        tmp_path.chmod(0o700)


# --- writers may be killed, and run concurrently ---

# Adds runs, and prints each one once it is stored.
_WRITER = """
    import sys
    from pytest_comfyload.history.store import Store
    from tests.history.records import record

    store = Store.open(sys.argv[1])
    number = int(sys.argv[2])
    while number != int(sys.argv[3]):
        print(store.add(record(number)), flush=True)
        number += 1
"""


def _writer(folder: Path, first: int, end: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WRITER), str(folder), str(first), str(end)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("after", [1, 7, 30])
def test_a_killed_writer_leaves_every_run_readable(tmp_path: Path, after: int) -> None:
    with _writer(tmp_path, 0, -1) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline().strip() for _ in range(after)]
        writer.kill()
        said += writer.stdout.read().split()
    assert writer.returncode == -signal.SIGKILL
    store = Store.open(tmp_path)
    listed = {row.file for row in store.runs()}
    assert set(said) <= listed
    assert store.skipped == []
    for name in listed:
        store.load(name)


def test_a_writer_that_is_killed_in_the_middle_of_a_file_leaves_nothing_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path)
    store.add(record(0))
    dying = """
        import os, sys
        from pathlib import Path
        from pytest_comfyload.history.store import Store
        from tests.history.records import record

        Path.replace = lambda self, target: os.kill(os.getpid(), 9)
        Store.open(sys.argv[1]).add(record(1))
    """
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(dying), str(tmp_path)], timeout=60, cwd=root)
    assert died.returncode == -9
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert [row.run_id for row in store.runs()] == [record(0).run_id]
    assert store.skipped == []
    assert store.remove_parts() == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [file_name(record(0))]


def test_several_writers_and_a_reader_at_once(tmp_path: Path) -> None:
    writers = [_writer(tmp_path, 100 * number, 100 * number + 20) for number in range(3)]
    store = Store.open(tmp_path)
    while any(writer.poll() is None for writer in writers):
        store.runs()
        assert store.skipped == []
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert len(store.runs()) == 60


# --- places that cannot be a store ---


def test_a_store_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store.open(tmp_path / "file")
    with pytest.raises(StoreError, match=r"the store .*file: "):
        store.add(record(0))


def test_an_unknown_kind_of_url_is_refused_without_its_password() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(UsageError) as refused:
        Store.open("nosuch://me:hunter2@host/bucket")
    assert "nosuch://host/bucket" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_url_without_fsspec_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"pytest-comfyload\[remote\]"):
        Store.open("memory://store")


def test_a_folder_needs_no_fsspec(tmp_path: Path) -> None:
    code = "import sys; from pytest_comfyload.history.store import Store; Store.open(sys.argv[1]).runs();"
    code += "print('fsspec' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() == "False"


def test_a_fault_of_the_medium_is_one_sentence_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    store = Store.open("memory://faulty")

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("https://me:hunter2@host said no")

    for name in ("ls", "cat_file", "pipe_file", "rm_file"):
        monkeypatch.setattr(type(store.place._files), name, fail)  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="https://host said no"):
        store.runs()
    with pytest.raises(StoreError, match="https://host said no"):
        store.load("a.run")
    with pytest.raises(StoreError, match="https://host said no"):
        store.place.write("runs/a.run", encode(record(0)))
    with pytest.raises(StoreError, match="https://host said no"):
        store.place.remove("runs/a.run")


def test_storing_a_run_takes_no_list_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path / "store")
    name = store.add(record())
    monkeypatch.setattr(store.place, "sizes", None)
    written: list[str] = []
    monkeypatch.setattr(store.place, "write", lambda name, content: written.append(name))
    assert store.add(record()) == name
    assert written == []  # the existing file stays as it is
