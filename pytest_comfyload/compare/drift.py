"""What changed before the head: an earlier step that was not accepted, and many small ones."""

from __future__ import annotations

import math

from pytest_comfyload.compare.baseline import is_on_base_branch
from pytest_comfyload.compare.lineage import Lineage
from pytest_comfyload.compare.series_comparison import CreepFound, StepFound
from pytest_comfyload.compare.sessions import Session
from pytest_comfyload.compare.track import Track
from pytest_comfyload.metrics.regression import Comparison
from pytest_comfyload.metrics.session_level import ANCHOR, creep_since
from pytest_comfyload.metrics.session_noise import NEAR, SessionNoise, Step, first_session, steps

__all__ = ["creep_found", "step_found"]


def step_found(comparison: Comparison, track: Track) -> StepFound | None:
    """The newest change that led to the level, if it was for the worse."""
    step = comparison.step
    if step is None or step.jump <= 0:
        return None
    return _told(step, len(track.values) - comparison.baseline, track)


def creep_found(
    head: Session, comparison: Comparison, track: Track, noise: SessionNoise, lineage: Lineage
) -> CreepFound | StepFound | None:
    """A slow change, or the earlier step that explains it."""
    scale = track.metric.scale
    value = head.value(track.metric.name, scale)
    begin, end, name = _anchor(head, track, lineage)
    if value is None:
        return None
    anchor, since = track.values[begin:end], [*track.values[end:], value]
    creep = creep_since(anchor, since, noise, scale.least_effect)
    if creep is None:
        return None
    jumps = _steps_after(begin, end, comparison, track)
    if creep.explained(math.fsum(step.jump for step in jumps)):
        return _told(max(jumps, key=lambda step: step.jump), begin, track)
    fails = creep.held and is_on_base_branch(head.newest)
    return CreepFound(scale.change(creep.distance), name, len(since), fails)


def _steps_after(begin: int, end: int, comparison: Comparison, track: Track) -> list[Step]:
    """Those that came after the anchor, by their places from its beginning, each once."""
    values = track.values[begin:]
    found = steps(values, track.metric.scale.grain, track.metric.scale.least_effect)
    if comparison.young and comparison.step is not None:
        at = len(values) - comparison.baseline + comparison.step.at
        found.append(Step(at, comparison.step.jump))
    once = {first_session(values, step): step for step in found}
    return [step for at, step in once.items() if at >= end - begin]


def _anchor(head: Session, track: Track, lineage: Lineage) -> tuple[int, int, str]:
    """From which session to which, and what it is called: the last ten up to the last tag, or else the first ten."""
    first, commit = track.accepted, head.commit
    tag = lineage.newest_tag(commit) if commit else None
    tagged = lineage.up_to(tag[1]) if tag is not None else None
    if tag is not None and tagged is not None:
        end = sum(1 for each in track.sessions if each.commit in tagged)
        if end - first >= NEAR:
            return max(first, end - ANCHOR), end, tag[0]
    name = "the last accepted change" if first else f"the first {ANCHOR} sessions"
    return first, first + ANCHOR, name


def _told(step: Step, begin: int, track: Track) -> StepFound:
    at = begin + first_session(track.values[begin:], step)
    change = track.metric.scale.change(step.jump)
    return StepFound(track.sessions[at], track.sessions[at - 1], change, len(track.sessions) - at)
