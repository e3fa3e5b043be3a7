"""What people request from a service in a day, and the prompts drawn from that: who sends when, for which workflow.

Each person is drawn from a separate random stream, so that the first 80 of 100 people send exactly what 80 people alone
would send: two numbers of people are compared on common random numbers. Times are seconds since the first midnight.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pytest_comfyload.capacity.arrived import DAY, HOUR, Arrived
from pytest_comfyload.capacity.columns import below, counts, hours_of, repeated, session_prompts
from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.arrival_trace import ArrivalTrace

__all__ = ["DAY_PROFILES", "MOST_PEOPLE", "DayProfile", "WorkStyle", "Workload"]

# Fewer prompts say nothing about a p99, fewer days nothing about the share of days that are good.
LEAST_PROMPTS, LEAST_DAYS, MOST_DAYS = 30_000, 20, 300
# Limits of what can be drawn in a few seconds and a few hundred megabytes.
MOST_PEOPLE, MOST_IMAGES = 100_000, 100_000
# Number of people whose prompts are drawn together.
_AT_ONCE = 1_000

# Shares of a day's images by hour, from midnight: assumptions, stated in the answer. An office's busiest hour has 12 %.
DAY_PROFILES: Mapping[str, tuple[float, ...]] = {
    "office": (0,) * 8 + (6, 11, 12, 11, 6, 9, 11, 11, 10, 7, 3, 2, 1) + (0,) * 3,
    "evening": (3, 1.5, 1, 0.5, 0.5, 0.5, 0.5, 1, 1.5, 2, 2, 2.5, 3.5, 3, 3, 3.5, 4.5, 6, 8, 10, 12, 12, 11, 7),
    "around-the-clock": (1,) * 24,
}


@dataclass(frozen=True, slots=True)
class DayProfile:
    """Distribution of a day's images over its 24 hours; `shares` sum to 1."""

    name: str
    shares: tuple[float, ...]

    @classmethod
    def named(cls, name: str, option: str = "--day") -> DayProfile:
        """Return the profile with this name. Raises: UsageError."""
        if name not in DAY_PROFILES:
            raise UsageError(
                f"{option} {name!r} is not a profile: {nearest(name, DAY_PROFILES)}; or give a file of 24 numbers"
            )
        return cls.of(DAY_PROFILES[name], name)

    @classmethod
    def parse(cls, text: str, source: str) -> DayProfile:
        """Parse 24 numbers, from midnight, separated by commas, semicolons or white space. Raises: UsageError."""
        words = [word for word in re.split(r"[\s,;]+", text.strip()) if word]
        if len(words) != 24:
            raise UsageError(
                f"{source} has {len(words)} numbers; a day profile has 24, one for each hour from midnight"
            )
        try:
            return cls.of([float(word) for word in words], source)
        except ValueError:
            wrong = next(word for word in words if not re.fullmatch(r"[-+.\deE]+", word))
            raise UsageError(f"{source}: {wrong[:40]!r} is not a number; a day profile has 24") from None

    @classmethod
    def of(cls, weights: Sequence[float], name: str) -> DayProfile:
        """Return the profile with these relative weights. Raises: UsageError."""
        bad = next((each for each in weights if not (math.isfinite(each) and each >= 0)), None)
        if bad is not None:
            raise UsageError(f"{name}: {bad:g} cannot be the share of an hour; give 0 or more")
        total = math.fsum(weights)
        if not 0 < total < math.inf:
            raise UsageError(f"{name}: the 24 numbers sum to {total:g}; at least one hour must be above 0")
        return cls(name, tuple(each / total for each in weights))

    @property
    def busiest(self) -> int:
        """The hour with the largest share."""
        return max(range(24), key=self.shares.__getitem__)

    def time(self, quantile: float) -> float:
        """Return the seconds since midnight at which this share of the day's images has been sent."""
        ends = _ends_of(self.shares)
        hour = bisect_right(ends, quantile)
        if hour == len(ends):
            return DAY * (1 - 1e-12)
        before = ends[hour - 1] if hour else 0.0
        return HOUR * (hour + (quantile - before) / self.shares[hour])


