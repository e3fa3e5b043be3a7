"""A run locks its servers against every other run on this machine, and takes those that are free."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.run import server_locks
from pytest_comfyload.run.server_locks import SelectedServers, reserved
from pytest_comfyload.scenario.scenario import Scenario

A, B, C = "http://a:1", "http://b:1", "http://c:1"

HOLDER = """
import asyncio, json, sys
from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.run.server_locks import reserved
from pytest_comfyload.scenario.scenario import Scenario

async def main():
    urls, servers = json.loads(sys.argv[1])
    scenario = Scenario.build("txt2img", servers=servers)
    print("waiting", flush=True)
    async with reserved(scenario, [ServerAddress(url) for url in urls], title="the holder") as chosen:
        print(*[server.url for server in chosen.servers], flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


class _Holder:
    """A process that holds the locks of servers until it is told to release them."""

    def __init__(self, *urls: str, servers: object = "all") -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, json.dumps([urls, servers])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.says() == "waiting"

    @property
    def pid(self) -> int:
        return self._child.pid

    def says(self) -> str:
        assert self._child.stdout
        return self._child.stdout.readline().strip()

    def let_go(self) -> None:
        self._child.communicate("\n", timeout=20)

    def kill(self) -> None:
        self._child.kill()
        self._child.communicate()

    def __enter__(self) -> _Holder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._child.returncode is None:
            self.kill()


@pytest.fixture(autouse=True)
def temporary_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", None)
        yield


def _held(urls: tuple[str, ...], servers: object = "all", seconds: float = 20.0, **how: Any) -> tuple[str, ...] | None:
    """Return the servers that a run gets, after releasing them; None if it is still waiting after `seconds`."""

    async def within() -> tuple[str, ...]:
        scenario = Scenario.build("txt2img", servers=servers)
        async with asyncio.timeout(seconds), reserved(scenario, [*map(ServerAddress, urls)], **how) as chosen:
            return tuple(server.url for server in chosen.servers)

    with contextlib.suppress(TimeoutError):
        return asyncio.run(within())
    return None


def _waits(urls: tuple[str, ...], servers: object = "all", **how: Any) -> bool:
    return _held(urls, servers, 0.3, **how) is None


def test_a_server_is_held_by_one_process_at_a_time() -> None:
    with _Holder(A, B) as first:
        assert first.says() == f"{A} {B}"
        assert _waits((B,))
        assert _held((C,)) == (C,)
        with _Holder(B, C) as second:
            first.let_go()
            assert second.says() == f"{B} {C}"
    assert _held((B,)) == (B,)


def test_a_holder_that_dies_lets_go() -> None:
    with _Holder(A) as holder:
        assert holder.says() == A
        holder.kill()
    assert _held((A,)) == (A,)


def test_a_number_of_servers_are_those_that_are_free() -> None:
    assert _held((A, B, C), 1) == (A,)
    assert _held((A, B, C), 2, search_from=2) == (A, C)
    assert _held((A, B, C), 1, among=(C,)) == (C,)
    assert _held((A, B, C), 2, among=(C,)) == (A, B)
    with _Holder(A, servers=1) as holder:
        assert holder.says() == A
        assert _held((A, B, C), 1) == (B,)
        assert _held((A, B, C), 2) == (B, C)
        assert _waits((A, B, C), 3)
        assert _waits((A, B, C), 1, among=(A,))


def test_who_waits_for_several_servers_is_not_overtaken() -> None:
    """Otherwise, runs that need one server would keep taking each server that becomes free."""
    with _Holder(A, servers=1) as one, _Holder(A, B) as both:
        assert one.says() == A
        # It holds B by now and waits for A; a third run, for which B would be enough, queues behind it.
        assert _until(lambda: _waits((B,)))
        assert _waits((A, B), 1)
        assert _held((C,)) == (C,)
        one.let_go()
        assert both.says() == f"{A} {B}"
        both.let_go()
    assert _held((A, B), 1) == (A,)


def test_the_waiting_run_says_who_holds_the_server_and_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_locks, "PATIENCE", 0.1)
    said: list[str] = []
    with _Holder(A) as holder:
        assert holder.says() == A
        assert _held((A,), title="test_it.py::test_it", say=said.append, seconds=1.0) is None
    (line,) = said
    held = rf"held by the holder \(process {holder.pid}\) since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"comfyload: test_it.py::test_it waits for {A}: {held}", line)


def test_locks_of_groups() -> None:
    scenario = Scenario.build("txt2img", groups={"light": {"servers": 1}, "heavy": {"servers": [1]}})

    async def places() -> SelectedServers:
        async with reserved(scenario, [*map(ServerAddress, (A, B, C))]) as chosen:
            return chosen

    free = asyncio.run(places())
    assert ([server.url for server in free.servers], free.of_parts) == ([A, B], ((0,), (1,)))
    with _Holder(A) as holder:
        assert holder.says() == A
        # The run already holds the second server, which is therefore free for its other group.
        taken = asyncio.run(places())
        assert ([server.url for server in taken.servers], taken.of_parts) == ([B], ((0,), (0,)))


def test_a_server_that_was_not_named_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="servers=2 needs 2 servers"):
        _held((A,), 2)


def test_without_a_folder_for_locks_the_run_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    said: list[str] = []
    assert _held((A, B), 1, say=said.append) == (A,)
    assert [line.partition(" cannot be locked")[0] for line in said] == [f"comfyload: {A}"]


@given(st.integers(1, 6), st.data())
def test_a_number_of_servers_is_taken_from_the_free_ones(count: int, data: st.DataObject) -> None:
    named = [ServerAddress(f"http://gpu{number}:1") for number in range(count + data.draw(st.integers(0, 4)))]
    free = data.draw(st.permutations(range(len(named))).map(lambda places: sorted(places[:count])))
    chosen = SelectedServers.by(Scenario.build("txt2img", servers=count), named, free)
    assert chosen.servers == tuple(named[place] for place in free)
    assert chosen.of_parts == (tuple(range(count)),)


def _until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not holds():
        if time.monotonic() > deadline:
            return False
    return True
