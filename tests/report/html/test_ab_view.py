"""A/B comparisons in a report: judged from their stored runs, apart from the history of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from pytest_comfyload.history.store import Store
from pytest_comfyload.report.html.compare_view import CompareView
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.forest import WIDTH
from pytest_comfyload.result.run_facts import ABHalf
from tests.benchmarks.histories import record

pytest.importorskip("jinja2")


def _store(folder: Path, slower: float, *, pairs: int = 7) -> Store:
    store = Store.open(folder)
    for number in range(2 * pairs):
        side: Literal["A", "B"] = "A" if number % 4 in (0, 3) else "B"
        pair = number // 2 + 1
        half = ABHalf("c0ffee", "ab txt2img", side, pair, ("node 042b91c", "node 8f12d23"))
        level = 2.0 * (slower if side == "B" else 1.0)
        store.add(record(number, 0, level=level, facts={"half": half, "title": f"ab txt2img, {side}"}))
    return store


def _views(folder: Path, slower: float, pairs: int = 7) -> tuple[CompareView, ...]:
    return Content(_store(folder / "store", slower, pairs=pairs), folder).comparisons


def test_a_slower_side_is_regressed_with_its_ratio_and_what_changed(tmp_path: Path) -> None:
    (view,) = _views(tmp_path, 1.2)
    judged = view.judged
    assert (judged.test, judged.verdict, judged.kind) == ("ab txt2img", "regressed", "7 interleaved pairs")
    assert judged.sentences[0].startswith("B is worse: generation_time.p50 ×1.1")
    assert view.changed == ("node 042b91c → node 8f12d23",)
    gate = judged.forest.rows[0]
    assert gate.effect is judged.gate
    assert (gate.effect.name, gate.tone) == ("generation_time.p50", "worse")
    assert gate.x is not None
    assert gate.high < gate.left < gate.x < gate.right < WIDTH
    rows = {row.effect.name: row for row in (*judged.forest.rows, *judged.forest.rest)}
    assert rows["node_time[KSampler]"].tone == "worse"
    assert rows["throughput"].tone == "worse"  # lower throughput is worse
    assert rows["node_time[VAEDecode]"].tone == "noise"


def test_equal_sides_are_unchanged_within_the_band(tmp_path: Path) -> None:
    (view,) = _views(tmp_path, 1.0)
    assert view.judged.verdict == "unchanged"
    gate = view.judged.forest.rows[0]
    assert gate.low < gate.left < gate.right < gate.high


def test_few_pairs_decide_nothing(tmp_path: Path) -> None:
    (view,) = _views(tmp_path, 1.2, pairs=3)
    assert view.judged.verdict == "inconclusive"
    rows = (*view.judged.forest.rows, *view.judged.forest.rest)
    assert {(row.effect.interval, row.left, row.right) for row in rows} == {
        ("3 pairs are too few for a verdict", 0, WIDTH)
    }


def test_both_sides_are_pooled_and_the_difference_is_explained(tmp_path: Path) -> None:
    (view,) = _views(tmp_path, 1.2)
    assert view.ecdfs[0].words.startswith("A n = 42, ")
    assert {shade.style for shade in view.ecdfs[0].shades} >= {"slower"}
    assert view.judged.waterfall is not None
    slower = {step.name for step in view.judged.waterfall.steps if step.tone == "slower"}
    assert {"queue", "KSampler"} <= slower


def test_halves_are_no_rows_of_the_history(tmp_path: Path) -> None:
    store = _store(tmp_path / "store", 1.2)
    for number in range(6):
        store.add(record(number, 1, come={"branch": "main", "session": str(number)}))
    content = Content(store, tmp_path)
    assert {row.item.test for row in content.overview.rows} == {"sample_suites/test_img2img.py::test_slo"}
    assert len(content.comparisons) == 1
    assert content.overview.headline.level == "good"


def test_a_store_of_comparisons_alone_begins_with_the_newest(tmp_path: Path) -> None:
    overview = Content(_store(tmp_path / "store", 1.2), tmp_path).overview
    assert (overview.rows, overview.headline.level) == ((), "bad")
    assert overview.headline.sentence == "ab txt2img: B against A is regressed."


def test_a_side_without_a_run_makes_no_comparison(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    store.add(record(1, facts={"half": ABHalf("x", "ab", "A", 1)}))
    assert Content(store, tmp_path).comparisons == ()
