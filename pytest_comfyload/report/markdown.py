"""The summary as GitHub-flavoured Markdown for a job summary or a comment: the verdict first, the details folded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_comfyload.metrics.units import counted, format_interval, format_value
from pytest_comfyload.report.github import Section, code, fenced, fitted, in_text
from pytest_comfyload.report.slo_table import TestSummary, last_attempts
from pytest_comfyload.report.terminal import run_lines
from pytest_comfyload.result.checks import Check

if TYPE_CHECKING:
    from pytest_comfyload.report.html.overview import Overview, ScenarioRow

__all__ = ["COMMENT_SIZE", "MARK", "STEP_SUMMARY_SIZE", "ComparedTest", "blocks", "summary_markdown"]

# GitHub's limits: characters of a comment, which are never more than its bytes, and bytes of a step summary.
COMMENT_SIZE = 65_536
STEP_SUMMARY_SIZE = 1024 * 1024

# Starts every summary, so that an existing comment can be found and updated.
MARK = "<!-- comfyload -->"

_SIMULATED = "> **SIMULATED**: these figures are a model's, in virtual time; they say nothing about a real server.\n"
_COLUMNS = "| | SLO | measured | 90 % interval | margin | n | test |\n|---|---|--:|--:|--:|--:|---|\n"
# In the order in which they are reported.
_WORDS = (
    "violated", "invalid", "unresolved", "inconclusive", "unsupported", "not reached", "run again", "no baseline",
    "held",
)  # fmt: skip
_BAD, _DOUBTFUL, _GOOD = "❌", "⚠️", "✅"


@dataclass(frozen=True, slots=True)
class ComparedTest:
    """A test compared with its earlier runs: a verdict such as `regressed`, and the sentence that explains it.

    `changed`: possible causes, such as `KSampler.steps 20 → 26`.
    """

    test: str
    verdict: str
    sentence: str
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _SloRow:
    """A row of the SLO table. `check` None: the SLO was not reached, and `claim` is the test's source text."""

    test: str
    claim: str
    word: str
    icon: str
    check: Check | None = None


def summary_markdown(
    summaries: Sequence[TestSummary],
    comparisons: Iterable[ComparedTest] = (),
    notes: Iterable[str] = (),
    *,
    overview: Overview | None = None,
    links: Sequence[tuple[str, str]] = (),
    tests_failed: int = 0,
    size: int = COMMENT_SIZE,
) -> str:
    """Return the summary in at most `size` bytes (at least 1000), with a note on what was left out.

    Args:
        notes: Reasons why comparisons with earlier runs were not possible.
        overview: The first screen of the HTML report; its sentence becomes the headline.
        links: Text and URL of pages with more details.
        tests_failed: Failed tests of the session, so that a failure without an SLO is not shown as green.
    """
    runs = list({run["run_id"]: run for summary in summaries for run in summary.runs}.values())
    last = last_attempts(summaries)
    slos = [slo for summary in summaries for slo in _slos(summary, last[summary.nodeid])]
    top = f"{MARK}\n### {_top(slos, runs, tests_failed, overview)}"
    if links:
        top += f"\n{' · '.join(f'[{in_text(words)}]({url})' for words, url in links)}\n"
    if any(summary.is_simulated for summary in summaries):
        top += f"\n{_SIMULATED}"
    ab = [lines for summary in summaries for lines in summary.comparisons]
    scenarios = () if overview is None else overview.rows
    return fitted(top, _sections(slos, runs, comparisons, notes, ab, scenarios), size)


# --- results of the SLOs ---


def _slos(summary: TestSummary, last: int) -> Iterator[_SloRow]:
    """Yield the SLOs of a test; a violation in any attempt but the last does not count."""
    for slo in _slos_of_attempt(summary, summary.named(summary.nodeid, last)):
        superseded = summary.attempt < last and slo.word in ("violated", "not reached")
        yield replace(slo, word="run again", icon=_DOUBTFUL) if superseded else slo


def _slos_of_attempt(summary: TestSummary, test: str) -> Iterator[_SloRow]:
    for check in summary.checks:
        claim = f"{check.metric} {check.op} {check.written_bound}"
        word = _word(check)
        icon = _GOOD if word == "held" else _DOUBTFUL if check.unsettled and not summary.confident else _BAD
        yield _SloRow(test, claim, word, icon, check)
    for claim in summary.unreached:
        yield _SloRow(test, claim, "not reached", _BAD)


def _word(check: Check) -> str:
    if check.verdict == "no baseline":
        return check.verdict
    if not check.passed:
        return "violated"
    return str(check.verdict) if check.unsettled else "held"


_SUSPECT = ("incomplete", "invalid", "contaminated")


