"""One load run: check everything first, then run the engine, and store each outcome when its prompt finishes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.engine import run_plan
from pytest_comfyload.engine.plan import EngineReport, Group, Plan
from pytest_comfyload.gpu.spec import GpuSpec
from pytest_comfyload.history.redaction import without_secrets
from pytest_comfyload.history.spool import Spool, spool_folder
from pytest_comfyload.launch.workspace import ServerState
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome, SharedTexts
from pytest_comfyload.result.run_facts import ABHalf, RunFacts
from pytest_comfyload.run.background import run_in_background
from pytest_comfyload.run.distributed import DistributedLoad, expect_distributable, started
from pytest_comfyload.run.gpu_sampling import GpuWatch
from pytest_comfyload.run.judgement import refuse_unservable
from pytest_comfyload.run.launching import RunLaunches, gpu_specs
from pytest_comfyload.run.leftovers import clear_leftovers, empty_memory, refuse_busy, take_out_run
from pytest_comfyload.run.notes import clock_notes, contended_prompts, guessed_times, lost_spool, notes_of
from pytest_comfyload.run.observer import RunObserver
from pytest_comfyload.run.prepare import FittedPart, fit, upload_missing
from pytest_comfyload.run.server_locks import SelectedServers, reserved
from pytest_comfyload.run.subject import model_folders, server_facts, subject_of_parts
from pytest_comfyload.run.target import Target, inspect_target, installed_on, wait_for_quiet
from pytest_comfyload.run.thumbnails import ThumbnailSample
from pytest_comfyload.scenario.executors import OpenExecutor
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.scenario.shape import STRESSING
from pytest_comfyload.workflow.prompts import LoadedPart, expect_gates

__all__ = ["LoadRun", "run_load"]

# Minimum time limit of an exchange with a server, in real seconds, even if the scenario's timeout is shorter.
LEAST_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class LoadRun:
    """What to run, and where.

    Args:
        scenario: The scenario to run.
        servers: The servers that the scenario chooses from.
        title: The title of the run, usually the test.
        files: The folder in which relative paths of the scenario are looked up.
        store: The folder below which spools are written.
        overrides: Inputs from the command line, as text by address; those that match no node are left out.
        allow_busy: Allow a preset that stresses the server to run on one with prompts in its queue.
        delete_leftovers: Remove prompts of killed runs from the servers' queues.
        private: The servers are not known to other processes, and need no lock.
        among: URLs of the servers that a scenario with a number of servers chooses from; all if these are too few.
        generators: The specs of the processes that send the prompts; empty for this process.
        search_from: The place among `servers` where the search for a free server starts.
        observer: Receives what the run reports, and may interrupt it.
        workers: The ComfyUI servers behind the balancer at `servers`; only the warm-up is sent to them directly.
        parameters: The parameters of the test.
        repetition: Identifies a repetition of the same load; empty for the first run. With a fixed seed, each
            repetition derives a seed of its own.
        half: The half of an A/B comparison that this run is. Its servers first drop cached results and models.
        told: Further fields of the spool's header.
        gpus: By URL, where a server's GPUs are read.
        launched: Returns the states of the servers that were launched for this run.
        custom_nodes: By folder, the versions of the custom nodes that launched servers were given.
        keep_pictures: Store some thumbnails with the run.
    """

    scenario: Scenario
    servers: tuple[ServerAddress, ...]
    title: str
    files: Path
    store: Path
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    allow_busy: bool = False
    delete_leftovers: bool = False
    private: bool = False
    among: Collection[str] = ()
    search_from: int = 0
    generators: tuple[str, ...] = ()
    observer: RunObserver = dataclasses.field(default_factory=RunObserver)
    workers: tuple[ServerAddress, ...] = ()
    parameters: str = ""
    repetition: str = ""
    half: ABHalf | None = None
    told: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gpus: Mapping[str, GpuSpec] = dataclasses.field(default_factory=dict)
    keep_pictures: bool = True
    launched: Callable[[], Sequence[ServerState]] = tuple
    custom_nodes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def run_load(run: LoadRun) -> LoadResult:
    """Run a load and return its result. What goes wrong with a prompt is an outcome, not an exception.

    Raises:
        UsageError: Something is wrong with the request. Raised before the load starts.
        ServerError: A server failed before the load started.
        LoadStopped: The observer stopped the run.
    """
    return run_in_background(lambda: _run(run), run.observer.tick, run.observer.stopped)


async def _run(run: LoadRun) -> LoadResult:
    scenario = run.scenario
    parts = [LoadedPart.load(name, part, run.files) for name, part in scenario.parts]
    expect_gates(scenario.gates, parts)
    if run.generators:
        expect_distributable(scenario)
    run = _patient(run)
    async with _selected(run) as chosen:
        return await _run_on(run, chosen, parts)


def _selected(run: LoadRun) -> AbstractAsyncContextManager[SelectedServers]:
    if run.private:
        return contextlib.nullcontext(SelectedServers.by(run.scenario, run.servers))
    return reserved(
        run.scenario,
        run.servers,
        run.workers,
        title=run.title,
        among=run.among,
        search_from=run.search_from,
        say=run.observer.say,
    )


async def _run_on(run: LoadRun, chosen: SelectedServers, parts: Sequence[LoadedPart]) -> LoadResult:
    target = await inspect_target(chosen.servers, run.workers)
    run.observer.on_target(target)
    launched = run.launched()
    gpus = await GpuWatch.of(target, {**gpu_specs(launched), **run.gpus})
    run.observer.on_gpus(gpus.lines)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    seed = _seed(run.scenario.seed, run.repetition)
    fitted = [
        await fit(part, target, servers, run.overrides, seed)
        for part, servers in zip(parts, chosen.of_parts, strict=True)
    ]
    notes = (
        *clock_notes(),
        *guessed_times(fitted, private=run.private),
        *await _before_the_load(run, target, fitted, run_id),
    )
    groups = [each.group(f"{seed}", f"comfyload/{run_id}") for each in fitted]
    installed = await installed_on(target.workers or target.servers, model_folders(fitted), run.custom_nodes)
    begun = dataclasses.replace(
        _begun(run, target, run_id, seed, notes),
        subject=subject_of_parts(fitted, installed),
        nodes={name: counts for each in fitted for name, counts in each.node_counts.items()},
        server_facts=server_facts(target, installed),
        gpu_sources=gpus.lines,
        gpu_facts=gpus.facts,
    )
    async with started(run.generators) as generators:
        return await _drive(run, target, gpus, without_secrets(begun), groups, launched, generators)


def _patient(run: LoadRun) -> LoadRun:
    """Return the run with the scenario's longest `timeout` as the time limit of each exchange with its servers."""
    deadline = max([LEAST_PATIENCE, *(part.timeout for _, part in run.scenario.parts)])

    def limited(servers: Sequence[ServerAddress]) -> tuple[ServerAddress, ...]:
        return tuple(dataclasses.replace(server, deadline=deadline) for server in servers)

    return dataclasses.replace(run, servers=limited(run.servers), workers=limited(run.workers))


