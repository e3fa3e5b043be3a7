"""How the prompts of a run were submitted, as far as it can be done again: who sent them, when, and to whom."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pytest_comfyload.metrics.queueing import Dispatch
from pytest_comfyload.metrics.replay import Arrivals, Plan, Users
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import ExecutorName, RunFacts

__all__ = ["Submission", "submission_of"]

_CLOSED: tuple[ExecutorName, ...] = ("per-user iterations", "shared iterations", "constant users")


@dataclass(frozen=True, slots=True)
class Submission:
    """Prompt number k of the plan is outcome number `order[k]`; in place of one that no user came to stands another."""

    plan: Plan
    order: Sequence[int]
    servers: Sequence[str]
    dispatch: Dispatch


def submission_of(facts: RunFacts, outcomes: Sequence[Outcome]) -> Submission | str:
    """Of a whole run; a text where it cannot be done again: why not."""
    if (objection := _objection(facts, outcomes)) is not None:
        return objection
    dispatch = cast("Dispatch", facts.balance)
    if facts.executors[0] in _CLOSED:
        return Submission(*_of_users(facts, outcomes), facts.servers, dispatch)
    order = sorted(range(len(outcomes)), key=lambda k: (outcomes[k].intended, _started(outcomes[k])))
    return Submission(Arrivals(tuple(outcomes[k].intended for k in order)), order, facts.servers, dispatch)


def _objection(facts: RunFacts, outcomes: Sequence[Outcome]) -> str | None:
    open_load = facts.open_load or facts.executors == ("burst",)
    several = len(facts.servers) > 1
    if len(facts.executors) != 1:
        return "a load of several groups cannot be replayed" if facts.executors else "how its load came is not known"
    if not open_load and facts.executors[0] not in _CLOSED:
        return f"{facts.executors[0]} cannot be replayed"
    if facts.workers:
        return "what its balancer would do cannot be replayed"
    if several and open_load and facts.balance == "sticky":
        return "arrivals that stick to servers cannot be replayed"
    if facts.intended > facts.submitted:
        return "a load with dropped arrivals cannot be replayed"
    if any(outcome.status is OutcomeStatus.CENSORED for outcome in outcomes):
        return "a load that was cut off cannot be replayed"
    iterations = Counter(outcome.user for outcome in outcomes).values()
    if facts.executors[0] == "per-user iterations" and len(set(iterations)) > 1:
        return "a load that was ended early cannot be replayed"
    return None


def _of_users(facts: RunFacts, outcomes: Sequence[Outcome]) -> tuple[Users, Sequence[int]]:
    numbers = _numbers(outcomes, in_order_of_start=facts.balance != "sticky" or len(facts.servers) == 1)
    count = len(numbers)
    places = [outcome.iteration * count + numbers[outcome.user] for outcome in outcomes]
    known = dict(zip(places, range(len(outcomes)), strict=True))
    order = [known.get(k, k % len(outcomes)) for k in range(max(places) + 1)]
    pauses = _pauses(dict(zip(places, outcomes, strict=True)), count)
    match facts.executors[0]:
        case "per-user iterations":
            plan = Users(count, iterations=len(outcomes) // count, pauses=pauses)
        case "shared iterations":
            plan = Users(count, shared=len(outcomes), pauses=pauses)
        case _:
            start, end = facts.window
            plan = Users(count, duration=end - start, pauses=pauses)
    return plan, order


def _numbers(outcomes: Sequence[Outcome], *, in_order_of_start: bool) -> dict[int, int]:
    """Users by the order of their first prompts, as the server took them; or as they are, for they choose servers."""
    firsts = [outcome for outcome in outcomes if outcome.iteration == 0]
    if in_order_of_start:
        firsts.sort(key=_started)
    else:
        firsts.sort(key=lambda outcome: outcome.user)
    return {outcome.user: number for number, outcome in enumerate(firsts)}


def _pauses(known: Mapping[int, Outcome], users: int) -> tuple[float, ...]:
    """What passed after each prompt until its user's next one was due; where that is not known, the median."""
    measured = {
        k: max(0.0, known[k + users].intended - outcome.end)
        for k, outcome in known.items()
        if k + users in known and outcome.end is not None
    }
    usual = statistics.median(measured.values()) if measured else 0.0
    return tuple(measured.get(k, usual) for k in range(max(known) + 1))


def _started(outcome: Outcome) -> float:
    line = outcome.timeline
    return math.inf if line is None or line.started is None else line.started
