"""Data that a test with loads or checks adds to its report: figures, a few properties, and why an SLO was not met."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import pytest

from pytest_comfyload.metrics.metric import MetricValue
from pytest_comfyload.plugin.asserts import CheckRecorder
from pytest_comfyload.plugin.repetition import attempt_of
from pytest_comfyload.plugin.session import SESSION
from pytest_comfyload.plugin.unreached import unreached_slos
from pytest_comfyload.redaction import redacted, redacted_values
from pytest_comfyload.report.comparisons import ab_lines
from pytest_comfyload.report.slo_table import TestSummary
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.checks import Check, explain, support
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.text import harmless

__all__ = [
    "attach",
    "detach",
    "expect_asserts",
    "expect_confidence",
    "expect_no_regression",
    "plain",
    "redact_report",
    "report_loads",
]

_CONTAMINATED = "The run is contaminated: other clients used the server at the same time."


def report_loads(
    item: pytest.Item,
    report: pytest.TestReport,
    error: BaseException | None,
    loads: list[LoadResult],
    recorder: CheckRecorder | None,
    comparisons: list[ABResult],
) -> None:
    """Attach the results of a test to its report.

    `error` is the exception that ended the test; `recorder` is None if its body has not begun.
    """
    recorder = recorder or CheckRecorder()
    recorder.fails(error)
    if recorder.is_watching:  # only a part of the test has finished: a subtest
        return
    checks = recorder.checks()
    # A passed test has reached all asserts that Python executes.
    wanting = error is not None if report.failed else report.passed and not __debug__
    unreached = unreached_slos(item, error, report.when, recorder) if wanting else ()
    if loads or checks or unreached or comparisons:
        _report(item, report, loads, checks, unreached, comparisons)


def _report(
    item: pytest.Item,
    report: pytest.TestReport,
    loads: list[LoadResult],
    checks: Sequence[Check],
    unreached: Sequence[str],
    comparisons: Sequence[ABResult],
) -> None:
    session = item.config.stash[SESSION]
    sampled = session.servers.samples_simulation and "gpu" in getattr(item, "fixturenames", ())
    attach(
        report,
        TestSummary(
            item.nodeid,
            tuple(load.to_dict() for load in loads),
            tuple(checks),
            tuple(unreached),
            confident=session.settings.verdict == "confident",
            sampled_simulation=sampled,
            comparisons=tuple(tuple(ab_lines(ab)) for ab in comparisons),
            attempt=attempt_of(item),
            dead_asserts=_dead_asserts(item.config),
        ),
    )
    # The item's list, not the report's: JUnit reads the properties of the teardown report.
    item.user_properties.extend(_properties(loads))
    item.user_properties.extend(("comfyload.ab", harmless(f"{ab.verdict}: {ab.sentence()}")) for ab in comparisons)
    if sampled and not loads:
        item.user_properties.append(("comfyload.simulated", "true"))
    if verdict := _verdict(report, loads, checks, unreached):
        item.user_properties.append(("comfyload.verdict", verdict))
    violated = [check for check in checks if not check.passed]
    if report.failed and violated:
        lines = [line for check in violated for line in _explained(check, loads)]
        lines += [_CONTAMINATED] if loads and loads[-1].state == "contaminated" else []
        report.sections.append(("comfyload", "\n".join(map(harmless, lines))))


def _explained(check: Check, loads: Sequence[LoadResult]) -> list[str]:
    """Return the lines that explain a violated check; without a load there are no prompts to show."""
    return explain(check, loads[-1]) if loads else [f"SLO violated: {check.claim()}", *support(check)]


def expect_confidence(checks: Sequence[Check], loads: list[LoadResult]) -> None:
    """Fail a passed test if its samples cannot settle whether its bounds are met."""
    if unsettled := [check for check in checks if check.unsettled]:
        lines = [line for check in unsettled for line in (f"SLO {check.verdict}: {check.claim()}", *support(check))]
        lines += [_CONTAMINATED] if loads and loads[-1].state == "contaminated" else []
        raise pytest.fail.Exception("\n".join(map(harmless, lines)), pytrace=False)


def expect_asserts(config: pytest.Config) -> None:
    """Fail a passed test if Python does not execute all asserts."""
    if dead := _dead_asserts(config):
        raise pytest.fail.Exception(f"inconclusive: {dead}", pytrace=False)


def _dead_asserts(config: pytest.Config) -> str:
    """Return a message on the asserts that Python does not execute; empty if there are none."""
    if __debug__:
        return ""
    # pytest compiles the asserts of test modules itself, unless it is configured not to.
    which = _NONE if config.getoption("assertmode") == "plain" else _ONLY_REWRITTEN
    return f"python -O (PYTHONOPTIMIZE): {which}; run pytest without it"


_NONE = "no assert is executed (--assert=plain), so no SLO is checked"
_ONLY_REWRITTEN = "only asserts in test modules are executed, so SLOs elsewhere are not checked"


def expect_no_regression(loads: list[LoadResult], *, allow_no_baseline: bool) -> None:
    """Fail a passed test if one of its loads became worse than earlier runs, or if that cannot be judged.

    Raises: ComfyloadError.
    """
    found = [load.regressions() for load in loads]
    if worse := [sentence for each in found for sentence in each]:
        raise pytest.fail.Exception("\n".join(map(harmless, worse)), pytrace=False)
    unjudged = [sentence for each in found for sentence in each.unjudged]
    if unjudged and not allow_no_baseline:
        raise pytest.fail.Exception("\n".join([*map(harmless, unjudged), _WITHOUT_BASELINE]), pytrace=False)


_WITHOUT_BASELINE = (
    "The run is stored, as a baseline for later ones. `comfyload baseline` makes a baseline right away, and "
    "--comfyload-allow-no-baseline passes tests that have none."
)


def _verdict(
    report: pytest.TestReport, loads: list[LoadResult], checks: Sequence[Check], unreached: Sequence[str]
) -> str | None:
    """Return the worst verdict of all SLOs of a test; None if it has none."""
    found = {
        "invalid": report.failed and bool(loads) and loads[-1].state == "invalid",
        "violated": not all(check.passed for check in checks),
        "inconclusive": any(check.unsettled for check in checks),
        "not reached": bool(unreached),
        "pass": bool(checks),
    }
    return next((verdict for verdict, is_so in found.items() if is_so), None)


_FIGURES = ("success_rate", "throughput", "generation_time.p50", "total_time.p95")


def _properties(loads: list[LoadResult]) -> Iterator[tuple[str, object]]:
    """Yield a few plain figures; the run's file contains all of them."""
    for load in loads[-1:]:
        yield "comfyload.run", load.facts.run_id
        yield "comfyload.state", load.state
        yield "comfyload.simulated", str(load.simulated).lower()
        yield "comfyload.seed", load.seed
        yield "comfyload.prompts", len(load.outcomes)
        if load.outcomes:
            yield from ((f"comfyload.{figure}", float(attrgetter(figure)(load))) for figure in _FIGURES)


