"""Hand-made records, and hypothesis strategies for arbitrary ones."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st

from pytest_comfyload.history.ci import Ci
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.provenance import Machine, Provenance
from pytest_comfyload.history.record import Record, TestChecks, record_of
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import Device, GpuFacts, RunFacts, ServerFacts
from pytest_comfyload.result.telemetry import GpuSample, UsageSample
from tests.history.test_spool import OUTCOMES
from tests.result.outcomes import failure, load_of, outcome

__all__ = ["COMMIT", "PICTURES", "RECORDS", "golden", "record", "row"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MACHINE = Machine("aaaabbbbcccc", "AMD EPYC 9554", 64, 2.0**38, "Linux-6.18", "3.11.7")
SERVER = ServerFacts(
    "http://gpu1:8188",
    "0.3.75",
    "2.9.1+cu128",
    "3.11.7",
    "posix",
    ("--port", "8188", "--fast"),
    (Device("cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "cuda", 25_386_352_640.0),),
)


def golden() -> Record:
    """Return the run of the golden files, which has a value in every field."""
    node = NodeInterval("3", "KSampler", 1.2, 2.9, ((1.3, 1.0), (2.9, 20.0)))
    load = load_of(
        outcome(-9.0, warmup=True),
        outcome(0.0, nodes=(node,), text="a cat", inputs={"KSampler.steps": 20}, seeds={"3.seed": 2**63}),
        failure(OutcomeStatus.OOM, error="CUDA out of memory", contended=True, cached=("VAELoader",)),
        title="test_slo.py::test_slo",
        scenario="txt2img, 1 user × 2 iterations",
        load="1 user × 2 iterations",
        parameters="a-5",
        run_id="20260131T120000-0123abcd",
        notes=("a note",),
        subject={"KSampler.steps": 20, "LoraLoader.lora_name": ["a", "b"]},
        server_facts=(dataclasses.replace(SERVER, custom_nodes={"a-pack": "abc1234"}),),
        server_usage=(UsageSample("http://gpu1:8188", 1.0, 2e9, 3e9),),
        gpu_sources=("nvml:GPU-1",),
        gpu_facts=(GpuFacts("http://gpu1:8188", "GPU-1", "NVIDIA L4", 24e9, "550.54.15", "12.4", 72.0, False),),
        gpu_usage=(
            GpuSample("http://gpu1:8188", "GPU-1", 1.0, 1.0, 93.0, 8e9, 24e9, 71.0, 400.0, 1e3, 2500.0, ("power",)),
        ),
    )  # fmt: skip
    come = Provenance(
        machine=MACHINE,
        commit=COMMIT,
        parents=("f" * 40,),
        branch="main",
        dirty=True,
        title="Faster",
        author="Ada",
        date=1.7e9,
        tag="v1.2",
        label="before the upgrade",
        base="main",
        merge_base=COMMIT,
        repository="https://github.com/o/r",
        ci=Ci("GitHub", "https://github.com/o/r/actions/runs/1", "1/1", "main", None, None, None, "v1.2"),
        comfyload="0.1.0",
        notes=("the clone is shallow",),
    )
    check = Check("generation_time.p95", 2.0, "s", 2, "<", 12.0, True)
    shown = KeptPicture("11111111-2222-3333-4444-555555555555", "slowest", "image/webp", b"RIFF\xff", 256, 128)
    return record_of(load, come, (TestChecks("test_slo.py::test_slo", (check,)),), pictures=(shown,))


def record(number: int = 0, **different: Any) -> Record:
    """Return the record of run `number`; `different` also takes fields of its provenance by name."""
    fields = set(Provenance.__struct_fields__) - {"title"}
    come = {"commit": COMMIT, "branch": "main"} | {key: different.pop(key) for key in fields & different.keys()}
    facts = {"run_id": f"20260131T{number:06d}-0123abcd", "epoch": 1.7e9 + number} | different
    return record_of(load_of(outcome(generation=2.0 + number), **facts), Provenance(**come))


def row(number: int = 0, **different: Any) -> Row:
    """Return the row of run `number`."""
    plain: dict[str, Any] = {
        "file": f"{number}.run",
        "run_id": f"20260131T{number:06d}-0123abcd",
        "time": 1.7e9 + number,
        "state": "valid",
        "fingerprint": "01234567",
        "test": "test_slo",
        "scenario": "txt2img, 1 user",
        "workflow": "txt2img",
        "simulated": False,
        "prompts": 3,
    }
    return Row(**(plain | different))


def _countable(made: Outcome) -> Outcome:
    """Return the outcome with counters that fit into 64 bits."""
    return dataclasses.replace(made, user=made.user % 1000, iteration=made.iteration % 1000)


_WORDS = st.none() | st.text()
_PROVENANCE = st.builds(
    Provenance,
    machine=st.none() | st.just(MACHINE),
    commit=st.none() | st.from_regex(r"[0-9a-f]{7,40}", fullmatch=True),
    branch=_WORDS,
    dirty=st.none() | st.booleans(),
    title=_WORDS,
    author=_WORDS,
    date=st.none() | st.floats(0, 1e10),
    tag=_WORDS,
    label=_WORDS,
    ci=st.none() | st.builds(Ci, st.text(), _WORDS, _WORDS),
    notes=st.lists(st.text(), max_size=2).map(tuple),
)
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
_FIGURES = st.dictionaries(st.text(), _PLAIN, max_size=4)
_CHECKS = st.builds(
    Check,
    metric=st.text(),
    value=st.floats(allow_nan=False),
    unit=st.text(),
    n=st.integers(0, 1000),
    op=st.sampled_from(["<", "=="]),
    bound=st.floats(allow_nan=False),
    passed=st.booleans(),
)
PICTURES = st.builds(
    KeptPicture,
    prompt_id=st.text(),
    why=st.sampled_from(["slowest", "typical", "bad"]),
    media_type=st.just("image/webp"),
    content=st.binary(max_size=50),
    width=st.integers(1, 256),
    height=st.integers(1, 256),
)
_FACTS: st.SearchStrategy[RunFacts] = st.builds(
    lambda title, notes: load_of(title=title, notes=tuple(notes)).facts,
    st.text(),
    st.lists(st.text(), max_size=2),
)
RECORDS = st.builds(
    Record,
    run_id=st.from_regex(r"[0-9T]{1,20}-[0-9a-f]{8}", fullmatch=True),
    time=st.floats(0, 1e10),
    state=st.sampled_from(["valid", "incomplete"]),
    fingerprint=st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    environment=_FIGURES,
    subject=_FIGURES,
    provenance=_PROVENANCE,
    figures=_FIGURES,
    checks=st.lists(st.builds(TestChecks, st.text(), st.lists(_CHECKS, max_size=2).map(tuple)), max_size=2).map(tuple),
    facts=_FACTS,
    outcomes=st.lists(OUTCOMES.map(_countable), max_size=3).map(tuple),
    pictures=st.lists(PICTURES, max_size=2).map(tuple),
)
