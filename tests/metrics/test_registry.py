"""A metric is declared once: a new one appears wherever metrics are listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.exports import as_csv
from pytest_comfyload.history.index import row_of
from pytest_comfyload.history.pytest_benchmark import as_benchmark
from pytest_comfyload.metrics.comparable import comparable_figures, compared, explaining
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.registry import METRICS, unit_of
from pytest_comfyload.metrics.slo import Slo
from pytest_comfyload.metrics.spec import MetricSpec, Panel, Scale
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.terminal import run_lines
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.measurements import Measurements
from pytest_comfyload.result.outcome import Outcome
from tests.history.records import record
from tests.report.html.stores import small_store
from tests.result.outcomes import load_of, outcome

NAME = "retry_time"
SPEC = MetricSpec(
    name=NAME, title="Retry time", unit="s", help="From the first answer 429 to the last.", stats=("p50", "p95"),
    scale=Scale(floor=0.1), explains=("p95",), terminal="retry", slo=True, mirrored=True,
    panel=Panel(id="retry", order=35, stats=("p50", "p95"), caption="How long servers refused."),
)  # fmt: skip


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadResult]:
    """A load of two prompts, for each of which the new metric is 4 s."""
    monkeypatch.setitem(METRICS, NAME, SPEC)
    monkeypatch.setattr(
        Measurements, NAME, property(lambda self: Distribution(NAME, [4.0 for _ in self.outcomes])), raising=False
    )
    monkeypatch.setattr(Outcome, NAME, 4.0, raising=False)
    comparable_figures.cache_clear()
    yield load_of(outcome(), outcome(1.0))
    comparable_figures.cache_clear()


def test_before_it_is_declared_it_is_nowhere() -> None:
    with pytest.raises(UsageError):
        compared(f"{NAME}.p50")
    assert NAME not in load_of(outcome()).to_dict()


def test_figures_hold_it(load: LoadResult) -> None:
    assert load.to_dict()[NAME]["p95"] == 4.0


def test_the_terminal_shows_it(load: LoadResult) -> None:
    assert any("retry 4 s / 4 s" in line for line in run_lines(load.to_dict()))


def test_a_gate_and_an_slo_can_be_about_it(load: LoadResult) -> None:
    assert (compared(f"{NAME}.p50").unit, compared(f"{NAME}.p50").scale.floor) == ("s", 0.1)
    assert f"{NAME}.p95" in explaining()
    assert Slo.parse(f"{NAME}.p95 < 5").met_by(load)
    with pytest.raises(UsageError, match=NAME):
        Slo.parse("retry_tim.p95 < 5")


def test_pairs_of_runs_have_its_ratio_and_unit(load: LoadResult) -> None:
    figure = ABResult("t", (load, load), (load, load)).figure(f"{NAME}.p50")
    assert (figure.unit, float(figure.ratio)) == (unit_of(f"{NAME}.p50"), 1.0)


def test_exports_and_the_mirror_hold_it(load: LoadResult) -> None:
    stored = record(0)
    assert f"{NAME}.p50" in as_csv([row_of("a.run", stored)]).splitlines()[0]
    assert f"::{NAME}" in as_benchmark([stored])


def test_the_trend_draws_it(load: LoadResult, tmp_path: Path) -> None:
    content = Content(small_store(tmp_path / "store"), tmp_path, cache=tmp_path)
    trend = content.trend([])
    panels = [panel["id"] for panel in trend["panels"]]
    assert panels[panels.index("queue") + 1] == "retry"
    assert all(f"{NAME}.p50" in line["figures"] for line in trend["lines"])
