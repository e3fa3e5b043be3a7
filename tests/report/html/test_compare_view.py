"""Comparison pages: what a run is compared with, and that each drawing agrees with the stored runs."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.history.record import Record, TestChecks
from pytest_comfyload.history.store import Store
from pytest_comfyload.report.html.compare_view import CompareView
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.forest import WIDTH, Effect, forest
from pytest_comfyload.result.checks import Check
from tests.benchmarks.histories import record
from tests.report.html.scripted import scripted_store
from tests.report.html.stores import with_pictures

pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Content:
    folder = tmp_path_factory.mktemp("scripted")
    return Content(scripted_store(folder / "store"), folder)


def _before(content: Content, test: str) -> CompareView:
    return next(iter(_views(content, test).values()))


def _views(content: Content, test: str) -> dict[str, CompareView]:
    """Return the comparisons of a test's newest run, by what it is compared with."""
    (head,) = [
        row for row in content.runs_at(content.newest) if f"test_{test}.py" in row.test and "h100" not in row.run_id
    ]
    return {view.a.name: view for view in content.compared(head)}


def test_the_newest_run_is_shown_against_all_that_is_stored(scripted: Content) -> None:
    views = _views(scripted, "img2img")
    before, tagged, best, elsewhere = views.values()
    assert tagged.a.name == "tag v1.0"
    assert before.judged.verdict == "suspected"
    assert best.a.name == "the best run"
    assert elsewhere.a.name == "H100 80GB HBM3 · 80 GiB"
    assert (elsewhere.judged.verdict, elsewhere.judged.sentences[0][:11]) == ("", "Not judged:")
    assert {row.tone for row in (*elsewhere.judged.forest.rows, *elsewhere.judged.forest.rest)} == {"noise"}
    assert [name for name, _ in before.judged.bases] == list(views)


