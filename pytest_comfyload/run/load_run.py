"""One load run: check everything first, then drive the engine, and keep each outcome as it ends."""

from __future__ import annotations

import dataclasses
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.engine import run_plan
from pytest_comfyload.engine.plan import Plan, Prompt
from pytest_comfyload.history.spool import Spool, spool_folder
from pytest_comfyload.result.load_result import LoadResult, RunFacts
from pytest_comfyload.result.oom import reloads_after_oom
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.run.background import run_in_background
from pytest_comfyload.run.target import Target, exclusively, inspect_target, object_info_of
from pytest_comfyload.scenario.check import check_servable
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.scenario.texts import DEFAULT_TEXTS, PromptText, load_texts
from pytest_comfyload.scenario.workflow import Workflow

__all__ = ["LoadRun", "run_load"]


@dataclass(frozen=True, slots=True)
class LoadRun:
    """What to run and where. Relative paths in the scenario are looked up in `files`; spools go below `store`.

    `overrides` are the command line's inputs, as text by address; those that match no node are left out.
    """

    scenario: Scenario
    servers: tuple[ServerAddress, ...]
    title: str
    files: Path
    store: Path
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    on_target: Callable[[Target], None] = lambda target: None


def run_load(run: LoadRun) -> LoadResult:
    """Run it to its end. Raises: UsageError and ServerError before the load; what a prompt meets is an outcome."""
    return run_in_background(lambda: _run(run))


async def _run(run: LoadRun) -> LoadResult:
    scenario = run.scenario
    workflow = Workflow.load(scenario.workflow, root=run.files)
    texts = load_texts(DEFAULT_TEXTS if scenario.prompts is None else scenario.prompts, root=run.files)
    target = await inspect_target(run.servers)
    run.on_target(target)
    workflow, object_info = await _served(run, workflow, target)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    # An unseeded run draws its own seed: with a fixed one, its second run would come from the server's cache.
    seed = secrets.randbelow(2**32) if scenario.seed is None else scenario.seed
    workflow = workflow.always_running(scenario.must_run, object_info, draws=any(text.inputs for text in texts))
    prompts = [_Text(text.text, _of_text(run, workflow, text, object_info)) for text in texts]
    source = _Source(prompts, seed, scenario.executor.users, f"comfyload/{run_id}/{workflow.name}", object_info)
    async with exclusively(target.servers):
        return await _drive(run, target, workflow.name, run_id, seed, source)


async def _served(run: LoadRun, workflow: Workflow, target: Target) -> tuple[Workflow, Mapping[str, Any]]:
    """The workflow with its inputs, as every server of the target can run it."""
    scenario = run.scenario
    object_info: Mapping[str, Any] = {}
    for server in target.servers:
        object_info = await object_info_of(server, workflow)
        workflow = workflow.with_inputs({**scenario.inputs, **_overrides(run, workflow)}, object_info)
        workflow = check_servable(workflow, object_info, server=server.url, allow_api_nodes=scenario.allow_api_nodes)
    return workflow, object_info


def _overrides(run: LoadRun, workflow: Workflow) -> Mapping[str, str]:
    return {address: text for address, text in run.overrides.items() if workflow.matches(address)}


def _of_text(run: LoadRun, workflow: Workflow, text: PromptText, object_info: Mapping[str, Any]) -> Workflow:
    """The workflow with the inputs that come with a text, and those of the command line above them."""
    if not text.inputs:
        return workflow
    return workflow.with_text(text, object_info).with_inputs(_overrides(run, workflow), object_info)


async def _drive(run: LoadRun, target: Target, workflow: str, run_id: str, seed: int, source: _Source) -> LoadResult:
    scenario = run.scenario
    clock = Clock(target.time_scale or 1.0)
    plan = Plan(
        run_id=run_id,
        workflow=workflow,
        servers=target.servers,
        executor=scenario.executor,
        prompts=source,
        warmup=scenario.warmup,
        timeout=scenario.timeout,
        queue_timeout=scenario.queue_timeout,
        drain=scenario.drain,
        fetch=scenario.fetch,
    )
    outcomes: list[Outcome] = []
    header = {"title": run.title, "scenario": str(scenario), "seed": seed, "servers": target.urls, "epoch": clock.epoch}
    with Spool(spool_folder(run.store), run_id, header) as spool:

        def keep(outcome: Outcome) -> None:
            spool.append(outcome)
            outcomes.append(outcome)

        report = await run_plan(plan, clock, keep)
    facts = RunFacts(
        run_id=run_id,
        title=run.title,
        scenario=str(scenario),
        workflow=workflow,
        servers=target.urls,
        server_versions=tuple(stats.version for stats in target.stats),
        seed=seed,
        epoch=clock.epoch,
        window=report.window,
        time_scale=target.time_scale,
        intended=report.intended,
        submitted=report.submitted,
        loop_lag=report.loop_lag,
        max_send_lag=scenario.max_send_lag,
        allow_cached=scenario.allow_cached,
        notes=_notes(outcomes, report.silent_ooms),
        must_run=scenario.must_run,
        silent_ooms=report.silent_ooms,
        server_usage=report.server_usage,
    )
    return LoadResult(facts, sorted(outcomes, key=lambda outcome: outcome.intended))


class _Text(NamedTuple):
    """A positive prompt and the workflow with the inputs that come with it."""

    text: str
    workflow: Workflow


@dataclass(frozen=True, slots=True)
class _Source:
    """The prompts of a run, each drawn from the run's seed and its own place: the order of arrival changes nothing."""

    texts: Sequence[_Text]
    seed: int
    users: int
    filename_prefix: str
    object_info: Mapping[str, Any]

    def __call__(self, server: str, user: int, iteration: int) -> Prompt:
        index = iteration * self.users + user
        text, workflow = self.texts[index % len(self.texts)]
        return workflow.vary(
            random.Random(f"{self.seed}/{user}/{iteration}"),
            text=text,
            filename_prefix=self.filename_prefix,
            object_info=self.object_info,
            place={"index": index, "user": user, "iteration": iteration},
        )


def _notes(outcomes: Sequence[Outcome], silent_ooms: int | None) -> tuple[str, ...]:
    failed = [outcome for outcome in outcomes if outcome.warmup and not outcome.succeeded]
    notes = [f"a warm-up prompt failed: {outcome.status} ({outcome.error})" for outcome in failed]
    if reloads := reloads_after_oom(outcomes):
        seconds = sum(outcome.model_load_time for outcome in reloads)
        notes.append(f"after running out of memory, {len(reloads)} prompts loaded models again, in {seconds:.1f} s")
    if silent_ooms:
        notes.append(f"the servers' logs tell of {silent_ooms} or more retries for want of memory behind good prompts")
    timelines = [outcome.timeline for outcome in outcomes if outcome.timeline is not None]
    if void := sum(1 for timeline in timelines if timeline.ended is not None and timeline.accepted is None):
        notes.append(f"the server's clock was set during the run: the queue times of {void} prompts are void")
    return tuple(notes)
