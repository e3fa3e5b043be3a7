"""A/B comparisons in a report: judged from their stored runs, apart from the history of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from pytest_comfyload.history.store import Store
from pytest_comfyload.report.html.ab_view import LIMITS, ABView
from pytest_comfyload.report.html.content import Content
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


def _views(folder: Path, slower: float, pairs: int = 7) -> tuple[ABView, ...]:
    return Content(_store(folder / "store", slower, pairs=pairs), folder).comparisons


def test_a_slower_side_is_regressed_with_its_ratio_and_what_changed(tmp_path: Path) -> None:
    (view,) = _views(tmp_path, 1.2)
    assert (view.title, view.verdict, view.pairs) == ("ab txt2img", "regressed", 7)
    assert view.sentences[0].startswith("B is worse: generation_time.p50 ×1.1")
    assert view.changed == ("node 042b91c → node 8f12d23",)
    (gate,) = [each for each in view.ratios if each.decides]
    assert gate.name == "generation_time"
    assert LIMITS[1] < gate.left < gate.x < gate.right < 200


def test_equal_sides_are_unchanged_within_the_band(tmp_path: Path) -> None:
    (view,) = _views(tmp_path, 1.0)
    assert view.verdict == "unchanged"
    gate = next(each for each in view.ratios if each.decides)
    assert LIMITS[0] < gate.left < gate.right < LIMITS[1]


def test_few_pairs_decide_nothing(tmp_path: Path) -> None:
    (view,) = _views(tmp_path, 1.2, pairs=3)
    assert view.verdict == "inconclusive"
    assert {each.interval for each in view.ratios} == {"3 pairs decide nothing"}


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