def test_a_branch_is_shown_against_main_and_the_last_tag(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for number in range(6):
        come = {"branch": "main", "tag": "v1.0" if number == 2 else None, "session": str(number)}
        store.add(record(number, come=come))
    store.add(record(6, level=3.0, come={"branch": "feature", "base": "main", "session": "6"}))
    content = Content(store, tmp_path)
    (head,) = content.runs_at(content.newest)
    views = {view.judged.id.rpartition("-")[2]: view for view in content.compared(head)}
    assert views["tag"].a.name == "tag v1.0"
    assert views["tag"].a.commit == record(2).provenance.commit[:10]  # type: ignore[index]
    # The last run of main is also the previous run: no run is offered twice.
    pages = [view.a.when for view in views.values()]
    assert len(pages) == len(set(pages))


def test_throughput_is_of_images_where_there_is_nothing_else(scripted: Content, tmp_path: Path) -> None:
    assert _effect(_before(scripted, "img2img"), "throughput").b.endswith(" images/min")
    store = Store.open(tmp_path / "store")
    for number in range(3):
        made = record(number, come={"branch": "main", "session": str(number)})
        store.add(msgspec.structs.replace(made, figures={**made.figures, "delivers": "outputs"}))
    assert _effect(_before(Content(store, tmp_path), "txt2img"), "throughput").b.endswith(" outputs/min")


def _effect(view: CompareView, name: str) -> Effect:
    return next(row.effect for row in (*view.judged.forest.rows, *view.judged.forest.rest) if row.effect.name == name)


def test_the_forest_tells_the_effect_and_greys_the_noise(scripted: Content) -> None:
    view = _before(scripted, "img2img")
    gate = view.judged.gate
    assert gate is not None
    assert gate.name == "generation_time.p50"
    assert 1.5 < gate.ratio < 1.8
    rows = {row.effect.name: row for row in (*view.judged.forest.rows, *view.judged.forest.rest)}
    assert rows["generation_time.p50"].tone == "doubtful"
    assert rows["node_time[KSampler].p50"].tone == "doubtful"
    assert rows["node_time[VAEDecode].p50"].tone == "noise"
    assert view.judged.forest.rows[0].effect is gate
    assert rows["generation_time.p50"].high < rows["generation_time.p50"].left


def test_the_waterfall_ends_where_the_means_do(scripted: Content) -> None:
    view = _before(scripted, "img2img")
    waterfall = view.judged.waterfall
    assert waterfall is not None
    sampler = next(step for step in waterfall.steps if step.name == "KSampler")
    assert sampler.tone == "slower"
    assert sampler.before.startswith(("1 ", "1.0", "0.9"))
    assert waterfall.steps[-1].end == pytest.approx(waterfall.end, abs=0.2)
    for step in waterfall.steps:
        assert 0 <= step.left <= step.right <= WIDTH


def test_a_violated_bound_is_drawn_however_far_it_is_below_the_data(scripted: Content) -> None:
    view = _before(scripted, "upscale")
    total = view.ecdfs[0]
    (bound,) = total.bounds
    assert (bound.met, round(bound.y)) == (False, 5)
    assert bound.words.startswith("total_time.p95 < 5 s")
    assert 0 < bound.x < 20
    assert (total.beyond, len(total.curves)) == ((), 2)


def test_a_bound_that_is_met_far_to_the_right_is_told_in_words(scripted: Content) -> None:
    assert _before(scripted, "img2img").ecdfs[0].beyond == ("total_time.p95 < 90 s",)


def test_no_verdict_hides_a_failed_slo(scripted: Content) -> None:
    view = _before(scripted, "upscale")
    assert view.judged.verdict == "unchanged"
    assert re.match(r"total_time\.p95 < 5 s failed: \d", view.b.problems[0])
    assert _before(scripted, "inpainting").b.problems[0] == "5 of 20 prompts ran out of memory"


def test_slos_are_paired_by_what_they_are_about(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for number in range(4):
        store.add(_held(record(number, come={"branch": "main", "session": str(number)}), 6.0))
    store.add(_held(record(4, level=9.0, come={"branch": "main", "session": "4"}), 5.0))
    content = Content(store, tmp_path)
    view = next(content.compared(content.runs_at(content.newest)[0]))
    (pair,) = view.slos
    assert (pair.claim, pair.moved) == ("generation_time.p95 <", True)
    assert (pair.a[0], pair.b[0]) == ("pass", "fail")
    assert (pair.a[2], pair.b[2]) == ("6 s", "5 s")


def _held(made: Record, bound: float) -> Record:
    p95 = made.load().generation_time.p95
    check = Check("generation_time.p95", float(p95), "s", 6, "<", bound, float(p95) < bound)
    return msgspec.structs.replace(made, checks=(TestChecks("test", (check,)),))


def test_what_differs_is_told_apart_by_subject_and_environment(scripted: Content) -> None:
    views = list(_views(scripted, "img2img").values())
    assert ("ImageScale.width", "512", "704") in [(each.name, each.a, each.b) for each in views[0].subject]
    assert views[0].environment == ()
    assert "gpu" in [each.name for each in views[-1].environment]


def test_pictures_of_the_same_seeds_are_paired(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for number in range(3):
        store.add(with_pictures(record(number, come={"branch": "main", "session": str(number)}), "navy"))
    content = Content(store, tmp_path)
    view = next(content.compared(content.runs_at(content.newest)[0]))
    shown = view.pictures.shown
    assert [pair.words for pair in shown] == ["user 0, iteration 0", "user 1, iteration 0"]
    assert all(pair.a.startswith("data:image/webp;base64,") for pair in shown)


def test_the_first_run_of_a_test_has_no_comparison(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    store.add(record(1))
    content = Content(store, tmp_path)
    (head,) = content.runs_at(content.newest)
    assert (content.compare_id(head), list(content.compared(head))) == (None, [])


RATIOS = st.floats(0.01, 100)


@given(st.lists(st.tuples(RATIOS, RATIOS, RATIOS, st.floats(1.001, 3)), min_size=1, max_size=8))
def test_a_forest_stays_in_its_drawing_and_keeps_the_order_of_ratios(drawn: list[tuple[float, ...]]) -> None:
    effects = [
        Effect("x", "", "", "", "", "unchanged", ratio, min(one, two), max(one, two), (1 / limit, limit))
        for ratio, one, two, limit in drawn
    ]
    made = forest(effects, ())
    for row in (*made.rows, *made.rest):
        assert row.x is not None
        assert all(0 <= place <= WIDTH for place in (row.x, row.left, row.right, row.low, row.high))
        assert row.low <= WIDTH / 2 <= row.high
    by_ratio = sorted((row for row in made.rest), key=lambda row: row.effect.ratio)
    assert [row.x for row in by_ratio] == sorted(row.x for row in by_ratio if row.x is not None)


def test_a_figure_without_a_ratio_is_told_in_figures() -> None:
    effect = Effect(
        "queue_time.p50", "0 s", "0.4 s", "+0.4 s", "–", "unchanged", math.nan, math.nan, math.nan, (math.nan, math.nan)
    )
    (row,) = forest([effect], ()).rest
    assert row.x is None


def test_five_facts_of_a_comparison_are_those_of_the_stored_runs(scripted: Content) -> None:
    """The figures are those that `comfyload export` has."""
    view = _before(scripted, "img2img")
    (head,) = [row for row in scripted.rows if row.run_id == view.judged.id.removesuffix("-before")]
    rows = {row.effect.name: row.effect for row in (*view.judged.forest.rows, *view.judged.forest.rest)}
    for name, figure in (
        ("generation_time.p50", "generation_time.p50"),
        ("total_time.p95", "total_time.p95"),
        ("throughput", "throughput"),
    ):
        assert float(re.split(" ", rows[name].b)[0]) == pytest.approx(head.figures[figure], rel=0.005)
    load = scripted.store.load(head).load()
    medians = dict(view.ecdfs[0].table)["50 %"]
    assert float(medians[1].split()[0]) == pytest.approx(statistics.median_low(load.total_time.values), rel=0.005)
    assert view.b.commit == (head.commit or "")[:10]
