"""Simulated commits of eight scenarios, to count how often the regression gate is wrong. All draws are seeded.

Values and noise are logarithms of generation times. The runs of one session have a share of the variance in common, so
reruns share it. The baseline has the first run of each session; the head may have up to five runs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_comfyload.metrics.regression import NEWEST, Comparison, RegressionVerdict, SessionHistory, compare
from pytest_comfyload.metrics.session_noise import OwnNoise, noise_of_runs, own_noise
from pytest_comfyload.metrics.spec import Scale

__all__ = ["SCENARIOS", "SHIFTS", "Noise", "Rates", "Trial", "judged", "noise_of", "rates_of"]

SCENARIOS = 8
SHIFTS = (0.05, 0.10, 0.20)
_SCALE = Scale()
_FORGOTTEN = 30


@dataclass(frozen=True)
class Noise:
    """Noise in logarithms of generation times, with standard deviation `sd`.

    `tails`: Student's t with 4 degrees of freedom instead of normal. `ar`: autocorrelation of the part that the runs of
    a session share. `gap`: difference between two machines, one of which runs each session.
    """

    sd: float = 0.02
    tails: bool = False
    ar: float = 0.0
    outliers: float = 0.0
    gap: float = 0.0
    share: float = 0.5

    def draw(self, rng: random.Random, sessions: int, runs: int = 5) -> list[list[float]]:
        """Return the runs of each session."""
        share = 0.8 if self.ar else self.share
        shared = [self._normal(rng) * math.sqrt(share) for _ in range(sessions + (_FORGOTTEN if self.ar else 0))]
        for at in range(1, len(shared) if self.ar else 0):
            shared[at] = self.ar * shared[at - 1] + math.sqrt(1 - self.ar**2) * shared[at]
        return [
            [self._run(rng, each + (self.gap if machine else 0.0), share) for _ in range(runs)]
            for each, machine in [(each, self.gap and rng.random() < 0.5) for each in shared[-sessions:]]
        ]

    def _run(self, rng: random.Random, shared: float, share: float) -> float:
        value = shared + self._normal(rng) * math.sqrt(1 - share)
        if self.outliers and rng.random() < self.outliers:
            value += math.log(3) if rng.random() < 0.5 else math.log(0.3)
        return value

    def _normal(self, rng: random.Random) -> float:
        drawn = rng.gauss(0, self.sd)
        if not self.tails:
            return drawn
        return drawn / math.sqrt(sum(rng.gauss(0, 1) ** 2 for _ in range(4)) / 4) / math.sqrt(2)


@dataclass(frozen=True)
class Trial:
    """One scenario of a commit: earlier sessions and the head's runs; `learnt` sessions teach only the noise."""

    before: Sequence[float]
    head: Sequence[float]
    learnt: Sequence[float] = ()
    within: OwnNoise | None = None
    seeded: bool = False

    def own(self) -> OwnNoise | None:
        values = [*self.learnt, *self.before][-NEWEST:]
        if self.seeded:
            return noise_of_runs(values, _SCALE.grain)
        return own_noise(values, _SCALE.grain, _SCALE.least_effect, max(0, len(values) - len(self.before)))


Make = Callable[[random.Random, int], Trial]


@dataclass
class Rates:
    """Rates of the gate: `alarms` per commit, the others per scenario; `limit` is the median of all limits."""

    alarms: float = 0.0
    unchanged: float = 0.0
    limit: float = math.nan
    reruns: float = 0.0
    power: dict[float, float] = field(default_factory=dict)


def noise_of(trials: Sequence[Trial]) -> list[list[OwnNoise]]:
    """Return, for each scenario of a commit, the noise of the other scenarios."""
    own = [trial.own() for trial in trials]
    return [[each for at, each in enumerate(own) if at != me and each is not None] for me in range(len(own))]


def judged(trial: Trial, others: Sequence[OwnNoise], shift: float = 0.0) -> Comparison:
    """Compare a trial, with as many reruns as the gate requests."""
    history = SessionHistory([*trial.learnt, *trial.before], len(trial.learnt), others, trial.within, trial.seeded)
    runs = 1
    while True:
        found = compare(history, [math.exp(each + shift) for each in trial.head[:runs]], _SCALE)
        if not found.rerun or runs == len(trial.head):
            return found
        runs += 2


def rates_of(
    make: Make, commits: int, *, seed: str, shifts: Sequence[float] = SHIFTS, scenarios: int = SCENARIOS
) -> Rates:
    """Return the rates over `commits` commits; `make` draws the scenario with a given number of the next commit."""
    rng = random.Random(seed)
    alarms, verdicts, limits, reruns = 0, [], [], 0
    found: dict[float, int] = dict.fromkeys(shifts, 0)
    for _ in range(commits):
        trials = [make(rng, number) for number in range(scenarios)]
        others = noise_of(trials)
        clean = [judged(trial, known) for trial, known in zip(trials, others, strict=True)]
        alarms += any(each.fails for each in clean)
        verdicts += [each.verdict for each in clean]
        limits += [each.limit for each in clean if math.isfinite(each.limit)]
        reruns += sum(each.runs - 1 for each in clean)
        for shift in shifts:
            slower = (judged(trial, known, math.log1p(shift)) for trial, known in zip(trials, others, strict=True))
            found[shift] += sum(each.fails for each in slower)
    n = commits * scenarios
    return Rates(
        alarms / commits,
        verdicts.count(RegressionVerdict.UNCHANGED) / n,
        sorted(limits)[len(limits) // 2] if limits else math.nan,
        reruns / n,
        {shift: count / n for shift, count in found.items()},
    )


def plain(m: int, noise: Noise) -> Make:
    def make(rng: random.Random, number: int) -> Trial:
        sessions = noise.draw(rng, m + 1)
        return Trial([runs[0] for runs in sessions[:m]], sessions[m])

    return make


def stepped(step: float, ago: int, noise: Noise = Noise(), m: int = 20, back: int = 0) -> Make:
    """Make trials with a step merged `ago` sessions ago and, unless `back` is 0, reverted `back` sessions ago."""

    def make(rng: random.Random, number: int) -> Trial:
        sessions = noise.draw(rng, m + 1)
        up = range(m - ago, m - back if back else m + 1)
        moved = [[each + (math.log1p(step) if at in up else 0.0) for each in runs] for at, runs in enumerate(sessions)]
        return Trial([runs[0] for runs in moved[:m]], moved[m])

    return make