def _top(slos: Sequence[_SloRow], runs: Iterable[dict[str, Any]], tests_failed: int, overview: Overview | None) -> str:
    """Return the headline: `❌ Load tests: 1 of 12 SLOs violated, 2 not reached, 9 held; 1 test failed`.

    With an overview, its sentence and details come first.
    """
    states, level = Counter(run["state"] for run in runs), "" if overview is None else overview.headline.level
    failed = tests_failed or states["invalid"] or states["incomplete"] or any(slo.icon == _BAD for slo in slos)
    doubtful = states["contaminated"] or any(slo.icon == _DOUBTFUL for slo in slos) or level == "doubtful"
    icon = _BAD if failed or level == "bad" else _DOUBTFUL if doubtful else _GOOD
    parts = [_counts(slos)]
    parts += [f"{counted(states[name], 'run')} {name}" for name in _SUSPECT if states[name]]
    parts += [f"{counted(tests_failed, 'test')} failed"] if tests_failed else []
    counts = f"Load tests: {'; '.join(parts)}"
    # A failure that the overview knows nothing about, such as a missing baseline, is not hidden behind its good news.
    if overview is None or (failed and level != "bad"):
        return f"{icon} {counts}\n"
    details = "".join(f"- {in_text(each)}\n" for each in overview.headline.details)
    return f"{icon} {in_text(overview.headline.sentence)}\n\n{details}\n{counts}\n"


def _counts(slos: Sequence[_SloRow]) -> str:
    words = Counter(slo.word for slo in slos)
    told = [(word, words[word]) for word in _WORDS if words[word]]
    if not told:
        return "no SLO was asserted"
    (first, count), *others = told
    if not others:
        return f"{counted(count, 'SLO')} {first}"
    return ", ".join([f"{count} of {counted(len(slos), 'SLO')} {first}", *(f"{n} {word}" for word, n in others)])


# --- the page ---


def _sections(
    slos: Iterable[_SloRow],
    runs: Sequence[dict[str, Any]],
    comparisons: Iterable[ComparedTest],
    notes: Iterable[str],
    ab: Sequence[Sequence[str]],
    scenarios: Sequence[ScenarioRow],
) -> Iterator[Section]:
    """Yield the sections in order of importance; the last ones are the first to be left out."""
    ranked = sorted(slos, key=lambda slo: _WORDS.index(slo.word))
    unmet = [slo for slo in ranked if slo.icon != _GOOD]
    held = [slo for slo in ranked if slo.icon == _GOOD]
    invalid = [f"- {code(run['title'])}: {in_text(run['invalid_because'])}\n" for run in runs if run["invalid_because"]]
    compared = [f"- {_DOUBTFUL} {in_text(note)}\n" for note in notes]
    compared += map(_compared, comparisons)
    if unmet:
        yield Section("SLOs not met", list(map(_row, unmet)), _COLUMNS)
    if sentences := list(_sentences(unmet)):
        yield Section("explanations", sentences)
    if invalid:
        yield Section("reasons of invalid runs", invalid, "**Invalid runs**\n\n")
    if compared:
        yield Section("comparisons", compared, "**Against earlier runs**\n\n")
    if ab:
        yield Section("comparisons of A and B", [fenced(lines) for lines in ab], "**B against A**\n\n")
    if scenarios:
        yield Section("scenarios", list(map(_scenario, scenarios)), _SCENARIOS)
    if held:
        head, tail = _fold(f"{counted(len(held), 'SLO')} held")
        yield Section("SLOs that held", list(map(_row, held)), head + _COLUMNS, tail)
    if runs:
        yield Section("runs", [fenced(run_lines(run)) for run in runs], *_fold(counted(len(runs), "run")))


def _compared(test: ComparedTest) -> str:
    changed = f"; changed: {in_text('; '.join(test.changed))}" if test.changed else ""
    return f"- {code(test.test)} **{in_text(test.verdict)}**: {in_text(test.sentence)}{changed}\n"


_SCENARIOS = "| scenario | | the last runs | newest |\n|---|---|---|--:|\n"
_BLOCKS = "▁▂▃▄▅▆▇█"


def _scenario(row: ScenarioRow) -> str:
    """Return a table row with the trend as text, since GitHub shows neither embedded nor non-public pictures."""
    from pytest_comfyload.report.html.overview import scenario_name

    name = f"{code(scenario_name(row.item.test))} {in_text(row.hardware)}"
    newest = row.item.medians.rpartition("→")[2].strip()
    cells = (name, in_text(row.status), f"<code>{blocks(row.spark.levels)}</code>", in_text(newest))
    return f"| {' | '.join(cells)} |\n"


def blocks(levels: Iterable[float]) -> str:
    """Draw levels from 0 to 1 as `▂▂▃▂▇▇`."""
    return "".join(_BLOCKS[min(len(_BLOCKS) - 1, int(level * len(_BLOCKS)))] for level in levels)


def _fold(title: str) -> tuple[str, str]:
    # Without the empty lines, the contents would not be parsed as Markdown.
    return f"<details><summary>{title}</summary>\n\n", "\n</details>\n"


def _row(slo: _SloRow) -> str:
    cells = [f"{slo.icon} {slo.word}", code(slo.claim), *_figures(slo.check), code(slo.test)]
    return f"| {' | '.join(cells)} |\n"


def _figures(check: Check | None) -> list[str]:
    if check is None:
        return [""] * 4
    bounded = check.lower is not None and check.upper is not None
    interval = format_interval(check.lower or 0.0, check.upper or 0.0, check.unit) if bounded else ""
    return [in_text(format_value(check.value, check.unit)), in_text(interval), check.written_margin, str(check.n)]


def _sentences(slos: Iterable[_SloRow]) -> Iterator[str]:
    for slo in slos:
        if slo.check is not None and slo.check.sentence:
            yield f"- {code(slo.check.metric)} of {code(slo.test)}: {in_text(slo.check.sentence)}\n"
