"""Notes on a run: sentences that a reader must know in addition to its figures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from pytest_comfyload.client.outputs import PIXELS_PER_SECOND
from pytest_comfyload.engine.plan import EngineReport
from pytest_comfyload.history.limits import MOST_RUN_TIME
from pytest_comfyload.history.spool import Spool
from pytest_comfyload.image_containers import MAX_PIXELS
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.result.generation_parts import is_loader, step_time, weights_time
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus, warm_up_failures
from pytest_comfyload.result.validity import credibility_notes
from pytest_comfyload.run.prepare import FittedPart

__all__ = ["clock_notes", "contended_prompts", "guessed_times", "lost_spool", "notes_of", "reloads_after_oom"]

# Number of node classes with guessed times, and of files, that a note names at most.
_SHOWN = 7


def clock_notes() -> tuple[str, ...]:
    """Return a note if this machine's clock is so wrong that the run cannot be stored."""
    if 0 <= time.time() <= MOST_RUN_TIME:
        return ()
    return ("this machine's clock is before 1970 or after 2286, so that the run cannot be kept; set the clock",)


def guessed_times(fitted: Sequence[FittedPart], *, private: bool) -> tuple[str, ...]:
    """Return a note on node times that a simulator had to guess."""
    classes = list(dict.fromkeys(name for each in fitted for name in each.guessed))
    if not classes:
        return ()
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    # Private servers are the plugin's own simulators; any other was started by `comfyload simulate`.
    prefix = "--comfyload-" if private else "`comfyload simulate` --"
    how = f"set them with {prefix}node-time CLASS=SECONDS or take them from a run with {prefix}calibrate RUN"
    return (f"times of {', '.join(classes[:_SHOWN])}{more} are guessed by the simulator; {how}",)


def lost_spool(spool: Spool) -> str:
    """Return a note that the run could not be stored, why, and what to do."""
    return (
        f"{spool.path.parent} could not be written ({spool.lost}): the run is complete in this session, but not "
        "in the store; free some space there, or give --comfyload-store"
    )


def contended_prompts(outcomes: Sequence[Outcome]) -> int:
    """Return the number of measured prompts that shared the server with foreign ones."""
    return sum(1 for outcome in outcomes if outcome.contended and not outcome.warmup)


def _unwarmed(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the workers behind a balancer that ran measured prompts, but none of the warm-up, if there was one."""
    warmed = {outcome.ran_on for outcome in outcomes if outcome.warmup and outcome.succeeded}
    ran = {outcome.worker for outcome in outcomes if outcome.worker is not None and not outcome.warmup}
    return sorted(ran - warmed) if any(outcome.warmup for outcome in outcomes) else []


def notes_of(report: EngineReport, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Return notes on what happened in a run that was completed or stopped."""
    notes = [f"stopped early: {report.aborted}"] if report.aborted else []
    if contended := contended_prompts(outcomes):
        foreign = counted(report.foreign, "foreign prompt")
        notes.append(f"{counted(contended, 'prompt')} contended: up to {foreign} queued")
    warm_ups = [outcome for outcome in outcomes if outcome.warmup]
    if any(outcome.executed for outcome in warm_ups) and (failures := warm_up_failures(warm_ups)):
        notes.append(failures)
    if blank := [outcome for outcome in outcomes if not outcome.warmup and outcome.blank]:
        names = ", ".join(file.filename for file in blank[0].blank)
        prompts = counted(len(blank), "prompt")
        notes.append(f"{prompts} delivered blank pictures, in which every channel is constant: {names}")
    if undecoded := [outcome for outcome in outcomes if outcome.succeeded and outcome.undecoded]:
        names = ", ".join(file.filename for file in undecoded[0].undecoded[:_SHOWN])
        prompts = counted(len(undecoded), "prompt")
        notes.append(
            f"{prompts} delivered pictures that were not decoded, since they have more than {MAX_PIXELS / 1e6:.0f} "
            f"million pixels or a format that this Pillow does not support: {names}"
        )
    if unread := sum(len(outcome.header_only) for outcome in outcomes):
        decoded = sum(1 for outcome in outcomes for file in outcome.results if file.pixels is not None)
        notes.append(
            f"{decoded} of {decoded + unread} pictures were decoded, a random sample, since more than "
            f"{PIXELS_PER_SECOND / 1e6:.1f} million pixels a second arrived; of the others the size, header and "
            "container were checked"
        )
    if unwarmed := _unwarmed(outcomes):
        notes.append(f"{', '.join(unwarmed)} could not be warmed up directly: measured prompts loaded models there")
    if reloads := reloads_after_oom(outcomes):
        seconds = sum(outcome.model_load_time for outcome in reloads)
        notes.append(
            f"after running out of memory, {counted(len(reloads), 'prompt')} loaded models again, in {seconds:.1f} s"
        )
    if report.silent_ooms:
        notes.append(f"the servers' logs report {report.silent_ooms} or more retries after running out of memory")
    return (*notes, *credibility_notes(report.clock_steps, report.stalls, report.window[0], outcomes))


def reloads_after_oom(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the prompts that reloaded models, each the first to succeed on its server after an out-of-memory error."""
    reloads = []
    warm: set[tuple[str, str]] = set()
    unloaded: set[str] = set()
    for outcome in _in_order_of_running(outcomes):
        if outcome.status is OutcomeStatus.OOM:
            unloaded.add(outcome.ran_on)
        elif outcome.succeeded:
            if outcome.ran_on in unloaded and (outcome.ran_on, outcome.workflow) in warm and _loads(outcome):
                reloads.append(outcome)
            unloaded.discard(outcome.ran_on)
            warm.add((outcome.ran_on, outcome.workflow))
    return reloads


def _in_order_of_running(outcomes: Iterable[Outcome]) -> Sequence[Outcome]:
    timelines = ((outcome.timeline, outcome) for outcome in outcomes)
    timed = [
        (timeline.started, outcome) for timeline, outcome in timelines if timeline and timeline.started is not None
    ]
    return [outcome for _, outcome in sorted(timed, key=lambda pair: pair[0])]


def _loads(outcome: Outcome) -> bool:
    """Return whether the prompt loaded models.

    A loader ran, or a sampler took longer than one step to get ready, which is not by chance.
    """
    return any(is_loader(node.class_type) or weights_time(node) > (step_time(node) or 0.0) for node in outcome.nodes)
