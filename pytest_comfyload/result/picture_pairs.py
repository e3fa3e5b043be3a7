"""What A and B made of the same seeds, side by side: faster is not enough where the pictures are worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import SOCKET, FetchedFile, Outcome

__all__ = ["PicturePair", "picture_pairs", "view_url"]


@dataclass(frozen=True, slots=True)
class PicturePair:
    """Two prompts of the same seeds: `A.outputs` and `B.outputs` are their files, which lie on the servers.

    `pair` counts from 1.
    """

    pair: int
    A: Outcome
    B: Outcome

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.A.seeds.values())

    @property
    def identical(self) -> bool | None:
        """Whether every picture is the same, pixel by pixel; None where they were not fetched."""
        a, b = ([file.pixels for file in outcome.outputs] for outcome in (self.A, self.B))
        if None in (*a, *b) or not (a or b):
            return None
        return a == b

    def urls(self) -> tuple[list[str], list[str]]:
        """Where the servers show the files: A's, and B's."""
        a, b = (
            [view_url(outcome, file) for file in outcome.outputs if file.type != SOCKET] for outcome in (self.A, self.B)
        )
        return a, b


def picture_pairs(A: Sequence[LoadResult], B: Sequence[LoadResult]) -> Iterator[PicturePair]:
    """In the order of A's prompts; of those that both made of the same seeds."""
    for number, (a, b) in enumerate(zip(A, B, strict=False), 1):
        others = {_place(outcome): outcome for outcome in b.outcomes if outcome.succeeded}
        for outcome in a.outcomes:
            other = others.get(_place(outcome))
            if outcome.succeeded and other is not None and _seeds(outcome) == _seeds(other):
                yield PicturePair(number, outcome, other)


def view_url(outcome: Outcome, file: FetchedFile) -> str:
    query = urlencode({"filename": file.filename, "subfolder": file.subfolder, "type": file.type})
    return f"{outcome.server}/view?{query}"


def _place(outcome: Outcome) -> tuple[str | None, int, int]:
    return outcome.group, outcome.user, outcome.iteration


def _seeds(outcome: Outcome) -> list[int]:
    return list(outcome.seeds.values())
