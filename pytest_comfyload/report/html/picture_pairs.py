"""Pictures of the same seeds from both sides of a comparison, if thumbnails of both were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.record import Record
from pytest_comfyload.result.ab_figure import PicturePair, picture_pairs

__all__ = ["PairsView", "ShownPair", "pairs_of"]

MOST_PAIRS = 4


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A pair of thumbnails, `a` and `b` as data URLs; `identical` refers to the full pictures, None if unknown."""

    a: str
    b: str
    width: int
    height: int
    words: str
    identical: bool | None


@dataclass(frozen=True, slots=True)
class PairsView:
    """The pairs: `identical` of the `known` ones are equal pixel by pixel; thumbnails of a few are shown."""

    identical: int
    known: int
    shown: tuple[ShownPair, ...]


def pairs_of(a: Sequence[Record], b: Sequence[Record]) -> PairsView:
    """Pair the pictures of these runs, run by run."""
    known = [(one, two) for one, two in zip(a, b, strict=False) if one.outcomes and two.outcomes]
    pairs = list(picture_pairs([one.load() for one, _ in known], [two.load() for _, two in known]))
    same = [pair.identical for pair in pairs if pair.identical is not None]
    kept = {each.prompt_id: each for record in (*a, *b) for each in record.pictures}
    shown = (
        _shown(pair, kept[pair.A.prompt_id], kept[pair.B.prompt_id], of_several=len(known) > 1)
        for pair in pairs
        if {pair.A.prompt_id, pair.B.prompt_id} <= kept.keys()
    )
    return PairsView(sum(same), len(same), tuple(islice(shown, MOST_PAIRS)))


def _shown(pair: PicturePair, a: KeptPicture, b: KeptPicture, *, of_several: bool) -> ShownPair:
    seeds = ", ".join(map(str, pair.seeds))
    which = f"pair {pair.pair}, " if of_several else ""
    words = f"{which}user {pair.A.user}, iteration {pair.A.iteration}{f', seed {seeds}' if seeds else ''}"
    return ShownPair(a.data_url, b.data_url, max(a.width, b.width), max(a.height, b.height), words, pair.identical)
