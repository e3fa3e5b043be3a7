"""The controller of one load from several generators, each a process on this or another machine.

The plan is fitted to the servers once, and each generator sends its share of it: every n-th arrival, or user. All start
at the same time of the run's clock, which each derives from its own monotonic clock; the offset between two clocks is
measured by the fastest of several round trips. Outcomes come back as prompts finish, and are judged together like those
of a single generator.

A generator is lost when its channel is closed or it falls silent. The others continue, and the run is incomplete.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.plan import EngineReport, Plan, Share
from pytest_comfyload.errors import GeneratorError, UsageError
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import GeneratorFacts
from pytest_comfyload.run.generator import End
from pytest_comfyload.run.generator_channel import (
    CLOCK_PERIOD,
    REMOTE,
    STOP_TIME,
    GeneratorChannel,
    GeneratorLost,
)
from pytest_comfyload.scenario.executors import OpenExecutor, SharedIterations
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.text import harmless

__all__ = ["DistributedLoad", "expect_distributable", "generator_specs", "started"]

T = TypeVar("T")

MOST_GENERATORS = 64
# Seconds that processes have to exit before they are killed.
KILL_TIME = 1.0
# ssh never prompts, and detects an unreachable host within seconds.
SSH_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=3 -o ServerAliveCountMax=2"


def generator_specs(given: Sequence[str]) -> tuple[str, ...]:
    """Parse values such as `4*popen` and `ssh=user@host//python=python3` into execnet specs, one per generator.

    Raises: UsageError.
    """
    specs: list[str] = []
    for text in given:
        match = re.fullmatch(r"(?:(\d{1,3})\*)?((?:popen|ssh=[^/]).*)", text.strip())
        if match is None:
            raise UsageError(
                f"--comfyload-tx {text!r} is not a generator; write popen, 4*popen or ssh=user@host//python=python3"
            )
        specs += [match[2]] * int(match[1] or 1)
    if not len(specs) <= MOST_GENERATORS or (given and not specs):
        raise UsageError(f"--comfyload-tx names {len(specs)} generators; 1 to {MOST_GENERATORS} are possible")
    return tuple(specs)


def expect_distributable(scenario: Scenario) -> None:
    """Check that a scenario can be distributed. Raises: UsageError if generators would have to agree on each prompt."""
    for _, part in scenario.parts:
        if isinstance(part.executor, SharedIterations):
            raise UsageError(
                "shared_iterations= cannot be shared by several generators (--comfyload-tx); give iterations="
            )
        if isinstance(part.executor, OpenExecutor) and part.executor.max_in_flight is not None:
            raise UsageError("max_in_flight= is a limit of one generator, and --comfyload-tx names more; leave it out")


@contextlib.asynccontextmanager
async def started(specs: Sequence[str]) -> AsyncIterator[DistributedLoad | None]:
    """Start the generators, and stop them at the end of the context; yields None if there are none.

    Raises: GeneratorError.
    """
    if not specs:
        yield None
        return
    try:
        import execnet
    except ImportError:
        raise GeneratorError("--comfyload-tx needs execnet: pip install 'pytest-comfyload[distributed]'") from None
    group = execnet.Group()
    try:
        remotes = []
        for number, spec in enumerate(specs):
            name = f"generator {number + 1} of {len(specs)} ({harmless(spec, 100)})"
            remotes.append(GeneratorChannel(name, await asyncio.to_thread(_channel, group, spec, name)))
        for remote in remotes:
            await remote.greet()
        yield DistributedLoad(remotes)
    finally:
        # Shielded, because processes must not outlive a cancelled run either.
        await asyncio.shield(asyncio.to_thread(group.terminate, KILL_TIME))


def _channel(group: Any, spec: str, name: str) -> Any:
    """Start a generator's process, and the code that it runs. Raises: GeneratorError."""
    import execnet

    try:
        spec = spec.replace("ssh=", f"ssh={SSH_OPTIONS} ", 1) if spec.startswith("ssh=") else spec
        return group.makegateway(spec).remote_exec(REMOTE)
    except execnet.HostNotFound:
        why = "ssh cannot log in there; it must not ask for anything (see its message above)"
    except AssertionError:
        why = "its login script prints something; have it print nothing in sessions without a terminal"
    except (OSError, EOFError) as error:
        why = f"its Python did not start ({error or type(error).__name__}); name one with //python=python3"
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    raise GeneratorError(f"{name} cannot be started: {harmless(why, 300)}")


