"""Thumbnails of a few prompts of a run, regardless of its length: the slowest, a typical one, blank and first ones.

The first prompts of the first users are the same, with the same seeds, in other runs of the scenario. Making a
thumbnail takes as much work as inspecting the picture, which must not disturb the load: while that runs, it is done
only for a random sample, about one in 100 of 10,000 prompts. Pictures of the slowest prompts so far, which on a ramp is
each prompt in turn, are kept as received until the end.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from pytest_comfyload.client.outputs import Thumbnail, inspect, thumbnail
from pytest_comfyload.engine.plan import Contents
from pytest_comfyload.history.pictures import KeptPicture, Why
from pytest_comfyload.image_files import in_picture_thread
from pytest_comfyload.protocol.outputs import OutputFile
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus

__all__ = ["BAD", "FIRST", "SLOWEST", "ThumbnailSample"]

SLOWEST = 3
BAD = 2
FIRST = 2
# Size of the random sample, large enough for one of its prompts to be near the median.
_DRAWN = 8


@dataclass(frozen=True, slots=True, order=True)
class _Drawn:
    total_time: float
    prompt_id: str
    small: Thumbnail = field(compare=False)


@dataclass(frozen=True, slots=True, order=True)
class _Slow:
    total_time: float
    prompt_id: str
    shown: tuple[OutputFile, bytes] = field(compare=False)


@dataclass(frozen=True, slots=True, order=True)
class _First:
    place: tuple[int, str, int]
    prompt_id: str
    shown: tuple[OutputFile, bytes] = field(compare=False)


class ThumbnailSample:
    """A sample of the prompts of a run, which are offered when they finish, in one event loop."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._totals: list[float] = []
        self._slowest: list[_Slow] = []  # a heap
        self._drawn: dict[int, _Drawn] = {}
        self._bad: list[KeptPicture] = []
        self._first: list[_First] = []

    async def offer(self, outcome: Outcome, contents: Contents) -> None:
        """Consider the pictures of a prompt. Never raises, even if they are damaged."""
        shown = _pictures(outcome, contents)
        if outcome.warmup or not shown:
            return
        if (outcome.status is OutcomeStatus.BAD_OUTPUT or outcome.blank) and len(self._bad) < BAD:
            if small := await in_picture_thread(_first_faulty, shown):
                self._bad.append(_kept(outcome.prompt_id, "bad", small))
        elif outcome.succeeded and outcome.total_time is not None:
            place = (outcome.iteration, outcome.group or "", outcome.user)
            self._first = sorted([*self._first, _First(place, outcome.prompt_id, shown[0])])[:FIRST]
            await self._offer_good(outcome.prompt_id, outcome.total_time, shown[0])

    async def _offer_good(self, prompt_id: str, total: float, shown: tuple[OutputFile, bytes]) -> None:
        heapq.heappush(self._slowest, _Slow(total, prompt_id, shown))
        if len(self._slowest) > SLOWEST:
            heapq.heappop(self._slowest)
        place = self._draw(total)
        if place < _DRAWN and (small := await in_picture_thread(thumbnail, *shown)):
            self._drawn[place] = _Drawn(total, prompt_id, small)

    def _draw(self, total: float) -> int:
        """Return the prompt's place in the random sample if it is below `_DRAWN`; all prompts have the same chance."""
        before = len(self._totals)
        self._totals.append(total)
        return before if before < _DRAWN else self._rng.randrange(before + 1)

    async def pictures(self) -> tuple[KeptPicture, ...]:
        """Return the pictures to keep, in this order.

        The slowest prompts first, if slower than the typical one; then the typical one, blank ones, and first ones.
        """
        return await in_picture_thread(lambda: tuple(self._album()))

    def _album(self) -> Iterator[KeptPicture]:
        chosen = list(self._chosen())
        yield from chosen
        told = {each.prompt_id for each in chosen}
        for first in self._first:
            if first.prompt_id not in told and (small := thumbnail(*first.shown)):
                yield _kept(first.prompt_id, "first", small)

    def _chosen(self) -> Iterator[KeptPicture]:
        typical = self._typical()
        for each in sorted(self._slowest, reverse=True):
            slower = typical is None or each.total_time > typical.total_time
            if slower and (small := thumbnail(*each.shown)):
                yield _kept(each.prompt_id, "slowest", small)
        if typical is not None:
            yield _kept(typical.prompt_id, "typical", typical.small)
        yield from self._bad[:BAD]

    def _typical(self) -> _Drawn | None:
        middle = median_low(self._totals) if self._totals else 0.0
        return min(self._drawn.values(), key=lambda each: (abs(each.total_time - middle), each), default=None)


def _kept(prompt_id: str, why: Why, small: Thumbnail) -> KeptPicture:
    return KeptPicture(prompt_id, why, "image/webp", small.content, small.width, small.height)


def _pictures(outcome: Outcome, contents: Contents) -> list[tuple[OutputFile, bytes]]:
    """Return the files that could be decoded when they were inspected, outputs before previews."""
    seen = zip(contents, outcome.outputs, strict=True)
    shown = [(file, content) for (file, content), kept in seen if content is not None and kept.width is not None]
    return sorted(shown, key=lambda each: each[0].type != "output")


def _first_faulty(shown: Sequence[tuple[OutputFile, bytes]]) -> Thumbnail | None:
    faulty = (each for each in shown if (seen := inspect(*each)).fault is not None or seen.blank)
    return next((small for each in faulty if (small := thumbnail(*each)) is not None), None)
