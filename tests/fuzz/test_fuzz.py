"""Fuzzing by hypothesis; inputs that were found once are kept as examples."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.workflow import Workflow
from tests.fuzz.targets import ARGUMENTS, BYTES, OPTIONS, TEXTS, build_scenario, judge_workflow, read_options
from tests.hostile.bad_files import plain_run, spool_lines
from tests.protocol.strategies import ANY_JSON, MESSAGES, QUEUES, STATS

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
SECONDS = 10

fuzzed = settings(max_examples=EXAMPLES)


@contextmanager
def _bounded() -> Iterator[None]:
    """Limit the time, and check that the global state of this process is unchanged afterwards."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise RuntimeError(f"took longer than {SECONDS} s")

    def state() -> object:
        return Path.cwd(), dict(os.environ), sys.getrecursionlimit(), sys.get_int_max_str_digits()

    before, old = state(), signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert state() == before


# --- bytes ---


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


_HISTORY = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.one_of(ANY_JSON, st.lists(ANY_JSON, max_size=5)),
        "outputs": st.dictionaries(st.text(max_size=3), st.dictionaries(st.text(max_size=6), ANY_JSON), max_size=2),
        "status": st.fixed_dictionaries({"messages": st.lists(MESSAGES.map(list), max_size=5)}),
        "meta": ANY_JSON,
    },
)
_INPUTS = st.dictionaries(
    st.sampled_from(["text", "seed", "image", "images", "positive", "model", "steps", ""]),
    st.one_of(ANY_JSON, st.tuples(st.sampled_from("123"), st.integers(0, 2)).map(list)),
    max_size=4,
)
_CLASSES = st.sampled_from(["KSampler", "CLIPTextEncode", "LoadImage", "SaveImage"])
_NODE = st.fixed_dictionaries(
    {"class_type": _CLASSES, "inputs": _INPUTS},
    optional={"_meta": st.one_of(ANY_JSON, st.fixed_dictionaries({"title": ANY_JSON}))},
)
_ODD_NODE = st.one_of(ANY_JSON, st.fixed_dictionaries({"class_type": ANY_JSON, "inputs": ANY_JSON}))
_IDS = st.one_of(st.sampled_from("123"), st.text(max_size=3))
GRAPHS = st.one_of(
    st.dictionaries(st.sampled_from("123"), _NODE, min_size=1),
    st.dictionaries(_IDS, st.one_of(_NODE, _ODD_NODE)),
)
_WRAPPED = st.one_of(
    GRAPHS,
    st.fixed_dictionaries({}, optional={"prompt": GRAPHS, "extra_data": ANY_JSON, "workflow": ANY_JSON}),
    st.fixed_dictionaries({"input": st.fixed_dictionaries({"workflow": GRAPHS})}),
    st.fixed_dictionaries({"nodes": st.lists(ANY_JSON, max_size=3), "links": ANY_JSON}),
)


@st.composite
def _changed(draw: st.DrawFn, plain: Any) -> Any:
    """A value in which one part is replaced or removed."""
    whole = place = json.loads(msgspec.json.encode(plain))
    key = None
    for _ in range(draw(st.integers(1, 5))):
        inner = place if key is None else place[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        place, key = inner, draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
    if isinstance(place, dict) and draw(st.booleans()):
        del place[key]
    else:
        place[key] = draw(ANY_JSON)
    return whole


def _packed(value: Any) -> bytes:
    """Encode a value as msgpack, adapting texts and numbers that msgpack cannot represent."""
    match value:
        case str():
            return msgspec.msgpack.encode(value.encode("utf-8", "replace").decode())
        case dict():
            items = b"".join(_packed(key) + _packed(each) for key, each in value.items())
            return b"\xdf" + len(value).to_bytes(4, "big") + items
        case list() | tuple():
            return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(_packed, value))
        case int() if not -(2**63) <= value < 2**64:
            return _packed(float("inf"))
    return msgspec.msgpack.encode(value)