class DistributedLoad:
    """The generators of one load. Afterwards `facts` describe what each has sent, and `incomplete` what is missing."""

    def __init__(self, remotes: Sequence[GeneratorChannel]) -> None:
        self._remotes = remotes
        self._deadline = float("inf")
        self._clock = Clock()

    @property
    def facts(self) -> tuple[GeneratorFacts, ...]:
        return tuple(remote.facts for remote in self._remotes)

    @property
    def incomplete(self) -> str | None:
        """Why prompts are missing; None if none are."""
        return "; ".join(_loss(each) for each in self.facts if each.lost) or None

    async def open(self, plan: Plan, clock: Clock) -> None:
        """Give each generator its share of the plan. Raises: GeneratorError."""
        self._clock = clock
        # The controller judges what depends on all outcomes, and pictures stay where they were fetched.
        plan = replace(plan, warmup=0, show=None, abort_on_failure_rate=None)
        count = len(self._remotes)
        await asyncio.gather(
            *(
                remote.open(replace(plan, share=Share(number, count)), clock)
                for number, remote in enumerate(self._remotes)
            )
        )

    async def run(self, begin: float, report: Callable[[Outcome], None]) -> list[EngineReport]:
        """Run the window on all generators; see `engine.plan.Generators`."""
        clocks = asyncio.create_task(self._set_clocks())
        try:
            return list(await asyncio.gather(*(self._follow(remote, begin, report) for remote in self._remotes)))
        finally:
            clocks.cancel()

    def stop(self) -> None:
        self._deadline = min(self._deadline, time.perf_counter() + STOP_TIME)
        for remote in self._remotes:
            if not remote.ended:
                with contextlib.suppress(GeneratorLost):
                    remote.send("stop")

    async def _set_clocks(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_PERIOD)
            for remote in self._remotes:
                with contextlib.suppress(GeneratorLost):
                    if not remote.ended:
                        await remote.set_clock()

    async def _follow(self, remote: GeneratorChannel, begin: float, report: Callable[[Outcome], None]) -> EngineReport:
        """Process the messages of a generator until it ends or is lost."""
        try:
            remote.send("begin", begin)
            while True:
                match await remote.next(lambda: self._deadline):
                    case ("outcomes", bytes(content)):
                        for outcome in _decoded(content, list[Outcome]):
                            report(self._taken(remote, outcome))
                    case ("beat", int(submitted)):
                        remote.submitted = submitted
                    case ("end", bytes(content)):
                        return self._ended(remote, _decoded(content, End))
        except GeneratorLost as lost:
            remote.lost = str(lost)
            return EngineReport(intended=remote.done)
        finally:
            remote.ended = True

    def _taken(self, remote: GeneratorChannel, outcome: Outcome) -> Outcome:
        remote.done += 1
        if outcome.timeline is not None:
            remote.send_lags.append(outcome.timeline.send_lag)
        return remote.shift(outcome, self._clock)

    def _ended(self, remote: GeneratorChannel, end: End) -> EngineReport:
        def mark(outcome: Outcome) -> Outcome:
            if outcome.prompt_id not in end.marks:
                return outcome
            void, stalled, lag = end.marks[outcome.prompt_id]
            return replace(outcome.voided() if void else outcome, stalled=stalled, generator_lag=lag)

        remote.submitted = end.intended - end.dropped
        if end.aborted or end.invalid:
            self.stop()
        return EngineReport(
            window=end.window,
            intended=end.intended,
            dropped=end.dropped,
            loop_lag=end.loop_lag,
            worst_loop_lag=end.worst_loop_lag,
            stalls=end.stalls,
            clock_steps=end.clock_steps,
            aborted=end.aborted,
            invalid=end.invalid,
            marked=mark,
        )


def _decoded(content: bytes, kind: type[T]) -> T:
    """Decode the content of a message. Raises: GeneratorLost if it is not of this type."""
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except (ValueError, RecursionError) as error:
        raise GeneratorLost(f"its messages cannot be read ({harmless(str(error), 200)})") from None


def _loss(facts: GeneratorFacts) -> str:
    missing = facts.submitted - facts.done
    return f"{facts.name} was lost: {facts.lost}; the results of {facts.done} of its prompts are known" + (
        f", those of at least {missing} more are not" if missing else ""
    )
