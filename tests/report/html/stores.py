"""Stores to report on: small histories by the real code, and texts that try to be more than text."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import msgspec
from PIL import Image

from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.record import Record
from pytest_comfyload.history.store import Store
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import Device, ServerFacts
from tests.benchmarks.histories import record

__all__ = ["COMMITS", "HOSTILE", "hostile_store", "small_store", "with_pictures"]

COMMITS = 24
_H100 = ServerFacts(
    "http://gpu2:8188", "0.3.75", "2.6.0", "3.11.9", "posix", (),
    (Device("cuda:0 NVIDIA H100 80GB HBM3 : cudaMallocAsync", "cuda", 80 * 1024.0**3),),
)  # fmt: skip

# Each would set `pwned` if a reader executed it as code.
HOSTILE = (
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=1</script>",
    "<!--<script>window.pwned=1",
    "<img src=x onerror='window.pwned=1'>",
    '"><svg onload=window.pwned=1>',
    "'-window.pwned=1-'",
    "javascript:window.pwned=1//",
    "{{ 7*7 }}{% print(1) %}${window.pwned=1}",
    "\u2028window.pwned=1\u2029",
    "</textarea></title></style><iframe srcdoc='<script>parent.pwned=1</script>'>",
    '\x00\u202e=HYPERLINK("http://x.example")',
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",
)


def small_store(folder: Path) -> Store:
    """Store 24 commits of three scenarios: one slower at the last, one also on another GPU, one missing at the end."""
    store = Store.open(folder)
    for number in range(COMMITS):
        branch = "main" if number % 7 or number < 3 else "feature/faster"
        come = {"branch": branch, "session": f"session {number}"}
        store.add(record(number, 0, level=2.6 if number == COMMITS - 1 else 2.0, come=come))
        store.add(record(number, 1, come=come))
        if number % 2:
            store.add(_again(record(number, 1, level=1.0, come=come, facts={"server_facts": (_H100,)})))
        if number < COMMITS - 2:
            store.add(record(number, 2, come=come))
    return store


def with_pictures(made: Record, colour: str) -> Record:
    """Add a thumbnail to each of the first two prompts, which have the same place in every run."""
    drawn = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(drawn, "WEBP")
    kept = (KeptPicture(each.prompt_id, "first", "image/webp", drawn.getvalue(), 64, 48) for each in made.outcomes[:2])
    return msgspec.structs.replace(made, pictures=tuple(kept))


def _again(made: Record) -> Record:
    return msgspec.structs.replace(made, run_id=f"{made.run_id}-h100", time=made.time + 1)


def hostile_store(folder: Path) -> Store:
    """Store runs in which each text that comes from outside is hostile once."""
    store = Store.open(folder)
    for number, text in enumerate(HOSTILE * 2):
        come = {
            "title": text, "author": text, "branch": "main", "label": text, "tag": text, "repository": text,
            "notes": (text,), "base": text, "merge_base": text,
        }  # fmt: skip
        facts = {
            "title": text if number % 2 else "plain", "scenario": text, "workflow": text, "notes": (text,),
            "subject": {text: text, "n": number}, "gpu_sources": (text,), "load": "same", "invalid": None,
        }  # fmt: skip
        made = record(number, come=come, facts=facts)
        # Only runs without failures can be compared.
        status = OutcomeStatus.OOM if number < len(HOSTILE) else OutcomeStatus.SUCCESS
        outcomes = tuple(replace(_spoiled(each, text), status=status) for each in made.outcomes)
        nodes = {text: {"n": 1, "mean": 1.0, "p50": 1.0}}
        figures = {**made.figures, "node_time": nodes, "invalid_because": text, "errors": {text: 1}}
        store.add(msgspec.structs.replace(made, outcomes=outcomes, figures=figures))
    return store


def _spoiled(outcome: Outcome, text: str) -> Outcome:
    files = tuple(replace(file, filename=text, subfolder=text) for file in outcome.outputs)
    return replace(outcome, text=text, error=text, server=text, outputs=files, prompt_id=text)
