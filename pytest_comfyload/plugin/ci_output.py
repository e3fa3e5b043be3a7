"""Output for CI servers besides JUnit: the summary as Markdown, and failures annotated at their source lines.

It never fails a test run: whatever cannot be written is reported in one line.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.plugin.termination import contained
from pytest_comfyload.text import harmless, harmless_line

if TYPE_CHECKING:
    from pytest_comfyload.plugin.archive import RunArchiver, SummaryCollector
    from pytest_comfyload.plugin.settings import PluginSettings
    from pytest_comfyload.report.github import Annotation
    from pytest_comfyload.report.html.content import Content

__all__ = ["CiOutput"]

# Bytes that must be left in a step's summary that others write to; with less, too little of ours would fit.
_LEAST_ROOM = 4096
_PACKAGE = Path(__file__).parents[1]


class CiOutput:
    """Plugin that writes output for CI; registered in every process except xdist workers."""

    def __init__(
        self,
        config: pytest.Config,
        collector: SummaryCollector,
        archiver: RunArchiver,
        settings: PluginSettings,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._config = config
        self._collector = collector
        self._archiver = archiver
        self._markdown = settings.markdown
        self._report_url = settings.report_url
        self._annotates = settings.annotations == "on" or (
            settings.annotations == "auto" and environ.get("GITHUB_ACTIONS") == "true"
        )
        self._workspace = Path(environ.get("GITHUB_WORKSPACE") or config.rootpath)
        self._step_summary = environ.get("GITHUB_STEP_SUMMARY")
        self._annotations: list[Annotation] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not (self._annotates and report.failed and hasattr(report, "comfyload")):
            return
        from pytest_comfyload.plugin.report_data import detach
        from pytest_comfyload.report.github import Annotation, failures

        summary = detach(report)
        if summary is not None:
            file, line = self._place(report)
            self._annotations += [Annotation(file, line, *said) for said in failures(summary)]

    # Called after the archiver, since it is registered after it: by then the runs are compared with earlier ones.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            return
        with contained("nothing is written for CI", self._archiver.lines.append):
            self._print([*self._commands(), *self._written(session.testsfailed)])

    def _print(self, lines: Sequence[str]) -> None:
        if lines:
            with self._uncaptured():
                # pytest's progress dots are on the current line, and a command must begin a line.
                sys.stdout.write("\n" + "".join(f"{line}\n" for line in lines))
                sys.stdout.flush()

    # --- files ---

    def _written(self, failed: int) -> Iterator[str]:
        """Write the files, and yield a line for each that failed; a requested file is written even without a load."""
        if self._markdown is not None:
            yield from _attempt("--comfyload-markdown", self._replace, self._markdown, failed)
        if self._step_summary and self._collector.summaries:
            yield from _attempt("GITHUB_STEP_SUMMARY", self._append, Path(self._step_summary), failed)
        junit = self._config.getoption("xmlpath", None)
        if junit and self._archiver.comparisons:
            file = self._config.invocation_params.dir / Path(os.path.expandvars(junit)).expanduser()
            yield from _attempt("--junitxml", self._add_verdicts, file, failed)

    def _replace(self, file: Path, failed: int) -> None:
        from pytest_comfyload.report.markdown import COMMENT_SIZE

        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._summary(COMMENT_SIZE, failed), encoding="utf-8", newline="\n")

    def _add_verdicts(self, file: Path, _: int) -> None:
        """Add to each test the verdict on its run, which was not known when the test finished."""
        from xml.etree import ElementTree

        from pytest_comfyload.report.comparisons import worst_first

        verdicts = {
            row.run_id: each for each in reversed(worst_first(self._archiver.comparisons)) for row in each.head.rows
        }
        tree = ElementTree.parse(file)
        for properties in tree.iterfind(".//testcase/properties"):
            runs = [each.get("value", "") for each in properties if each.get("name") == "comfyload.run"]
            for verdict in (verdicts[run] for run in runs if run in verdicts):
                sentence = f"{verdict.gate.metric.title} {verdict.sentence()}"
                for name, value in (("regression", str(verdict.verdict)), ("regression.sentence", sentence)):
                    attributes = {"name": f"comfyload.{name}", "value": harmless_line(value)}
                    ElementTree.SubElement(properties, "property", attributes)
        tree.write(file, encoding="utf-8", xml_declaration=True)

    def _append(self, file: Path, failed: int) -> None:
        from pytest_comfyload.report.markdown import STEP_SUMMARY_SIZE

        room = STEP_SUMMARY_SIZE - (file.stat().st_size if file.exists() else 0)
        if room < _LEAST_ROOM:
            raise OSError(f"{file} is full")
        with file.open("a", encoding="utf-8", newline="\n") as page:
            page.write("\n" + self._summary(room - 1, failed))

    def _summary(self, size: int, failed: int) -> str:
        from pytest_comfyload.report.comparisons import worst_first
        from pytest_comfyload.report.markdown import ComparedTest, summary_markdown

        compared = [
            ComparedTest(each.test, each.verdict, f"{each.gate.metric.title} {each.sentence()}", each.subject)
            for each in worst_first(self._archiver.comparisons)
        ]
        content = self._archiver.content
        return summary_markdown(
            self._collector.summaries,
            compared,
            self._archiver.notes,
            overview=None if content is None else content.overview,
            links=self._links(content),
            tests_failed=failed,
            size=size,
        )

    def _links(self, content: Content | None) -> list[tuple[str, str]]:
        """Return titles and URLs of the pages of the published report that show more than the summary."""
        if not self._report_url:
            return []
        from pytest_comfyload.report.html.write import commit_path

        links = [("Report", f"{self._report_url}/index.html")]
        if content is not None:
            links.append(("this commit", f"{self._report_url}/{commit_path(content.newest)}"))
        return links

    # --- annotations ---

    def _commands(self) -> Iterator[str]:
        if self._annotations:
            from pytest_comfyload.report.github import commands

            yield from commands(self._annotations)

    def _place(self, report: pytest.TestReport) -> tuple[str, int]:
        """Return file and line of the failed assert if it is in the workspace, else of the test."""
        crash: Any = getattr(report.longrepr, "reprcrash", None)
        path = Path(crash.path) if crash is not None else _PACKAGE
        if path.is_relative_to(self._workspace) and not path.is_relative_to(_PACKAGE):
            return path.relative_to(self._workspace).as_posix(), crash.lineno
        file, line, _ = report.location
        path = Path(os.path.normpath(self._config.rootpath / file))
        inside = path.is_relative_to(self._workspace)
        return (path.relative_to(self._workspace) if inside else path).as_posix(), (line or 0) + 1

    def _uncaptured(self) -> contextlib.AbstractContextManager[None]:
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        disabled: contextlib.AbstractContextManager[None] | None = capture and capture.global_and_fixture_disabled()
        return disabled or contextlib.nullcontext()


def _attempt(what: str, write: Callable[[Path, int], None], file: Path, failed: int) -> Iterator[str]:
    try:
        write(file, failed)
    except OSError as error:
        yield harmless(f"comfyload: {what}: not written: {error}")
