"""Each bad file alone: it is named in one line and set aside, in bounded time and memory, and the others are read."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_comfyload.cli.history import _cells, _heading
from pytest_comfyload.errors import BadFile, UsageError
from pytest_comfyload.history.adoption import adopt_all, adoptable
from pytest_comfyload.history.exports import as_csv, as_json, from_json, parsed
from pytest_comfyload.history.index import FILE, VERSION
from pytest_comfyload.history.pytest_benchmark import as_benchmark, from_benchmark, is_benchmark
from pytest_comfyload.history.record_file import decode, decode_strict, encode
from pytest_comfyload.history.spool import read_end, read_header, read_pictures, read_spool, spool_folder
from pytest_comfyload.history.store import Store
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.write import write_single
from tests.history.records import golden, record
from tests.hostile.bad_files import FUTURE, RUN_FILES, SPOOLS, changed_run, good_run, spool_lines

BAD, GOOD = "20260131T120000-0bad.run", "20260131T000001-0123abcd_0123456789ab_00000000.run"
SECONDS = 10.0

as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
run_files = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=as_user if kind == "unreadable" else ()) for kind in RUN_FILES]
)
spools = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=as_user if kind == "unreadable" else ()) for kind in SPOOLS]
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store" / "runs").mkdir(parents=True)
    (tmp_path / "store" / "runs" / GOOD).write_bytes(good_run(1))
    return Store.open(tmp_path / "store")


@run_files
def test_a_bad_run_file(kind: str, store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    RUN_FILES[kind](tmp_path / "store" / "runs" / BAD)
    request.getfixturevalue("little_memory")
    begun = time.monotonic()
    assert [row.file for row in store.runs()] == [GOOD]
    (line,) = store.set_aside()
    assert time.monotonic() - begun < SECONDS
    assert line.startswith(BAD)
    assert line.endswith(f"moved to {tmp_path}/store/quarantine/{BAD}")
    assert len(line.splitlines()) == 1
    assert os.path.lexists(tmp_path / "store" / "quarantine" / BAD)
    assert [row.file for row in store.runs()] == [GOOD]
    assert store.set_aside() == store.skipped == []


@run_files
def test_a_bad_run_file_that_was_listed_before(kind: str, store: Store, tmp_path: Path) -> None:
    """Its row is still in the index, but every file is validated completely when it is loaded."""
    path = tmp_path / "store" / "runs" / BAD
    path.write_bytes(good_run(2))
    rows = store.runs()
    path.unlink()
    RUN_FILES[kind](path)
    assert [found.run_id for found in store.records(rows)] == [record(1).run_id]
    (line,) = store.set_aside()
    assert line.startswith(BAD)
    assert [row.file for row in store.runs()] == [GOOD]


def test_a_file_of_a_later_version_is_named_and_stays(store: Store, tmp_path: Path) -> None:
    (tmp_path / "store" / "runs" / BAD).write_bytes(FUTURE)
    assert [row.file for row in store.runs()] == [GOOD]
    (line,) = store.set_aside()
    assert line == f"{BAD} is of schema 2; this version reads up to 1: upgrade pytest-comfyload"
    assert (tmp_path / "store" / "runs" / BAD).exists()


@pytest.mark.parametrize("name", ["new\nline.run", "\x1b[31mred.run", "\udcff.run", "x" * 251 + ".run"])
def test_a_name_that_cannot_be_shown(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "store" / "runs" / name).write_bytes(b"rubbish")
    assert [row.file for row in store.runs()] == [GOOD]
    (line,) = store.set_aside()
    assert line.isprintable()
    assert not (tmp_path / "store" / "runs" / name).exists()


def test_two_of_one_name_are_both_set_aside(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "store" / "runs" / BAD).write_bytes(b"x" * number)
        store.runs()
        store.set_aside()
        store._told.clear()
    assert sorted(path.stat().st_size for path in (tmp_path / "store" / "quarantine").iterdir()) == [0, 1, 2]


def test_in_a_remote_store_it_stays_and_is_named_once(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    store = Store.open(f"memory://{tmp_path}/store")
    store.add(record(1))
    store.place.write(f"runs/{BAD}", b"rubbish")
    for told in (1, 0):
        assert len(store.runs()) == 1
        lines = store.set_aside()
        assert len(lines) == told
        assert all("it stays in memory://" in line for line in lines)
    assert BAD in store.files()


def test_work_on_a_store_is_done_again_without_what_turns_out_damaged(store: Store, tmp_path: Path) -> None:
    name = store.add(record(5))
    path = tmp_path / "store" / "runs" / name
    listed = len(store.runs())
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes(30))  # of the same size, so the index still lists it
    done = store.without_damaged(lambda: [store.load(row).run_id for row in store.runs()])
    assert listed == 2
    assert done == [record(1).run_id]
    assert len(store.set_aside()) == 1


@pytest.mark.parametrize("kind", ["bytes", "deep", "a folder", "a pipe", "a link to itself", "a link to a device"])
def test_an_index_that_is_damaged(store: Store, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    RUN_FILES[kind](tmp_path / "store" / FILE)
    request.getfixturevalue("little_memory")
    assert [row.file for row in store.runs()] == [GOOD]
    (line,) = store.set_aside()
    assert line.startswith(FILE)
    store.runs()
    assert store.skipped == []


def test_rows_of_an_index_are_as_strict_as_runs(store: Store) -> None:
    (row,) = store.runs()
    for wrong in ({"run_id": "../../x"}, {"time": 1e300}, {"prompts": -1}, {"fingerprint": "../x"}, {"commit": "../x"}):
        rows = [{**msgspec.to_builtins(row), **wrong}]
        index = {"version": VERSION, "rows": rows, "sizes": {row.file: len(good_run(1))}}
        store.place.write(FILE, msgspec.msgpack.encode(index))
        assert store.runs() == [row]


# --- spools ---


@spools
def test_a_bad_spool(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = spool_folder(tmp_path)
    good, bad = folder / "good.jsonl", folder / "bad.jsonl"
    good.write_bytes(b"\n".join(spool_lines()) + b"\n")
    SPOOLS[kind](bad)
    request.getfixturevalue("little_memory")
    lines: list[str] = []
    begun = time.monotonic()
    (adopted,) = adopt_all(tmp_path, "mine", lambda project: str(project / ".comfyload"), lines.append)
    assert time.monotonic() - begun < SECONDS
    assert adopted.kept == {"good"}
    (line,) = lines
    assert line.startswith("not kept: bad.jsonl")
    assert line.endswith(f"moved to {tmp_path}/.comfyload/quarantine/bad.jsonl")
    assert not os.path.lexists(bad)
    assert os.path.lexists(tmp_path / ".comfyload" / "quarantine" / "bad.jsonl")
    assert [row.run_id for row in adopted.store.runs()] == ["20260131T120000-0123abcd"]


def test_a_spool_of_the_dead_chooses_no_folder(tmp_path: Path) -> None:
    """Only a living session's runs go to the stores of other projects."""
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    lines = spool_lines(project=str(tmp_path / "elsewhere"))
    (spool_folder(tmp_path / "project") / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (adopted,) = adopt_all(tmp_path / "project", "mine", lambda project: str(project / ".comfyload"), print)
    assert adopted.project == tmp_path / "project"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_lock_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    folder = spool_folder(tmp_path)
    (folder / "a.jsonl").write_bytes(b"\n".join(spool_lines("comfyload-dead")) + b"\n")
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (folder / "comfyload-dead.main.lock").symlink_to(victim)
    assert [path.name for path in adoptable(folder, "mine")] == ["a.jsonl"]
    assert victim.read_text(encoding="utf-8") == "precious"


# --- arbitrary bytes ---

_MUTATIONS = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=8)), min_size=1, max_size=4)


