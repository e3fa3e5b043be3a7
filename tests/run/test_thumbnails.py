"""An album keeps a few images of any number of prompts: the slowest, one near the median, and blank ones."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import random
from collections.abc import Iterable
from statistics import median_low
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pytest_comfyload.client.outputs import DecodingSample, Thumbnail, thumbnail
from pytest_comfyload.engine.attempt import look_at
from pytest_comfyload.engine.plan import Contents
from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.protocol.outputs import OutputFile
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.run import thumbnails as albums
from pytest_comfyload.run.thumbnails import BAD, FIRST, SLOWEST, ThumbnailSample
from tests.result.outcomes import outcome


def _png(colour: str | None = None, side: int = 16) -> bytes:
    """Return a PNG of one colour, or of noise."""
    noise = Image.frombytes("RGB", (side, side), random.Random(1).randbytes(3 * side * side))
    out = io.BytesIO()
    (noise if colour is None else Image.new("RGB", (side, side), colour)).save(out, "PNG")
    return out.getvalue()


GOOD, BLANK = _png(), _png("navy")


def _file(name: str = "a.png", type: str = "output") -> OutputFile:
    return OutputFile("9", "images", name, "", type)


def _prompt(total: float, prompt_id: str, contents: Contents, **fields: Any) -> tuple[Outcome, Contents]:
    """Return an outcome and its contents as the engine would report them."""
    files, faults = look_at(contents, DecodingSample(0), "")
    status = OutcomeStatus.BAD_OUTPUT if faults else OutcomeStatus.SUCCESS
    plain: dict[str, Any] = {"prompt_id": prompt_id, "outputs": files, "status": status}
    return outcome(submit=0, queue=0, generation=total, delivery=0, fetch=0, **(plain | fields)), contents


def _kept(prompts: Iterable[tuple[Outcome, Contents]]) -> tuple[KeptPicture, ...]:
    album = ThumbnailSample(7)

    async def offer() -> tuple[KeptPicture, ...]:
        await asyncio.gather(*(album.offer(*prompt) for prompt in prompts))
        return await album.pictures()

    return asyncio.run(offer())


def _ids(kept: Iterable[KeptPicture], why: str) -> list[str]:
    return [each.prompt_id for each in kept if each.why == why]


def _timed(totals: Iterable[float]) -> list[tuple[Outcome, Contents]]:
    return [_prompt(total, f"{number}", [(_file(), GOOD)]) for number, total in enumerate(totals)]


@settings(max_examples=40, deadline=None)
@given(totals=st.lists(st.integers(1, 50).map(float), max_size=30, unique=True))
def test_the_slowest_are_the_slowest_and_the_typical_one_is_none_of_them(totals: list[float]) -> None:
    kept = _kept(_timed(totals))
    taken = {f"{number}": total for number, total in enumerate(totals)}
    slowest, typical, first = (_ids(kept, why) for why in ("slowest", "typical", "first"))
    assert len(typical) == min(1, len(totals))
    assert len(kept) == len({*slowest, *typical, *first})
    bound = taken[typical[0]] if typical else 0.0
    assert [taken[each] for each in slowest] == sorted((t for t in totals if t > bound), reverse=True)[:SLOWEST]


def test_the_first_prompts_are_kept_whatever_their_order_and_time() -> None:
    """Two runs of a scenario keep the same prompts, so that their images can be compared."""
    places = [(user, iteration) for iteration in range(4) for user in range(3)]
    shown: Contents = [(_file(), GOOD)]

    def run(seed: int) -> set[str]:
        rng = random.Random(seed)
        prompts = [
            _prompt(rng.uniform(1, 9), f"{user}-{iteration}", shown, user=user, iteration=iteration)
            for user, iteration in rng.sample(places, len(places))
        ]
        return {each.prompt_id for each in _kept(prompts)}

    for seed in range(5):
        assert {"0-0", "1-0"} <= run(seed)


@given(totals=st.lists(st.integers(1, 50).map(float), min_size=1, max_size=8, unique=True))
@settings(max_examples=20, deadline=None)
def test_of_few_prompts_the_typical_one_is_the_median(totals: list[float]) -> None:
    (typical,) = _ids(_kept(_timed(totals)), "typical")
    assert totals[int(typical)] == median_low(totals)


def test_of_many_prompts_few_are_made_small_and_the_typical_one_is_near_the_median(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def counted(file: OutputFile, content: bytes) -> Thumbnail | None:
        made.append(file)
        return thumbnail(file, content)

    monkeypatch.setattr(albums, "thumbnail", counted)
    totals = range(1, 2001)  # ascending: each one is the slowest so far
    prompt, contents = _prompt(1.0, "", [(_file(), GOOD)])
    timeline = prompt.timeline
    assert timeline is not None
    album = ThumbnailSample(7)

    async def offer() -> tuple[KeptPicture, ...]:
        for total in totals:
            timed = dataclasses.replace(timeline, ended=total, delivered=total, fetched=total)
            await album.offer(dataclasses.replace(prompt, prompt_id=f"{total}", timeline=timed), contents)
        return await album.pictures()

    kept = asyncio.run(offer())
    assert _ids(kept, "slowest") == ["2000", "1999", "1998"]
    assert 600 < int(_ids(kept, "typical")[0]) < 1400
    assert len(made) < 150


def test_blank_pictures_are_kept_and_the_fault_is_what_is_shown() -> None:
    contents = [(_file("good.png"), _png(side=32)), (_file("blank.png"), BLANK)]
    kept = _kept(_prompt(1.0, f"{number}", contents) for number in range(5))
    assert [each.why for each in kept] == ["bad"] * BAD
    assert {(each.width, each.height) for each in kept} == {(16, 16)}


def test_an_output_comes_before_a_preview() -> None:
    (kept,) = _kept([_prompt(1.0, "a", [(_file("p.png", "temp"), GOOD), (_file("o.png"), _png(side=48))])])
    assert (kept.why, kept.width) == ("typical", 48)


@pytest.mark.parametrize(
    "contents",
    [
        [],
        [(_file(), None)],
        [(_file("a.mp4"), b"\0\0\0\x18ftypmp42")],
        [(_file("a.wav"), b"RIFF\0\0\0\0WAVE")],
        [(_file(), GOOD[:100])],
        [(_file("a.jpg"), GOOD)],
        [(_file(), b"")],
    ],
    ids=["nothing", "not fetched", "video", "audio", "torn", "misnamed", "empty"],
)
def test_what_has_no_picture_to_show_is_left_out(contents: Contents) -> None:
    assert _kept([_prompt(1.0, "a", contents)]) == ()


def test_a_picture_beside_a_video_is_shown() -> None:
    (kept,) = _kept([_prompt(1.0, "a", [(_file("a.mp4"), b"\0\0\0\x18ftypmp42"), (_file(), GOOD)])])
    assert kept.prompt_id == "a"


def test_warm_up_and_other_failures_are_left_out() -> None:
    shown: Contents = [(_file(), GOOD)]
    assert _kept([_prompt(1.0, "a", shown, warmup=True), _prompt(1.0, "b", shown, status=OutcomeStatus.PARTIAL)]) == ()


@settings(max_examples=7, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_run_of_noise_stays_below_260_kilobytes(seed: int) -> None:
    noise = Image.frombytes("RGBA", (256, 256), random.Random(seed).randbytes(4 * 256 * 256))
    out = io.BytesIO()
    noise.save(out, "PNG", compress_level=0)
    good = [_prompt(float(1 + total), f"{total}", [(_file(), out.getvalue())]) for total in range(9)]
    kept = _kept([*good, *(_prompt(1.0, f"blank {number}", [(_file(), BLANK)]) for number in range(3))])
    assert len(kept) == SLOWEST + 1 + BAD + FIRST
    assert sum(len(each.content) for each in kept) < 260_000