@functools.cache
def _ends_of(shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return the share of a day's images that has been sent by the end of each hour."""
    return tuple(itertools.accumulate(shares))


@dataclass(frozen=True, slots=True)
class WorkStyle:
    """How people work: `size` prompts per session, each on average `gap` seconds after the previous one.

    People do not wait for an image before they request the next one, so a queue does not slow them down: waits are
    overstated rather than understated.
    """

    name: str
    size: int
    gap: float = 0.0

    @classmethod
    def parse(cls, text: str, option: str = "--work") -> WorkStyle:
        """Parse `sessions`, `one` or `4-at-once`. Raises: UsageError."""
        if text == "sessions":
            return cls("sessions of 8 prompts, 45 s apart", 8, 45.0)
        if text == "one":
            return cls("one prompt at a time, at random", 1)
        if (match := re.fullmatch(r"(\d{1,4})-at-once", text)) and int(match[1]) > 0:
            return cls(f"{int(match[1])} prompts at once", int(match[1]))
        raise UsageError(f"{option} {text!r}: legal: sessions, one, and N-at-once, such as 4-at-once")


@dataclass(frozen=True)
class Workload:
    """The workload of a service.

    Args:
        people: The number of people who share the service.
        images_per_day: Images per day of all people together.
        day: The distribution of images over the day.
        style: How people work.
        images_per_prompt: A prompt may generate several images.
        mix: Weights of the workflows, by name; a session has one workflow.
        seed: The seed of all draws.
        recorded: Arrivals of a trace, which replace everything that is drawn.
    """

    people: int
    images_per_day: float
    day: DayProfile = field(default_factory=lambda: DayProfile.named("office"))
    style: WorkStyle = field(default_factory=lambda: WorkStyle.parse("sessions"))
    mix: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})
    seed: int = 0
    recorded: Arrived | None = None
    images_per_prompt: float = 1.0

    @classmethod
    def of_trace(
        cls,
        trace: ArrivalTrace,
        mix: Mapping[str, float],
        seed: int = 0,
        images_per_prompt: float = 1.0,
        window: str = "all",
    ) -> Workload:
        """Return a workload that repeats a window of a trace. Raises: UsageError if the window has a gap."""
        arrived = Arrived.of_trace(trace, window, list(mix.values()), seed)
        day = DayProfile.of(counts(hours_of(arrived.at, HOUR), 24), trace.name)
        style = WorkStyle("as recorded", 1)
        images = len(arrived) / arrived.days * images_per_prompt
        return cls(1, images, day, style, mix, seed, arrived, images_per_prompt)

    def __post_init__(self) -> None:
        """Check the values. Raises: UsageError."""
        if self.people < 1:
            raise UsageError(f"--people {self.people}: give 1 to {MOST_PEOPLE}")
        if not 0 < self.images_per_day < math.inf:
            raise UsageError(f"--images-per-day {self.images_per_day:g}: give more than 0, up to {MOST_IMAGES}")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.mix.values()):
            raise UsageError("--mix: each weight must be a number above 0")

    def check_size(self) -> None:
        """Check that the workload can be drawn. Raises: UsageError if it is too large."""
        if self.people > MOST_PEOPLE:
            raise UsageError(f"--people {self.people}: give 1 to {MOST_PEOPLE}, or plan for a part of them")
        if self.images_per_day > MOST_IMAGES:
            images = f"{self.images_per_day:.6g} images a day"
            raise UsageError(f"{images} are more than {MOST_IMAGES}, the most of a plan; plan for a part of them")

    @property
    def prompts_per_day(self) -> float:
        """Prompts per day of all people together."""
        return self.images_per_day / self.images_per_prompt

    @cached_property
    def days(self) -> int:
        """The number of days that are drawn: enough for a p99, and for the share of days on which the SLO is met."""
        return min(MOST_DAYS, max(LEAST_DAYS, math.ceil(LEAST_PROMPTS / self.prompts_per_day)))

    @property
    def per_person(self) -> float:
        """Images per day of one person."""
        return self.images_per_day / self.people

    def scaled(self, factor: float) -> Workload:
        """Return the workload with `factor` times as many people, each of whom sends what they sent before."""
        if self.recorded is not None:
            return replace(self, images_per_day=self.images_per_day * factor, recorded=self.recorded.sped(factor))
        people = max(1, round(self.people * factor))
        return replace(self, people=people, images_per_day=self.per_person * people)

    @property
    def busiest_share(self) -> float:
        """Share of a day's images in its busiest hour."""
        return self.day.shares[self.day.busiest]

    def draw(self, people: int | None = None, days: int | None = None) -> Arrived:
        """Draw the prompts of `people` people (default: all) over `days` days, or return the recorded ones."""
        if self.recorded is not None:
            return self.recorded
        days = days or self.days
        return self.drawn(range(people or self.people), days)

    def drawn(self, people: range, days: int) -> Arrived:
        """Draw the prompts of these people over `days` days."""
        parts = [people[at : at + _AT_ONCE] for at in range(0, len(people), _AT_ONCE)]
        return Arrived.none(days, self.day.busiest).with_more(*(self._drawn(part, days) for part in parts))

    def _drawn(self, people: range, days: int) -> Arrived:
        """Draw the prompts of these people, not sorted by time."""
        size, gap = self.style.size, self.style.gap
        owners: list[int] = []
        kinds: list[int] = []
        starts: list[float] = []
        uniforms: list[float] = []
        for person in people:
            before = len(starts)
            self._draw_sessions(person, days, starts, kinds, uniforms)
            owners += [person] * (len(starts) - before)
        at, quantiles = session_prompts(starts, uniforms, size, gap)
        found = Arrived(days, self.day.busiest, at, repeated(owners, size), repeated(kinds, size), quantiles)
        return found.selected(below(at, days * DAY))

    def _draw_sessions(
        self, person: int, days: int, starts: list[float], kinds: list[int], uniforms: list[float]
    ) -> None:
        """Draw when a person's sessions start, their workflows, and the uniform numbers of `session_prompts`."""
        rng = random.Random(self.seed << 32 | person)
        draw, log, count = rng.random, math.log, range(2 * self.style.size - 1 if self.style.gap else self.style.size)
        names, weights = range(len(self.mix)), list(self.mix.values())
        # Sessions are a Poisson process over all days, on a time axis on which the profile's shares are uniform.
        sessions, position = days * self.prompts_per_day / self.people / self.style.size, 0.0
        while (position := position - log(1.0 - draw())) < sessions:
            day, share = divmod(position / sessions * days, 1.0)
            starts.append(day * DAY + self.day.time(share))
            kinds.append(rng.choices(names, weights)[0] if len(names) > 1 else 0)
            uniforms += [draw() for _ in count]