@st.composite
def _cut(draw: st.DrawFn, content: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of which some are missing or replaced."""
    whole = draw(content)
    at = draw(st.integers(0, len(whole)))
    return whole[:at] + draw(st.binary(max_size=4)) + whole[at + draw(st.integers(0, 8)) :]


_RUNS = _changed(plain_run()).map(_packed)
_SPOOLS = st.lists(
    st.one_of(*[_changed(json.loads(line)).map(_dumped) for line in spool_lines()]), min_size=1, max_size=4
).map(b"\n".join)
_STRUCTURED: dict[str, st.SearchStrategy[bytes]] = {
    "frames": st.lists(MESSAGES, max_size=6).map(
        lambda frames: b"\n".join(_dumped({"type": kind, "data": data}) for kind, data in frames)
    ),
    "body": st.one_of(ANY_JSON, QUEUES, STATS, _HISTORY.map(lambda entry: {"prompt-1": entry})).map(_dumped),
    "metrics": st.lists(
        st.one_of(st.text(max_size=20), st.from_regex(r"\ADCGM_FI_DEV_[A-Z_]{3,20}\{gpu=\"?.{0,5}\} .{0,8}\Z")),
        max_size=5,
    ).map(lambda lines: "\n".join(lines).encode("utf-8", "replace")),
    "run file": _RUNS,
    "store": _RUNS,
    "spool": _SPOOLS,
    "import": st.one_of(
        ANY_JSON, _changed({"format": "comfyload", "version": 1, "runs": [plain_run()]}), _changed({"benchmarks": [{}]})
    ).map(_dumped),
    "workflow file": _WRAPPED.map(_dumped),
}


@pytest.mark.parametrize("name", BYTES)
@given(data=st.data())
@fuzzed
def test_bytes(name: str, data: st.DataObject) -> None:
    content = data.draw(st.one_of(st.binary(max_size=200), _STRUCTURED[name], _cut(_STRUCTURED[name])))
    with _bounded():
        BYTES[name](content)


# --- workflows and the node classes of a server ---


@given(GRAPHS, st.dictionaries(st.sampled_from(["KSampler", "CLIPTextEncode", "LoadImage", "SaveImage"]), ANY_JSON))
@fuzzed
def test_workflows(graph: Any, object_info: Any) -> None:
    with _bounded():
        try:
            workflow = Workflow.load(graph)
        except ComfyloadError:
            return
        judge_workflow(
            workflow, ObjectInfo({name: info for name, info in object_info.items() if isinstance(info, dict)})
        )


# --- user input ---

_LONG = "9" * 5000
_NUMBERS = [
    "nan",
    "inf",
    "-1",
    "1e999",
    "٣s",
    "²s",
    "1_0s",
    "0x1s",
    _LONG,
    "1" + "0" * 400 + "h",
    "lru=²",
    f"lru={_LONG}",
]
_ADDRESSES = [
    "http://[::1",
    "http://a:99999",
    "http://\ud800",
    "http://a b",
    "//",
    "~",
    "\ud800",
    "\0",
    "[",
    "=",
    "a=b=c",
    "%s",
]
_ODD = st.sampled_from([*_NUMBERS, *_ADDRESSES])
_WRITTEN = st.one_of(_ODD, st.text(max_size=20), st.from_regex(r"\A[-+.\d٣²eE_]{1,9}\s?[a-zµ/%]{0,4}\Z"))


@pytest.mark.parametrize("name", TEXTS)
@given(text=_WRITTEN)
@example(text=f"lru={_LONG}")
@example(text="\udc8c@gpu1")
@fuzzed
def test_texts(name: str, text: str) -> None:
    with _bounded():
        TEXTS[name](text)


_VALUES = st.one_of(
    ANY_JSON,
    _WRITTEN,
    st.floats(),
    st.integers(),
    st.tuples(_WRITTEN, _WRITTEN),
    st.just(object()),
    st.binary(max_size=3),
)


@st.composite
def _arguments(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(ARGUMENTS)), max_size=4, unique=True))
    return {name: draw(st.one_of(st.sampled_from(ARGUMENTS[name]), _VALUES)) for name in names}


@given(arguments=_arguments())
@example(arguments={"preset": []})
@example(arguments={"think_time": 10**400})
@fuzzed
def test_scenarios(arguments: dict[str, Any]) -> None:
    with _bounded():
        build_scenario(arguments)


@st.composite
def _options(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(OPTIONS)), max_size=4, unique=True))
    kinds = {"linelist": st.lists(_WRITTEN, max_size=2), "string": _WRITTEN, "bool": st.booleans()}
    return {name: draw(kinds[OPTIONS[name]]) for name in names}


@given(
    given=_options(),
    environ=st.dictionaries(
        st.sampled_from(["COMFYUI_URL", "COMFYUI_HEADERS"]), st.one_of(_WRITTEN, st.just("http://a"))
    ),
)
@example(given={"comfyload_baseline_runs": _LONG}, environ={})
@fuzzed
def test_options(given: dict[str, Any], environ: dict[str, str]) -> None:
    with _bounded():
        read_options(given, environ)
