"""The service times of measured loads, the strata within which they are resampled, and how prompts were submitted."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import cast

from pytest_comfyload.metrics.load_plan import Arrivals, Plan, Pools, Service, Users
from pytest_comfyload.metrics.queueing import Dispatch
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import ExecutorName, RunFacts

__all__ = [
    "Submission",
    "deviations",
    "gaps_between",
    "kinds_of",
    "pools",
    "services_in",
    "services_of",
    "submission_of",
]


def services_of(
    runs: Sequence[Sequence[Outcome]], among: Sequence[Sequence[Outcome]] | None = None
) -> tuple[Service, ...]:
    """Return a service for each measured prompt of some runs, failures included; censored prompts are left out."""
    services = services_in(runs, among)
    return tuple(service for run in services for service in run if service is not None)


def services_in(
    runs: Sequence[Sequence[Outcome]], among: Sequence[Sequence[Outcome]] | None = None
) -> list[list[Service | None]]:
    """Return, for each run, a service for each outcome; None if the outcome says nothing about the server.

    A prompt occupies its server for its generation and for the time that the server then needs before it starts the
    next one. A failure occupies the server, if its execution began, for as long as it ran, or for the longest
    generation if that is unknown.

    Args:
        runs: The outcomes of each run, or of a part of it.
        among: For each run, all outcomes of its servers, if `runs` has only some of them.
    """
    gaps = _gaps_after(runs if among is None else among)
    longest = functools.cache(functools.partial(_longest, runs))
    return [[_service(outcome, gaps[id(outcome)], longest) for outcome in run] for run in runs]


def _longest(runs: Sequence[Sequence[Outcome]]) -> float:
    """Return the seconds of the longest generation."""
    judged = (each for run in runs for each in run if each.status is not OutcomeStatus.CENSORED)
    return max((each.generation_time or 0.0 for each in judged), default=0.0)


def _service(outcome: Outcome, gap: float, longest: Callable[[], float]) -> Service | None:
    line = outcome.timeline
    if outcome.status is OutcomeStatus.SUCCESS:
        if line is None or line.accepted is None or line.started is None or line.ended is None or line.fetched is None:
            return None  # the server's timestamps are void
        generation, queue = line.ended - line.started, line.started - line.accepted
        total = line.send_lag + (line.fetched - line.sent)
        return Service(generation + gap, generation, total - queue - generation)
    if outcome.status is OutcomeStatus.CENSORED:
        return None
    began = line is not None and line.started is not None
    ran = outcome.generation_time if outcome.generation_time is not None else longest()
    return Service(occupied=ran + gap if began else 0.0, generation=math.inf)


def _gaps_after(runs: Sequence[Sequence[Outcome]]) -> dict[int, float]:
    """Return the seconds that the server needs after each outcome, by `id`, before it can start the next prompt.

    Each outcome has its own gap, since servers sometimes pause for much longer than the median. An outcome that no
    prompt waited for takes the gap of another one, in turn, but at most the time for which the server was seen idle.
    """
    measured: dict[int, float] = {}
    idle: dict[int, float] = {}
    for run in runs:
        for outcome, gap, waited in _gaps(run):
            (measured if waited else idle)[id(outcome)] = gap
    spare = itertools.cycle(list(measured.values()) or [0.0])
    return {
        id(outcome): measured[id(outcome)]
        if id(outcome) in measured
        else min(next(spare), idle.get(id(outcome), math.inf))
        for run in runs
        for outcome in run
    }


def gaps_between(runs: Iterable[Iterable[Outcome]]) -> list[float]:
    """Return the seconds between the end of a prompt and the start of the next, if that one was already waiting."""
    return [gap for run in runs for _, gap, waited in _gaps(run) if waited]


def _gaps(outcomes: Iterable[Outcome]) -> Iterator[tuple[Outcome, float, bool]]:
    """Yield an outcome, the seconds until its server started the next one, and whether that one was already waiting.

    Gaps in which another prompt may have run are left out: those between contended outcomes, and those during a prompt
    with void timestamps.
    """
    by_server: dict[str, list[tuple[float, float | None, float, Outcome]]] = defaultdict(list)
    unseen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for outcome in outcomes:
        line, server = outcome.timeline, outcome.worker or outcome.server
        if line is not None and line.void:
            unseen[server].append((line.sent, math.inf if line.fetched is None else line.fetched))
        elif line is not None and line.started is not None and line.accepted is not None:
            by_server[server].append((line.started, line.ended, line.accepted, outcome))
    for server, ran in by_server.items():
        ran.sort(key=itemgetter(0))
        hidden = _touches(unseen[server])
        for (_, ended, _, before), (started, _, accepted, after) in itertools.pairwise(ran):
            if ended is None or before.contended or after.contended:
                continue
            if not hidden(ended, started):
                yield before, max(0.0, started - ended), accepted <= ended


def _touches(spans: Sequence[tuple[float, float]]) -> Callable[[float, float], bool]:
    """Return a function that says whether an interval overlaps any of the spans in more than an end point."""
    begins, ends = zip(*sorted(spans), strict=True) if spans else ((), ())
    latest = list(itertools.accumulate(ends, max))

    def touches(begin: float, end: float) -> bool:
        before = bisect_left(begins, end)  # spans that begin earlier than the interval ends
        return before > 0 and latest[before - 1] > begin

    return touches


def pools(
    kinds: Sequence[int],
    outcomes: Sequence[Outcome],
    services: Sequence[Service],
    servers: Sequence[str],
    order: Sequence[int],
) -> Pools:
    """Return the pools of services by kind and server; if no prompt of a kind ran on a server, those of all servers.

    Prompt number k is outcome number `order[k]`.
    """
    there: dict[tuple[int, str], list[Service]] = defaultdict(list)
    for kind, outcome, service in zip(kinds, outcomes, services, strict=True):
        there[kind, outcome.server].append(service)

    @functools.cache
    def anywhere(kind: int) -> list[Service]:
        return [service for each, service in zip(kinds, services, strict=True) if each == kind]

    rows = [
        [there.get((kind, server)) or anywhere(kind) for server in servers]
        for kind in range(max(kinds, default=-1) + 1)
    ]
    return Pools(rows, [kinds[place] for place in order])


def deviations(kinds: Sequence[int], outcomes: Sequence[Outcome]) -> list[list[float]]:
    """Return, by server in order of execution, each generation time's deviation from the mean of its kind there."""
    by_server: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for kind, outcome in zip(kinds, outcomes, strict=True):
        line = outcome.timeline
        if outcome.status is not OutcomeStatus.SUCCESS or line is None or line.started is None or line.ended is None:
            continue
        by_server[outcome.worker or outcome.server].append((line.started, line.ended - line.started, kind))
    return [_from_means(ran) for ran in by_server.values()]


