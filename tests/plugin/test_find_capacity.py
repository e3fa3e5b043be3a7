"""A capacity is asserted like any other metric, and an invalid search is one clear line."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


def test_find_capacity(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_URL", raising=False)
    pytester.makepyfile(
        """
        SHAPE = dict(arrival="users", budget="60m", fetch=False, max_send_lag="30s")

        def test_enough(find_capacity):
            capacity = find_capacity("txt2img", slo="total_time.p95 < 15", **SHAPE)
            assert len(capacity.runs) >= 2
            assert capacity.limited_by == "queue"
            assert capacity.value > 1000

        def test_bad_slo(find_capacity):
            find_capacity("txt2img", slo="total_time < 15", **SHAPE)
        """
    )
    # At ×100 a stall of 0.15 s would miss the SLO. -rN: the short summary would repeat the message.
    result = pytester.runpytest_subprocess("--comfyload-time-scale=40", "-rN", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=2)
    result.stdout.re_match_lines_random(
        [
            r"comfyload: .*total_time\.p95 < 15.*",
            r"SLO violated: capacity \d+ users > 1000 users \(n=\d+\)",
            r"  capacity > 1000 users .*FAIL",
            r"slo: 'total_time < 15' cannot be parsed; write .*",
        ]
    )
