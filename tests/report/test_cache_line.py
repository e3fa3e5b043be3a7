"""The summary names what came from the cache and what always ran."""

from __future__ import annotations

from pytest_comfyload.history.index import row_of
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.report.html.run_data import run_data
from pytest_comfyload.report.html.run_view import run_view
from pytest_comfyload.report.slo_table import TestSummary
from pytest_comfyload.report.terminal import summary_lines
from pytest_comfyload.result.checks import format_value
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass, OutcomeStatus
from tests.result.made import prompt, run_of


def lines(load: LoadResult) -> list[str]:
    return summary_lines([TestSummary("test_it", (load.to_dict(),), ())], color=False, width=200, verbosity=1)


def test_the_cache_line() -> None:
    ran = {"KSampler": 1.0, "SaveImage": 1.0}
    load = run_of(
        prompt(0.0, ran, cached=("CheckpointLoaderSimple", "CLIPTextEncode")),
        prompt(1.0, ran, cached=("CheckpointLoaderSimple",)),
        prompt(2.0, status=OutcomeStatus.OOM),
    )
    expected = "  cached: CheckpointLoaderSimple, CLIPTextEncode (1 of 2); ran always: KSampler, SaveImage"
    assert expected in lines(load)


def test_no_line_without_anything_to_say() -> None:
    assert not [line for line in lines(run_of()) if "cached:" in line or "ran always" in line]


def test_bytes_are_for_people() -> None:
    assert format_value(12.5 * 1024**3, "B") == "12.5 GiB"
    assert format_value(3 * 1024**2, "B") == "3 MiB"
    assert format_value(-2.0 * 1024**2, "B/min") == "-2 MiB/min"


def test_prompts_from_the_cache_are_counted_and_said_not_to_be_measured() -> None:
    ran = {"KSampler": 2.0, "SaveImage": 0.1}
    hit = prompt(0.0, {"SaveImage": 0.1}, cache_class=CacheClass.PARTLY, reused=("KSampler",))
    prompts = [hit, *(prompt(1.0 + at, ran) for at in range(20))]
    assert any(
        line.startswith("  21 prompts succeeded (1 from the server's cache, and not measured) in ")
        for line in lines(run_of(*prompts))
    )
    allowed = lines(run_of(*prompts, allow_cached=True))
    assert any(line.startswith("  21 prompts succeeded (1 from the server's cache) in ") for line in allowed)
    assert not any("from the server's cache" in line for line in lines(run_of(*prompts[1:])))


def test_the_page_of_a_run_tells_them_and_leaves_them_out_of_its_curves() -> None:
    ran = {"KSampler": 2.0, "SaveImage": 0.1}
    hit = prompt(0.0, {"SaveImage": 0.1}, cache_class=CacheClass.PARTLY, reused=("KSampler",))
    load = run_of(hit, *(prompt(1.0 + at, ran) for at in range(20)))
    record = record_of(load, Provenance())
    view = run_view(row_of("a.run", record), record, None)
    assert ("from the cache", "1, not measured") in view.facts
    assert run_data(record)["prompts"] == 21
    generation = next(each for each in view.ecdfs if each.title == "Generation time")
    assert generation.words.startswith("n = 20, ")
