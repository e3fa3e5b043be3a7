"""Verdicts of a session, posted as JSON to `--comfyload-webhook`; an error is reported in one line, and fails nothing.

The schema is in docs/reference/formats.md; `SCHEMA` changes if a field changes its meaning or is removed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from pytest_comfyload.plugin.termination import contained
from pytest_comfyload.redaction import redacted_values
from pytest_comfyload.text import harmless

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.plugin.archive import RunArchiver, SummaryCollector
    from pytest_comfyload.plugin.session import LoadSession
    from pytest_comfyload.report.slo_table import TestSummary

__all__ = ["SCHEMA", "Webhook"]

SCHEMA = "comfyload.verdicts/1"
# Seconds for connecting, and for the response.
PATIENCE = 10.0
# Bytes of the body; if it is larger, runs are posted without their figures.
MOST = 1024 * 1024
_FROM_A_RUN = ("run_id", "state", "invalid_because", "simulated", "workflow", "servers", "success_rate")


class Webhook:
    """Plugin that posts verdicts; registered if a URL is given, in every process except xdist workers."""

    def __init__(
        self, address: ServerAddress, session: LoadSession, collector: SummaryCollector, archiver: RunArchiver
    ) -> None:
        self._address = address
        self._session = session
        self._collector = collector
        self._archiver = archiver
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)

    # Called after the archiver, since it is registered after it: by then the runs are compared with earlier ones.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if session.config.option.collectonly or not self._collector.summaries:
            return
        with contained("--comfyload-webhook: not posted", self._archiver.lines.append):
            refused = post(self._address, self._body(int(exitstatus)))
            if refused:
                self._archiver.lines.append(
                    harmless(f"--comfyload-webhook: {urlsplit(self._address.url).netloc} {refused}")
                )

    def _body(self, exit_status: int) -> bytes:
        document = self._document(exit_status, figures=True)
        body = _encoded(document)
        return body if len(body) <= MOST else _encoded(self._document(exit_status, figures=False))

    def _document(self, exit_status: int, *, figures: bool) -> dict[str, Any]:
        provenance = self._session.origin.provenance_of(self._session.project)
        return {
            "schema": SCHEMA,
            "session": self._session.origin.name,
            "label": provenance.label,
            "repository": provenance.repository,
            "commit": provenance.commit,
            "branch": provenance.branch,
            "dirty": provenance.dirty,
            "exit_status": exit_status,
            "tests": [self._test(summary, figures) for summary in self._collector.summaries],
            "comparisons": [
                {"test": each.test, "verdict": str(each.verdict), "fails": each.fails, "sentence": each.sentence()}
                for each in self._archiver.comparisons
            ],
            "notes": list(self._archiver.notes),
        }

    def _test(self, summary: TestSummary, figures: bool) -> dict[str, Any]:
        return {
            "test": summary.nodeid,
            "attempt": summary.attempt,
            "passed": summary.nodeid not in self._failed,
            "simulated": summary.is_simulated,
            "slos": [
                {name: value for name, value in dataclasses.asdict(check).items() if name != "settled_by"}
                for check in summary.checks
            ],
            "not_reached": list(summary.unreached),
            "runs": [run if figures else {name: run.get(name) for name in _FROM_A_RUN} for run in summary.runs],
        }


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(redacted_values(_finite(document)), default=str, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    """Replace infinity, which JSON lacks, by `"inf"` (a percentile among failures), and nan by null (unknown)."""
    match value:
        case float():
            return float(value) if math.isfinite(value) else (None if math.isnan(value) else str(float(value)))
        case Mapping():
            return {str(key): _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Refuse redirects: credentials must not be sent to another host."""


def post(address: ServerAddress, body: bytes) -> str:
    """Send the body once; return why it was not accepted, empty if it was. The environment's proxies are used."""
    url = address.url + (f"?{address.query}" if address.query else "")
    headers = {"Content-Type": "application/json", "User-Agent": "pytest-comfyload", **address.headers}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=PATIENCE):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"answered {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f"was not reached ({getattr(error, 'reason', error)})"