ATTRIBUTE = "comfyload"
VERSION = 6


_FIELDS = tuple(field.name for field in dataclasses.fields(TestSummary) if field.name not in ("nodeid", "outcome"))


def attach(report: pytest.TestReport, summary: TestSummary) -> None:
    """Attach a summary to its report, in built-in types, which xdist can transfer from a worker to the controller."""
    payload = {name: getattr(summary, name) for name in _FIELDS}
    payload["checks"] = tuple(map(dataclasses.asdict, summary.checks))
    setattr(report, ATTRIBUTE, {"version": VERSION, **payload})


def detach(report: pytest.TestReport) -> TestSummary | None:
    """Return the summary of a report; None if it has none, or is from another version of this plugin."""
    payload = getattr(report, ATTRIBUTE, None)
    if not isinstance(payload, dict) or payload.get("version") != VERSION:
        return None
    fields = {name: payload[name] for name in _FIELDS}
    checks = tuple(Check(**check) for check in payload["checks"])
    return TestSummary(report.nodeid, **{**fields, "checks": checks}, outcome=str(report.outcome))


def redact_report(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Redact what pytest shows and other plugins write: tracebacks with values, and captured output."""
    report.sections[:] = redacted_values(report.sections)
    if isinstance(report, pytest.TestReport):
        report.user_properties[:] = redacted_values(report.user_properties)
    report.longrepr = _redact_shown(report.longrepr)


def _redact_shown(shown: Any) -> Any:
    """Redact a representation; pytest's own objects in place, since no constructor takes all of their attributes."""
    if isinstance(shown, str):
        return redacted(shown)
    if type(shown) in (list, tuple):
        return type(shown)(map(_redact_shown, shown))
    if type(shown).__module__.startswith("_pytest."):
        for name, value in vars(shown).items():
            setattr(shown, name, _redact_shown(value))
    return shown


def plain(value: Any) -> Any:
    """Replace metrics by plain numbers.

    Users may pass metrics to `record_property`, and xdist can transfer only built-in types.
    """
    match value:
        case MetricValue():
            return value.plain
        case dict():
            return {plain(key): plain(each) for key, each in value.items()}
        case list():
            return [plain(each) for each in value]
        case tuple():
            return tuple(plain(each) for each in value)
    return value