def _seed(given: int | None, repetition: str) -> int:
    """Return the run's seed. No two runs share one, since the second would be served from the server's cache."""
    if given is None:
        return secrets.randbelow(2**32)
    if not repetition:
        return given
    return int.from_bytes(hashlib.sha256(f"{given}, {repetition}".encode()).digest()[:4])


async def _before_the_load(run: LoadRun, target: Target, fitted: Sequence[FittedPart], run_id: str) -> tuple[str, ...]:
    """Prepare the servers, and return notes on the run.

    Input files are uploaded, prompts that are already in the queues are handled as requested, and workflows that
    contradict /object_info are validated by the server.

    Raises: UsageError if the load must not start; ServerError.
    """
    # Only the workers themselves know what is in their queues and input folders.
    standing = target.workers or target.servers
    await upload_missing(standing, [file for each in fitted for file in each.files])
    notes = await clear_leftovers(standing, delete=run.delete_leftovers)
    if run.scenario.on_foreign == "wait":
        await wait_for_quiet(standing, run.observer.say)
    for _, part in run.scenario.parts:
        if part.preset in STRESSING and not run.allow_busy:
            await refuse_busy(standing, part.preset)
    notes = (*notes, *await refuse_unservable(fitted, run_id))
    if run.half is not None:
        await empty_memory(standing)
    return notes


