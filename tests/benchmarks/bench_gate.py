"""The regression gate's error rates by simulation, beside those of the rule that it replaced.

    python -m tests.benchmarks.bench_gate [commits]

Columns: `alarm`, percent of clean commits, of eight scenarios each, that fail; `unch`, percent of clean scenarios found
unchanged; `limit`, median limit in percent; `+5/10/20`, power: percent of scenarios that fail when they are 5, 10 or
20 % slower. Regressions that the old rule reports without failing do not count towards its power.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence

from pytest_comfyload.metrics.intervals import t_quantile
from tests.result.gate_trials import SCENARIOS, SHIFTS, Make, Noise, Rates, Trial, plain, rates_of, stepped

COMMITS = 150


def _other_checkpoint(j: int) -> Make:
    """In j of 20 sessions, another checkpoint took 3.25 times as long; the rule gets only the other sessions."""

    def make(rng: random.Random, number: int) -> Trial:
        return plain(20 - j, Noise())(rng, number)

    return make


def _mixed(m: int) -> Make:
    """Half of the scenarios have 1 % noise, the other half 5 %."""
    return lambda rng, number: plain(m, Noise(0.05 if number % 2 else 0.01))(rng, number)


def _accepted(ago: int) -> Make:
    def make(rng: random.Random, number: int) -> Trial:
        trial = stepped(0.43, ago)(rng, number)
        return Trial(trial.before[-ago:], trial.head, trial.before[:-ago])

    return make


def _seeded(share: float) -> Make:
    def make(rng: random.Random, number: int) -> Trial:
        (runs,), (head,) = (Noise(share=share).draw(rng, 1) for _ in range(2))
        return Trial(runs, head, seeded=True)

    return make


def _night(steps_ago: int) -> Make:
    return plain(20, Noise()) if not steps_ago else stepped(0.43, steps_ago)


Old = Callable[[Trial], tuple[Sequence[float], Sequence[float]]]


def _as_is(trial: Trial) -> tuple[Sequence[float], Sequence[float]]:
    return [*trial.learnt, *trial.before], trial.head


def _since(trial: Trial) -> tuple[Sequence[float], Sequence[float]]:
    return trial.before, trial.head


def _pooled(j: int) -> Old:
    """Return a view in which the runs of the other checkpoint are among the earlier ones."""

    def as_pooled(trial: Trial) -> tuple[Sequence[float], Sequence[float]]:
        others = [trial.before[each] + math.log(3.25) for each in range(j)]
        return [*trial.before, *others], trial.head

    return as_pooled


ROWS: tuple[tuple[str, Make, Old], ...] = (
    *((f"noise {sd:.0%}, m={m}", plain(m, Noise(sd)), _as_is) for sd in (0.01, 0.02, 0.05) for m in (2, 3, 5, 10, 20)),
    ("2 %, t4, m=20", plain(20, Noise(tails=True)), _as_is),
    ("2 %, 3 % outliers, m=20", plain(20, Noise(outliers=0.03)), _as_is),
    ("2 %, AR .3, m=20", plain(20, Noise(ar=0.3)), _as_is),
    ("2 %, AR .6, m=20", plain(20, Noise(ar=0.6)), _as_is),
    ("5 %, AR .6, m=20", plain(20, Noise(0.05, ar=0.6)), _as_is),
    ("2 %, two machines 10 % apart", plain(20, Noise(gap=math.log(1.1))), _as_is),
    ("reruns share all noise, 2 %", plain(20, Noise(share=1.0)), _as_is),
    ("half 1 %, half 5 %, m=3", _mixed(3), _as_is),
    ("half 1 %, half 5 %, m=20", _mixed(20), _as_is),
    *((f"+43 % merged {ago} ago", stepped(0.43, ago), _as_is) for ago in (1, 2, 3, 5, 10)),
    *((f"+10 % merged {ago} ago", stepped(0.10, ago), _as_is) for ago in (1, 3, 5)),
    *((f"+5 % merged {ago} ago", stepped(0.05, ago), _as_is) for ago in (1, 5)),
    *((f"+43 % accepted {ago} ago", _accepted(ago), _since) for ago in (2, 5)),
    ("+43 % merged 10, reverted 5 ago", stepped(0.43, 10, back=5), _as_is),
    *((f"other checkpoint in {j} of 20", _other_checkpoint(j), _pooled(j)) for j in (1, 5)),
    ("nightly, step tonight", _night(0), _as_is),
    ("nightly, +43 % three nights ago", _night(3), _as_is),
    *((f"seeded in one session, shared {share:.0%}", _seeded(share), _as_is) for share in (0.5, 0.8)),
)


def _old_rates(make: Make, view: Old, commits: int, *, seed: str, tonight: bool) -> Rates:
    """Return the rates of the replaced rule, which is frozen here.

    It takes the plain standard deviation as the noise, and the mean of the runs as the head. `tonight`: the head's
    commit also ran on the ten nights before, which are pooled with it.
    """
    rng = random.Random(seed)
    alarms, unchanged, limits, found = 0, 0, [], dict.fromkeys(SHIFTS, 0)
    for _ in range(commits):
        trials = [view(make(rng, number)) for number in range(SCENARIOS)]
        clean = [_old(before, head, tonight) for before, head in trials]
        alarms += any(fails for _, fails, _ in clean)
        unchanged += sum(same for same, _, _ in clean)
        limits += [limit for _, _, limit in clean if math.isfinite(limit)]
        for shift in SHIFTS:
            slower = ((before, [each + math.log1p(shift) for each in head]) for before, head in trials)
            found[shift] += sum(_old(before, head, tonight)[1] for before, head in slower)
    n = commits * SCENARIOS
    limit = 100 * math.expm1(statistics.median(limits)) if limits else math.nan
    return Rates(alarms / commits, unchanged / n, limit, 0.0, {shift: count / n for shift, count in found.items()})


def _old(before: Sequence[float], head: Sequence[float], tonight: bool) -> tuple[bool, bool, float]:
    """Return whether the scenario is unchanged, whether it fails, and the limit."""
    pooled = [*before[-10:], head[0]] if tonight else []
    earlier = before[:-10] if tonight else before[-20:]
    m = len(earlier)
    if m < 5:
        return False, False, math.nan
    noise = max(statistics.stdev(earlier), 0.01)
    limit = max(math.log(1.05), 3 * noise)

    def judged(runs: Sequence[float]) -> tuple[bool, bool]:
        error = noise * math.sqrt(1.57 / m + 1 / len(runs))
        distance = statistics.fmean(runs) - statistics.median(earlier)
        big = distance > limit and distance > t_quantile(0.99, m - 1) * error
        same = -limit < distance < limit - t_quantile(0.95, m - 1) * error
        return same and not big, big and m >= 10

    again = abs(head[0] - statistics.median(earlier)) > limit / 2
    same, fails = judged(pooled or (head[:3] if again else head[:1]))
    return same, fails, limit


def main() -> None:
    commits = int(sys.argv[1]) if len(sys.argv) > 1 else COMMITS
    columns = f"{'alarm  unch   limit     +5/10/20':<31}"
    print(f"{commits} commits of {SCENARIOS} scenarios a row")
    print(f"{'':34}| {'old':<31}| new\n{'':34}| {columns}| {columns}")
    for name, make, view in ROWS:
        old = _old_rates(make, view, commits, seed=name, tonight=name.startswith("nightly"))
        print(f"{name:<34}| {_told(old):<31}| {_told(rates_of(make, commits, seed=name))}", flush=True)


def _told(rates: Rates) -> str:
    power = "/".join(f"{100 * each:.0f}" for each in rates.power.values())
    return f"{100 * rates.alarms:5.1f} {100 * rates.unchanged:5.0f} {rates.limit:7.1f} {power:>12}"


if __name__ == "__main__":
    main()