def _mutated(content: bytes, mutations: list[tuple[int, bytes]]) -> bytes:
    for place, piece in mutations:
        place %= len(content)
        content = content[:place] + piece + content[place + len(piece) :]
    return content


_SPOOL = b"\n".join(spool_lines()) + b"\n"
_PACKED = msgspec.msgpack.encode(golden())


@given(content=st.binary(max_size=200) | _MUTATIONS.map(lambda each: _mutated(_SPOOL, each)))
def test_no_bytes_of_a_spool_raise_anything_else(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("spool") / "a.jsonl"
    path.write_bytes(content)
    for read in (read_header, lambda path: list(read_spool(path)), read_end, read_pictures):
        with contextlib.suppress(BadFile):
            read(path)
    store = Store.open(path.parent / "store")
    adopt_all(path.parent, "mine", lambda project: str(store), print)
    assert store.runs() is not None


@settings(max_examples=200)
@given(content=st.binary(max_size=200) | _MUTATIONS.map(lambda each: _mutated(_PACKED, each)))
def test_no_bytes_of_a_run_raise_anything_else(content: bytes) -> None:
    """What can be listed can be loaded, and what can be loaded can be written again."""
    outcomes = []
    for read in (decode, decode_strict):
        try:
            read(gzip.compress(content, 1), "a.run")
            outcomes.append("read")
        except BadFile:
            outcomes.append("refused")
    assert len(set(outcomes)) == 1
    if outcomes[0] == "read":
        read_again = decode(gzip.compress(content, 1))
        assert decode(encode(read_again)).run_id == read_again.run_id


_NASTY: tuple[Any, ...] = (
    None, True, 0, -1, 2**63, 1.5, -1e9, 1e10, 1e300, math.nan, math.inf, -math.inf, "", "x" * 3000,
    "\x1b[31m\n<script>", "../../x", [], {}, [[]], {"a": {}}, b"\xff", ["a"], [1e300, 2], {"a": math.inf}, {"p50": "x"},
)  # fmt: skip


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*place, key)
        yield from _places(each, (*place, key))


@settings(max_examples=30)
@example(place=("figures", "window"), value=math.inf)
@example(place=("figures", "total_time"), value=None)
@example(place=("facts", "gate"), value="\x1b[31m\n<script>")
@given(place=st.sampled_from(list(_places(msgspec.msgpack.decode(_PACKED)))), value=st.sampled_from(_NASTY))
def test_what_is_read_can_be_shown(
    place: tuple[Any, ...], value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever value a field has, a run is either rejected when it is read or shown by every command."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "runs").mkdir()
    (folder / "runs" / BAD).write_bytes(changed_run(*place, value=value))
    (folder / "runs" / GOOD).write_bytes(good_run(1))
    store = Store.open(folder)
    rows = store.runs()
    records = list(store.records(rows))
    assert len(rows) == len(records)  # what can be listed can be loaded
    as_csv(rows)
    from_json(parsed(as_json(records, outcomes=True).encode(), "a.json"), "a.json")
    for row in rows:
        _heading((row,))
        _cells((row,))
    with contextlib.suppress(UsageError):  # runs of several commits
        as_benchmark(records)
    write_single(Content(store, folder), folder / "report.html")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["runs", "comfyload", "stats"]), inner),
    max_leaves=8,
)


@given(content=st.binary(max_size=100) | _JSON.map(msgspec.json.encode))
def test_no_bytes_of_an_import_raise_anything_else(content: bytes) -> None:
    try:
        plain = parsed(content, "a.json")
        records = from_benchmark(plain, "a.json") if is_benchmark(plain) else from_json(plain, "a.json")
    except UsageError:
        return
    assert records == []