def _from_means(ran: list[tuple[float, float, int]]) -> list[float]:
    """Return the deviations from the means of one server's prompts (start, generation time, kind), by start."""
    ran.sort(key=itemgetter(0))
    times: dict[int, list[float]] = defaultdict(list)
    for _, generation, kind in ran:
        times[kind].append(generation)
    means = {kind: statistics.fmean(values) for kind, values in times.items()}
    return [generation - means[kind] for _, generation, kind in ran]


def kinds_of(outcomes: Sequence[Outcome]) -> list[int]:
    """Return a number for the kind of each outcome, which is its workflow and cache class.

    A failure that ended before its cache class was known has the most common one of its workflow.
    """
    seen: dict[str, Counter[CacheClass]] = defaultdict(Counter)
    pairs = [(outcome.workflow, outcome.cache_class) for outcome in outcomes]
    for (workflow, cache_class), count in (found := Counter(pairs)).items():
        if cache_class is not None:
            seen[workflow][cache_class] += count
    usual = {workflow: classes.most_common(1)[0][0] for workflow, classes in seen.items()}
    numbers: dict[tuple[str, CacheClass | None], int] = {}
    kinds = {pair: numbers.setdefault((pair[0], pair[1] or usual.get(pair[0])), len(numbers)) for pair in found}
    return [kinds[pair] for pair in pairs]


_CLOSED: tuple[ExecutorName, ...] = ("per-user iterations", "shared iterations", "constant users")


@dataclass(frozen=True, slots=True)
class Submission:
    """How a run was submitted.

    Prompt number k of the plan is outcome number `order[k]`; a prompt that was never sent is replaced by another one.
    """

    plan: Plan
    order: Sequence[int]
    servers: Sequence[str]
    dispatch: Dispatch


def submission_of(facts: RunFacts, outcomes: Sequence[Outcome]) -> Submission | str:
    """Return how a whole run was submitted, or a text that says why that cannot be replayed."""
    if (objection := _objection(facts, outcomes)) is not None:
        return objection
    dispatch = cast("Dispatch", facts.balance)
    if facts.executors[0] in _CLOSED:
        return Submission(*_of_users(facts, outcomes), facts.servers, dispatch)
    due = [(outcome.intended, _started(outcome)) for outcome in outcomes]
    order = sorted(range(len(due)), key=due.__getitem__)
    return Submission(Arrivals(tuple([due[k][0] for k in order])), order, facts.servers, dispatch)


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
    """Number the users by the start of their first prompts, or as they are, if their numbers select servers."""
    firsts = [outcome for outcome in outcomes if outcome.iteration == 0]
    if in_order_of_start:
        firsts.sort(key=_started)
    else:
        firsts.sort(key=lambda outcome: outcome.user)
    return {outcome.user: number for number, outcome in enumerate(firsts)}


def _pauses(known: Mapping[int, Outcome], users: int) -> tuple[float, ...]:
    """Return the pause after each prompt until its user's next one was due; the median if it is unknown."""
    prompts = [known.get(k) for k in range(max(known) + 1)]
    ends = [None if outcome is None else outcome.end for outcome in prompts]
    pauses = [
        max(0.0, following.intended - end) if following is not None and end is not None else None
        for following, end in zip(prompts[users:] + [None] * users, ends, strict=False)
    ]
    measured = [pause for pause in pauses if pause is not None]
    usual = statistics.median(measured) if measured else 0.0
    return tuple([usual if pause is None else pause for pause in pauses])


def _started(outcome: Outcome) -> float:
    line = outcome.timeline
    return math.inf if line is None or line.started is None else line.started