async def _drive(
    run: LoadRun,
    target: Target,
    gpus: GpuWatch,
    begun: RunFacts,
    groups: Sequence[Group],
    launched: Sequence[ServerState],
    generators: DistributedLoad | None,
) -> LoadResult:
    scenario = run.scenario
    clock = Clock(target.time_scale or 1.0)
    begun = dataclasses.replace(begun, epoch=clock.epoch)
    album = ThumbnailSample(begun.seed)
    plan = Plan(
        run_id=begun.run_id,
        servers=target.servers,
        groups=tuple(groups),
        seed=begun.seed,
        warmup=scenario.warmup,
        drain=scenario.drain,
        balance=scenario.balance,
        abort_on_failure_rate=scenario.abort_on_failure_rate,
        abort_on_saturation=scenario.abort_on_saturation,
        workers=target.workers,
        show=album.offer if run.keep_pictures else None,
        max_send_lag=scenario.max_send_lag,
    )
    outcomes: list[Outcome] = []
    shared = SharedTexts()
    header = {
        **run.told,
        "title": run.title,
        "servers": target.urls,
        "epoch": clock.epoch,
        "planned": scenario.planned,
        "facts": begun,
    }
    with Spool(spool_folder(run.store), begun.run_id, header) as spool:
        run.observer.on_spool(spool.path)

        def keep(outcome: Outcome) -> None:
            # Names of files and nodes, and other answers of servers, may repeat credentials.
            outcome = shared.within(without_secrets(outcome))
            spool.append(outcome)
            outcomes.append(outcome)
            run.observer.on_outcome(outcome)

        async with gpus.watching(clock):
            report = await run_plan(plan, clock, keep, run.observer.on_progress, generators=generators)
        if generators is not None:
            begun = dataclasses.replace(begun, generators=generators.facts, incomplete=generators.incomplete)
        if begun.incomplete:
            await take_out_run(target.workers or target.servers, begun.run_id)
        outcomes = [report.marked(each) for each in outcomes]
        launches = RunLaunches.of([*target.urls, *begun.workers], launched, run.launched())
        load = LoadResult(without_secrets(_ended(begun, scenario, gpus, report, outcomes, launches)), outcomes)
        spool.end(load, await album.pictures())
    return load if spool.lost is None else LoadResult(_with_note(load.facts, lost_spool(spool)), outcomes)


def _begun(run: LoadRun, target: Target, run_id: str, seed: int, notes: tuple[str, ...]) -> RunFacts:
    """Return the facts that are known when the load starts, which is all that is known if it is cut off."""
    scenario = run.scenario
    parts = [f"{name}: {part.shape}" if name else part.shape for name, part in scenario.parts]
    return RunFacts(
        run_id=run_id,
        title=run.title,
        scenario=str(scenario),
        workflow=scenario.workflow_name,
        servers=target.urls,
        server_versions=tuple(stats.version for stats in target.stats),
        seed=seed,
        epoch=0.0,
        window=(0.0, 0.0),
        time_scale=target.time_scale,
        intended=0,
        submitted=0,
        loop_lag=0.0,
        max_send_lag=scenario.max_send_lag,
        allow_cached=scenario.allow_cached,
        open_load=any(isinstance(part.executor, OpenExecutor) for _, part in scenario.parts),
        notes=notes,
        must_run=scenario.must_run,
        workers=tuple(worker.url for worker in target.workers),
        load="; ".join(parts),
        parameters=run.parameters,
        repetition=run.repetition,
        half=run.half,
        gate=scenario.gates[0],
        gates=scenario.gates,
        executors=tuple(part.executor.name for _, part in scenario.parts),
        balance=scenario.balance,
    )


def _ended(
    begun: RunFacts,
    scenario: Scenario,
    gpus: GpuWatch,
    report: EngineReport,
    outcomes: Sequence[Outcome],
    launches: RunLaunches,
) -> RunFacts:
    invalid, contended = report.invalid, contended_prompts(outcomes)
    if scenario.on_foreign == "fail" and contended:
        invalid = f"{counted(contended, 'prompt')} shared the server with foreign prompts (on_foreign='fail')"
    return dataclasses.replace(
        begun,
        window=report.window,
        intended=report.intended,
        submitted=report.submitted,
        loop_lag=report.loop_lag,
        worst_loop_lag=report.worst_loop_lag,
        stalls=report.stalls,
        invalid=invalid,
        notes=(*begun.notes, *launches.notes, *notes_of(report, outcomes), *gpus.notes),
        silent_ooms=report.silent_ooms,
        server_usage=report.server_usage,
        gpu_usage=gpus.samples,
        cold_starts=launches.cold_starts,
    )


def _with_note(facts: RunFacts, note: str) -> RunFacts:
    return dataclasses.replace(facts, notes=(*facts.notes, note))
