"""One prompt of the workflow on each worker, to check that its files exist and that the GPU's memory is enough."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.client.event_stream import PendingPrompt
from pytest_comfyload.deploy.examined import Deployment, Finding, cannot_tell, failed, passed
from pytest_comfyload.errors import ComfyloadError, HttpError, ServerError
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.protocol.events import ExecutionError, ExecutionInterrupted
from pytest_comfyload.protocol.json_values import finite
from pytest_comfyload.protocol.oom import is_oom, is_silent_retry
from pytest_comfyload.protocol.prompt_state import Stage
from pytest_comfyload.protocol.system_stats import SystemStats, own_devices, used_memory
from pytest_comfyload.run.target import object_info_of
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.preflight import objections, refuse_paid, respelled
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["Trial", "check_models", "check_vram", "try_workflow"]

# Seconds to wait for one prompt, including loading its models from a slow disk.
PATIENCE = 900.0
# Seconds between two polls of the memory while the prompt runs.
LOOK = 0.2
# Share of the GPU's memory above which other models than the workflow's may be loaded, or the next image may not fit.
FULL = 0.95
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Trial:
    """One prompt of the workflow on one server; `fault` is empty if it succeeded.

    `peak` and `total` are bytes of GPU memory according to /system_stats. `retried` is the line of the log that says
    that the prompt did not fit into memory at first; empty if there is none.
    """

    server: str
    fault: str = ""
    oom: bool = False
    peak: float | None = None
    total: float | None = None
    retried: str = ""


async def try_workflow(server: ServerAddress, workflow: Workflow) -> Trial:
    """Run one prompt of the workflow, and watch the GPU memory meanwhile."""
    try:
        info = ObjectInfo(await object_info_of(server, workflow))
        fitted = respelled(workflow.on(info))
        refuse_paid(fitted, server.url)
        found = [each.sentence for each in objections(fitted.nodes)]
        async with ComfyClient(server) as client:
            return await _run(client, fitted, found)
    except ComfyloadError as error:
        return Trial(server.url, str(error))


async def _run(client: ComfyClient, workflow: Workflow, found: Sequence[str]) -> Trial:
    """Send the prompt and wait for its end; `found` are objections to the workflow. Raises: ServerError."""
    url = client.address.url
    before = set(await _log(client))
    prompt = workflow.vary(random.Random(), text=None, filename_prefix="comfyload-doctor/trial")
    pending = client.expect(str(uuid.uuid4()), prompt.graph)
    try:
        await client.submit(pending, prompt.graph, prompt.extra_data)
    except HttpError as error:
        return Trial(url, "; ".join(found) or str(error))
    peak, total = await _watched(client, pending)
    if not pending.state.stage.over:
        return Trial(url, f"not executed within {PATIENCE:g} s")
    if pending.state.stage is not Stage.SUCCEEDED:
        return _ended_badly(url, pending.state.error, peak, total)
    new = [line for line in await _log(client) if line not in before]
    return Trial(url, peak=peak, total=total, retried=next(filter(_says_too_little, new), ""))


def _ended_badly(
    url: str, error: ExecutionError | ExecutionInterrupted | None, peak: float | None, total: float | None
) -> Trial:
    if not isinstance(error, ExecutionError):
        return Trial(url, "interrupted", peak=peak, total=total)
    said = " ".join(f"{error.node_type}: {error.exception_message}".split())[:300]
    return Trial(url, said, is_oom(error.exception_type, error.exception_message), peak, total)


async def _watched(client: ComfyClient, pending: PendingPrompt) -> tuple[float | None, float | None]:
    """Wait for the end of a prompt; return the peak and total GPU memory in bytes. Raises: ServerError."""
    peak: float | None = None
    total: float | None = None
    loop = asyncio.get_running_loop()
    deadline, ended = loop.time() + PATIENCE, False
    while not ended and loop.time() < deadline:
        ended = await pending.wait_until(lambda state: state.stage.over, LOOK)
        # Polled once more after the end: what a short prompt has loaded is still in memory.
        stats = await client.system_stats()
        total = _vram(stats)
        if total is not None:
            peak = max(peak or 0.0, used_memory(stats)[1])
        entry = await client.history(pending.state.prompt_id)
        if entry is not None:  # its event may have been lost
            pending.state.apply_history(entry, client.clock.now())
    return peak, total


def _vram(stats: SystemStats) -> float | None:
    """Return the bytes of memory of a server's GPUs; None if it runs on the CPU."""
    totals = [finite(device.get("vram_total")) for device in own_devices(stats.raw) if device.get("type") != "cpu"]
    known = [each for each in totals if each is not None]
    return sum(known) if known else None


async def _log(client: ComfyClient) -> list[str]:
    try:
        return [f"{entry.stamp} {entry.message}" for entry in await client.log()]
    except ServerError:
        return []


def _says_too_little(line: str) -> bool:
    return is_silent_retry(line) or "loaded partially" in line


def check_models(deployment: Deployment, trials: Sequence[Trial]) -> Finding:
    """Check that every worker has the files of the workflow, and runs it."""
    if deployment.workflow is None:
        return cannot_tell("no workflow was given", "give --workflow with one that your users send")
    models = ", ".join(sorted(set(deployment.workflow.models().values()))) or "no model"
    if bad := [trial for trial in trials if trial.fault and not trial.oom]:
        return failed(
            "; ".join(f"{trial.server}: {trial.fault}" for trial in bad),
            "put the files into the models folder that all workers mount (MODELS_DIR), readable for their user; custom "
            "nodes into CUSTOM_NODES_DIR",
        )
    if not deployment.workers:
        return cannot_tell(
            f"{deployment.workflow.name} runs with {models}, on one worker at least",
            "name each worker with --worker: the others may lack a file",
        )
    return passed(f"{deployment.workflow.name} runs on {counted(len(trials), 'worker')} with {models}")


def check_vram(deployment: Deployment, trials: Sequence[Trial]) -> Finding:
    """Check that the GPU's memory is enough for the workflow."""
    if deployment.workflow is None:
        return cannot_tell("no workflow was given", "give --workflow with one that your users send")
    smaller = "use a smaller or quantized model, smaller pictures or batches, --lowvram, or a GPU with more memory"
    short = [f"{trial.server}: {trial.fault or trial.retried}" for trial in trials if trial.oom or trial.retried]
    if short:
        return failed("; ".join(short), smaller)
    if ended := [trial for trial in trials if trial.fault]:
        return cannot_tell(f"{ended[0].server} did not run {deployment.workflow.name}", "see the check `models`")
    known = [(each.peak, each.total, each.server) for each in trials if each.peak is not None and each.total]
    if len(known) < len(trials):
        return cannot_tell("a worker reports no GPU memory: it runs on the CPU", "see the check `toolkit`")
    peak, total, server = max(known, key=lambda each: each[0] / each[1])
    share = peak / total
    figure = f"peak {peak / _GIB:.1f} of {total / _GIB:.1f} GiB ({share:.0%}) on {server}, by /system_stats"
    if share > FULL:
        return cannot_tell(
            figure, f"other models may be loaded: POST /free to the workers and try again; else {smaller}"
        )
    return passed(figure)
