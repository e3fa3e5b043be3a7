"""Every way in which a prompt can fail has its own error kind and message, and leaves the server clean."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.errors import WorkflowNotServable
from pytest_comfyload.history.spool import read_spool, spool_folder
from pytest_comfyload.result.outcome import CacheClass, OutcomeStatus
from tests.contract.loads import fetched, probe, run
from tests.real_comfyui.target import Target

FAIL = {"3": {"class_type": "ProbeFail", "inputs": {"image": ["1", 0]}}}
OOM = {"3": {"class_type": "ProbeOOM", "inputs": {"image": ["1", 0]}}}


def _then(nodes: dict[str, Any]) -> dict[str, Any]:
    return {**nodes, "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "probe"}}}


def _queue_is_empty(target: Target) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        queue = fetched(f"{target.url}/queue")
        if not queue["queue_running"] and not queue["queue_pending"]:
            return True
        time.sleep(0.05)
    return False


def test_out_of_memory(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(0.1, _then(OOM)), iterations=2, warmup=0)
    assert load.oom_errors == 2
    assert load.success_rate == 0
    assert "ProbeOOM (node 3): torch.OutOfMemoryError: CUDA out of memory" in str(load.outcomes[0].error)


def test_execution_error(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(0.1, _then(FAIL)), warmup=0)
    assert load.errors["execution_error"] == 1
    assert "ProbeFail (node 3): ValueError" in str(load.outcomes[0].error)
    assert float(load.generation_time.p50) == float("inf")


def test_interrupted_by_somebody(target: Target, tmp_path: Path) -> None:
    def interrupt() -> None:
        while not fetched(f"{target.url}/queue")["queue_running"]:
            time.sleep(0.02)
        urllib.request.urlopen(urllib.request.Request(f"{target.url}/interrupt", b"{}", method="POST"), timeout=10)

    thread = threading.Thread(target=interrupt)
    thread.start()
    load = run(target, tmp_path, probe(20.0), warmup=0)
    thread.join()
    assert load.errors["interrupted"] == 1


def test_rejected_by_the_server(target: Target, tmp_path: Path) -> None:
    """A link of the wrong type, which only the server can detect."""
    wrong = {"2": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "probe"}}}
    latent = {"4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}}
    load = run(target, tmp_path, probe(0.1, {**wrong, **latent}), warmup=0)
    assert load.errors["rejected"] == 1
    assert "Return type mismatch" in str(load.outcomes[0].error)


def test_partial_when_the_server_drops_an_output(target: Target, tmp_path: Path) -> None:
    dropped = {
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "dropped"}},
    }
    load = run(target, tmp_path, probe(0.1, dropped), warmup=0)
    assert load.errors["partial"] == 1
    assert load.outcomes[0].generation_time is not None


def test_timeout_counts_from_the_start_of_execution_and_removes_the_prompt(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(60.0), warmup=0, timeout="2s")
    assert load.timeouts == 1
    assert load.outcomes[0].error == "the prompt was executing for 2 s and was given up: timeout='2s'"
    assert _queue_is_empty(target)


def test_what_the_drain_cuts_off_is_censored_and_removed(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(60.0), users=3, duration="1s", drain="1s", warmup=0)
    assert load.errors["censored"] == 3
    assert load.accounting.submitted == 3
    assert _queue_is_empty(target)


def test_a_cached_prompt_is_no_sample(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(0.1), inputs={"ProbeSleep.seed": 7}, iterations=3)
    assert load.cached == 3
    assert {outcome.cache_class for outcome in load.outcomes} == {CacheClass.FULLY}
    assert load.state == "invalid"
    assert "entirely from the server's cache" in str(load.invalid_because)


def test_an_unknown_checkpoint_is_said_before_the_load(target: Target, tmp_path: Path) -> None:
    overrides = {"CheckpointLoaderSimple.ckpt_name": "nowhere.safetensors"}
    with pytest.raises(WorkflowNotServable, match=r"nowhere\.safetensors.*tiny_sd15\.safetensors"):
        run(target, tmp_path, "txt2img", overrides=overrides)


def test_an_unknown_node_class_is_said_before_the_load(target: Target, tmp_path: Path) -> None:
    workflow = probe(0.1, {"9": {"class_type": "ProbeSlep", "inputs": {}}})
    with pytest.raises(WorkflowNotServable, match="ProbeSlep"):
        run(target, tmp_path, workflow)


def test_a_constant_load_ends_with_its_window(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(0.2), users=2, duration="3s")
    assert load.success_rate == 100
    assert load.window == pytest.approx(3.0)
    assert all(outcome.intended < load.facts.window[1] for outcome in load.outcomes)
    late = [outcome for outcome in load.outcomes if outcome.end is not None and outcome.end > load.facts.window[1]]
    assert float(load.prompt_throughput) == pytest.approx(60 * (len(load.outcomes) - len(late)) / 3.0)


def test_a_load_whose_every_warm_up_failed_does_not_start(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(0.1, _then(FAIL)), users=2, iterations=3, warmup=2)
    assert load.state == "invalid"
    assert str(load.invalid_because).startswith(
        "the load did not start: 2 of 2 warm-up prompts failed: 2 execution_error (ProbeFail (node 3): ValueError: "
    )
    assert (load.outcomes, load.accounting.intended) == ((), 0)
    (spool,) = (path for path in spool_folder(tmp_path).iterdir() if path.is_file())
    assert len(list(read_spool(spool))) == 2


def test_a_load_goes_on_after_one_failed_warm_up(target: Target, tmp_path: Path) -> None:
    mix = {"good.json": 1, "bad.json": 1}
    for name, graph in zip(mix, (probe(0.1), probe(0.1, _then(FAIL))), strict=True):
        (tmp_path / name).write_text(json.dumps(graph))
    load = run(target, tmp_path, mix=mix, iterations=2, seed=1)
    assert load.state == "valid"
    assert any(note.startswith("1 of 2 warm-up prompts failed: 1 execution_error (") for note in load.facts.notes)


def test_statuses_are_all_accounted_for(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(0.1), users=2, iterations=2, warmup=0)
    assert load.accounting.by_status == {OutcomeStatus.SUCCESS: 4}
