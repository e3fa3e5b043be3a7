from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.protocol.timeline import Timeline
from pytest_comfyload.result.outcome import PHASES, CacheClass, Outcome, OutcomeStatus, SharedTexts, cache_class
from pytest_comfyload.result.output_files import FetchedFile
from tests.result.outcomes import failure, outcome, picture

GRAPH = {
    "3": {"class_type": "KSampler"},
    "4": {"class_type": "CheckpointLoaderSimple"},
    "6": {"class_type": "CLIPTextEncode"},
    "9": {"class_type": "SaveImage"},
    "x": {"class_type": "LoraLoader"},
}
NEEDED = {"3", "4", "6", "9"}


@pytest.mark.parametrize(
    ("cached", "fresh", "expected"),
    [
        ("", "39", CacheClass.COLD),
        ("", "", CacheClass.COLD),
        ("46", "39", CacheClass.WARM),
        ("46", "", CacheClass.WARM),
        ("46", "369", CacheClass.PARTLY),
        ("346", "369", CacheClass.PARTLY),  # saved again, under the file name of another run
        ("346", "", CacheClass.FULLY),  # saved again, and nothing else executed
        ("3469", "369", CacheClass.FULLY),
        ("3469", "", CacheClass.FULLY),
        ("3469x", "", CacheClass.FULLY),
        # The sampler's result was evicted, those of the nodes that it feeds were not, so it was not executed.
        ("49", "369", CacheClass.PARTLY),
    ],
)
def test_cache_classes(cached: str, fresh: str, expected: CacheClass) -> None:
    assert cache_class(GRAPH, {*cached}, {*fresh}, NEEDED) is expected


@given(*[st.floats(0, 100)] * 6)
def test_the_phases_sum_to_the_total(
    lag: float, submit: float, queue: float, generation: float, delivery: float, fetch: float
) -> None:
    made = outcome(5.0, lag=lag, submit=submit, queue=queue, generation=generation, delivery=delivery, fetch=fetch)
    assert tuple(made.phases()) == PHASES
    assert made.total_time == pytest.approx(sum(made.phases().values()), abs=1e-9)
    assert made.total_time == pytest.approx(lag + submit + queue + generation + delivery + fetch, abs=1e-9)


def test_a_prompt_that_did_not_come_far_has_the_phases_that_it_reached() -> None:
    stuck = failure(OutcomeStatus.TIMEOUT, Timeline(0.5, 1.0, 1.2))
    assert stuck.phases() == {"send_lag": 0.5, "submit_time": pytest.approx(0.2)}
    assert (stuck.total_time, stuck.end, stuck.succeeded, stuck.nodes) == (None, None, False, ())
    assert failure(OutcomeStatus.CENSORED).phases() == {}


@pytest.mark.parametrize(
    ("files", "images"),
    [
        ((), 0),
        ((picture(),), 1),
        ((picture(), picture(name="b.png"), picture("temp")), 2),
        ((picture("temp"), picture("temp")), 2),
        ((FetchedFile("9", "gifs", "a.mp4", "", "output", 10),), 0),
        ((FetchedFile("9", "images", "a.png", "", "output"),), 1),
        ((FetchedFile("9", "custom", "a.png", "", "output", 10, 8, 8),), 1),
    ],
)
def test_images_are_those_made_for_good_or_else_the_previews(files: tuple[FetchedFile, ...], images: int) -> None:
    assert outcome(outputs=files).images == images


def test_texts_that_outcomes_have_in_common_are_kept_once() -> None:
    def answered() -> Outcome:
        """Return an outcome as if decoded from a response: every string is a separate object."""
        made = outcome(outputs=(picture(name="a.png"), picture("temp", name="b.png")), inputs={})
        return msgspec.json.decode(msgspec.json.encode(made), type=Outcome)

    shared, made = SharedTexts(), [answered(), answered()]
    one, two = (shared.within(each) for each in made)
    assert [one, two] == made
    assert one.outputs[1].type is two.outputs[1].type
    assert one.outputs[0].kind is two.outputs[1].kind
    assert one.inputs is two.inputs


def test_very_many_different_texts_are_not_gathered() -> None:
    shared = SharedTexts()
    for number in range(3 * SharedTexts.MOST):
        shared.within(outcome(outputs=(picture(kind=f"kind {number}"),)))
    assert len(shared._known) <= SharedTexts.MOST + 8
