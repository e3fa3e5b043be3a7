"""Files that no version of the plugin wrote, under the names of run files and spools; one function makes each kind.

`RUN_FILES` and `SPOOLS` map names to functions that take the path at which to create the file.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pytest_comfyload.history.adoption import header_of
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import SCHEMA
from tests.history.records import golden, record
from tests.result.outcomes import load_of, outcome

__all__ = ["FUTURE", "RUN_FILES", "SPOOLS", "changed_run", "good_run", "packed", "plain_run", "spool_lines"]

Make = Callable[[Path], object]

DEEP = 100_000
# Deep enough to exceed Python's recursion limit, but not msgspec's own.
HALF_DEEP = 900


def good_run(number: int = 0) -> bytes:
    """Return the content of a valid run file."""
    return packed(plain_run(number))


def plain_run(number: int = 0) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(record(number))
    return plain


def packed(plain: Any) -> bytes:
    return gzip.compress(msgspec.msgpack.encode(plain), compresslevel=1, mtime=0)


def changed_run(*keys: str | int, value: Any) -> bytes:
    """Return a run file with one value replaced."""
    plain: Any = msgspec.msgpack.decode(msgspec.msgpack.encode(golden()))
    place = plain
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return packed(plain)


def _write(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def _deep_run(deep: bytes) -> bytes:
    """Return a run file with `deep`, which msgspec would not write, among its figures."""
    whole = msgspec.msgpack.encode({**plain_run(), "figures": {"marker": "here"}})
    assert whole.count(b"\xa4here") == 1
    return gzip.compress(whole.replace(b"\xa4here", deep), compresslevel=1)


@functools.cache
def gzip_bomb(megabytes: int = 6 * 1024) -> bytes:
    """Return the given number of megabytes of zeros, compressed, in several gzip members."""
    return gzip.compress(bytes(64 << 20), compresslevel=9) * (megabytes // 64)


@functools.cache
def _object_bomb() -> bytes:
    """Return a run file with sixty million empty lists: 64 bytes of memory for each byte of msgpack."""
    count = 60_000_000
    begin, end = msgspec.msgpack.encode({**plain_run(), "figures": {"marker": "here"}}).split(b"\xa4here")
    body = b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    return gzip.compress(begin + body + end, compresslevel=1)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 6 << 30)


def _unreadable(path: Path) -> None:
    path.write_bytes(good_run())
    path.chmod(0)


def _changed(*keys: str | int, value: Any) -> Make:
    return lambda path: path.write_bytes(changed_run(*keys, value=value))


def _nested(levels: int) -> dict[str, Any]:
    return {"a": _nested(levels - 1)} if levels else {}


_WRONG_TYPES: dict[str, Any] = {
    "run_id": 3,
    "time": None,
    "state": 3,
    "fingerprint": [],
    "environment": [],
    "subject": 3,
    "figures": [],
    "checks": {},
    "facts": None,
    "outcomes": {"a": 1},
    "provenance": {"commit": 3},
    "pictures": [{}],
    "schema": "1",
}

RUN_FILES: dict[str, Make] = {
    "empty": _write(b""),
    "bytes": _write(b"\xff\xfe\x00rubbish" * 100),
    "a torn gzip file": lambda path: path.write_bytes(good_run()[:-20]),
    "gzip of rubbish": _write(gzip.compress(b"\xc1rubbish" * 100)),
    "gzip with a tail": lambda path: path.write_bytes(good_run() + b"tail"),
    "gzip bomb": lambda path: path.write_bytes(gzip_bomb()),
    "object bomb": lambda path: path.write_bytes(_object_bomb()),
    "deep": _write(gzip.compress(b"\x91" * DEEP + b"\xc0")),
    "deep figures": lambda path: path.write_bytes(_deep_run(b"\x81\xa1a" * DEEP + b"\xc0")),
    "half deep figures": lambda path: path.write_bytes(_deep_run(b"\x81\xa1a" * HALF_DEEP + b"\xc0")),
    "deep lists": lambda path: path.write_bytes(_deep_run(b"\x91" * HALF_DEEP + b"\xc0")),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link to itself": _loop,
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "unreadable": _unreadable,
    "sparse": _sparse,
    **{f"time {value}": _changed("time", value=value) for value in (math.nan, math.inf, -math.inf, 1e300, -1.0, "now")},
    **{f"{name} of type {type(value).__name__}": _changed(name, value=value) for name, value in _WRONG_TYPES.items()},
    "run id of 5,000 characters": _changed("run_id", value="x" * 5000),
    "run id that is a path": _changed("run_id", value="../../victim"),
    "environment that is a path": _changed("fingerprint", value="../../../victim"),
    "commit that is a path": _changed("provenance", "commit", value="/../../../victim"),
    "commit date": _changed("provenance", "date", value=1e300),
    "prompts 1e300": _changed("figures", "prompts", value=1e300),
    "prompts inf": _changed("figures", "prompts", value=math.inf),
    "prompts of type str": _changed("figures", "prompts", value="many"),
    "GPU of type list": _changed("figures", "gpu", "vram", "peak", value=[]),
    "intended nan": _changed("outcomes", 0, "intended", value=math.nan),
    "intended 1e300": _changed("outcomes", 0, "intended", value=1e300),
    "window inf": _changed("facts", "window", value=[0.0, math.inf]),
    "deep inputs": _changed("outcomes", 0, "inputs", value=_nested(100)),
}

# Not damaged: it was written by a newer version of the plugin, which can read it.
FUTURE = gzip.compress(msgspec.msgpack.encode({**plain_run(), "schema": SCHEMA + 1}))


def spool_lines(session: str = "comfyload-dead", *, ended: bool = True, **header: Any) -> list[bytes]:
    """Return the lines of a spool that is valid except for the given `header` fields."""
    load = load_of(outcome(), run_id="20260131T120000-0123abcd")
    told = {"run_id": load.facts.run_id, **header_of(session, Provenance(), Path()), "facts": load.facts, **header}
    lines = [told, *load.all_outcomes]
    if ended:
        lines.append({"facts": load.facts, "contended": [], "pictures": []})
    return [msgspec.json.encode(line) for line in lines]


def _spool(*, ended: bool = False, **header: Any) -> Make:
    return lambda path: path.write_bytes(b"\n".join(spool_lines(ended=ended, **header)) + b"\n")


def _facts(**different: Any) -> dict[str, Any]:
    plain = json.loads(msgspec.json.encode(load_of().facts))
    return {**plain, **different}


def _replaced(old: bytes, new: bytes) -> Make:
    def make(path: Path) -> None:
        content = b"\n".join(spool_lines(ended=False, title="here")) + b"\n"
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))

    return make


SPOOLS: dict[str, Make] = {
    "empty": _write(b""),
    "bytes": _write(b"\xff\xfe\x00rubbish\n" * 10),
    "invalid UTF-8": _replaced(b'"here"', b'"\xff"'),
    "null": _write(b"null\n"),
    "a list": _write(b"[]\n"),
    "deep": _write(b"[" * DEEP + b"\n"),
    "deep header": _replaced(b'"here"', b"[" * DEEP + b"]" * DEEP),
    "half deep header": _replaced(b'"subject":{}', b'"subject":{"a":' + b"[" * HALF_DEEP + b"]" * HALF_DEEP + b"}"),
    "session of 5,000 characters": _spool(session="s" * 5000),
    "session path": _spool(session="../../victim"),
    "session number": _spool(session=3),
    "session NUL": _spool(session="a\0b"),
    "provenance number": _spool(provenance=3),
    "provenance commit": _spool(provenance={"commit": "../../../victim"}),
    "facts null": _spool(facts=None),
    "facts list": _spool(facts=[]),
    "run id path": _spool(facts=_facts(run_id="../../victim")),
    "epoch 1e300": _spool(facts=_facts(epoch=1e300)),
    "epoch negative": _spool(facts=_facts(epoch=-1.0)),
    "loop lag 1e300": _spool(facts=_facts(loop_lag=1e300)),
    "host list": _spool(host=[]),
    "title number": _spool(title=3, planned="many"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link to itself": _loop,
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "sparse": _sparse,
    "unreadable": _unreadable,
}
