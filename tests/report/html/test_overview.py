"""The first screen of a scripted history: what is broken comes first, in words, with its cause."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from pytest_comfyload.history.index import CheckedFigure, Row, row_of
from pytest_comfyload.history.record import TestChecks
from pytest_comfyload.history.store import Store
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.overview import STATUSES, Overview, scenario_name
from pytest_comfyload.report.html.series import Line
from pytest_comfyload.report.html.sparklines import sparkline
from tests.benchmarks.histories import record
from tests.report.html.scripted import HEAD_TITLE, scripted_store

pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Overview:
    folder = tmp_path_factory.mktemp("scripted")
    return Content(scripted_store(folder / "store"), folder).overview


def test_the_first_sentence_says_what_is_broken(scripted: Overview) -> None:
    headline = scripted.headline
    assert headline.level == "bad"
    assert headline.sentence.endswith(f"“{HEAD_TITLE}”: 2 scenarios failing, 1 slower.")
    memory, slo, slower = headline.details
    assert memory.startswith("inpainting · test_slo: 5 of 20 prompts ran out of memory")
    assert "2 SLOs not reached" in memory
    assert re.match(r"upscale · test_slo: total_time\.p95 < 5 s failed: \d", slo)
    assert re.match(r"img2img · test_slo: generation_time\.p50 \+6\d %", slower)
    assert "ImageScale.width 512 → 704" in slower


def test_rows_are_ordered_by_how_bad_they_are(scripted: Overview) -> None:
    assert [row.status for row in scripted.rows] == ["failing", "failing", "suspected", "fine", "fine"]
    assert [row.failed for row in scripted.rows] == [5, 0, 0, 0, 0]
    assert {row.hardware for row in scripted.rows} == {"RTX 4090 · 24 GiB", "H100 80GB HBM3 · 80 GiB"}
    assert list(STATUSES).index("failing") == 0


def test_an_slo_has_a_dot_whether_it_was_reached_or_not(scripted: Overview) -> None:
    memory = scripted.rows[0]
    assert [slo.verdict for slo in memory.slos] == ["fail", "not reached", "not reached"]
    assert memory.failed_slos == 3


def test_a_step_is_marked_and_a_run_that_was_invalid_is_left_out(scripted: Overview) -> None:
    by_name = {scenario_name(row.item.test): row.spark for row in scripted.rows}
    assert len(by_name["txt2img · test_slo"].steps) == 1
    # Of 29 runs, two are on a branch and one was invalid.
    assert len(by_name["upscale · test_slo"].points) == 26
    for spark in by_name.values():
        assert all(0 <= x <= 120 and 0 <= y <= 28 for x, y in spark.points)


def test_neighbours_are_commits_that_have_a_page(tmp_path: Path) -> None:
    from pytest_comfyload.report.html.write import write_site

    store = Store.open(tmp_path / "store")
    for number in range(1, 5):
        store.add(record(number, come={"branch": "main", "session": str(number)}))
        write_site(Content(store, tmp_path), tmp_path / "site", most=2)
    pages = sorted((tmp_path / "site" / "commits").glob("*.html"))
    assert len(pages) == 4  # pages of older commits stay
    text = [page.read_text(encoding="utf-8") for page in pages]
    assert f'rel="next" href="{pages[3].name}"' in text[2]  # rewritten for its new neighbour
    write_site(Content(store, tmp_path), tmp_path / "other", most=1)
    (only,) = (tmp_path / "other" / "commits").glob("*.html")
    assert 'rel="prev"' not in only.read_text(encoding="utf-8")


def test_every_series_has_a_card(scripted: Overview) -> None:
    cards = {(scenario_name(card.line.newest.test), card.hardware): card for card in scripted.cards}
    assert len(cards) == 5
    assert cards["img2img · test_slo", "H100 80GB HBM3 · 80 GiB"].value.endswith(" s")
    assert {card.bound for card in scripted.cards} == {""}  # no test has a bound on the figure that decides the verdict
    for card in scripted.cards:
        assert all(0 <= x <= 280 and 0 <= y <= 72 for x, y in card.spark.points)


def test_noise_of_two_percent_does_not_fill_a_drawing(scripted: Overview) -> None:
    spark = next(row.spark for row in scripted.rows if "upscale" in row.item.test)
    ys = [y for _, y in spark.points]
    assert max(ys) - min(ys) < 0.7 * 22


def test_a_drawing_has_the_bounds_as_they_were_at_each_commit() -> None:
    made = row_of("a.run", record(1))
    value = made.figures[made.gate]
    bounds = [2 * value, 2 * value, 1.5 * value, None, 1.5 * value]
    rows = tuple(_held(made, number, bound) for number, bound in enumerate(bounds))
    spark = sparkline(Line(rows), rows[-1])
    (_, _, high), (_, _, low), (_, _, again) = spark.bounds
    assert [(begin, end) for begin, end, _ in spark.bounds] == [(0, 60), (60, 88.5), (117, 120)]
    assert high < low == again < spark.points[-1][1]  # heights are measured from the top


def _held(made: Row, number: int, bound: float | None) -> Row:
    checked = () if bound is None else (CheckedFigure(made.gate, "s", made.figures[made.gate], "<", bound),)
    return msgspec.structs.replace(made, run_id=str(number), time=made.time + number, checked=checked)


def test_a_good_commit_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for number in range(1, 7):
        store.add(record(number, come={"branch": "main", "session": str(number)}))
    headline = Content(store, tmp_path).overview.headline
    assert headline.level == "good"
    assert headline.sentence.endswith(": nothing broken, nothing slower.")
    assert headline.details == ()


def test_an_assert_that_was_not_reached_is_stored_and_counted(tmp_path: Path) -> None:
    made = record(3)
    (test,) = made.checks
    store = Store.open(tmp_path / "store")
    store.add(msgspec.structs.replace(made, checks=(TestChecks(test.nodeid, test.checks[:1], ("load.x < 1",)),)))
    (row,) = store.runs()
    assert row.slos == (1, 2)
    assert store.load(row).checks[0].unreached == ("load.x < 1",)


@pytest.mark.parametrize(
    ("test", "name"),
    [
        ("sample_suites/test_img2img.py::test_slo", "img2img · test_slo"),
        ("tests/load/test_flux.py::TestBig::test_it [a/b]", "flux · TestBig::test_it [a/b]"),
        ("imported", "imported"),
    ],
)
def test_names_lose_their_folders(test: str, name: str) -> None:
    assert scenario_name(test) == name
