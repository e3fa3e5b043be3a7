"""Successive sessions of the real plugin in a real repository; `python -m tests.benchmarks.stories` prints them."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.stories import Studio, nightly


def test_a_nightly_series_fails_in_the_night_of_the_change_and_names_it(tmp_path: Path) -> None:
    first, _, _, slower, after, accepted = nightly(Studio(tmp_path / "studio"), nights=6, change=4)
    assert (first.verdict, first.status) == ("recording", 0)
    assert (slower.verdict, slower.status) == ("regressed", 1)
    assert "(3 runs)" in slower.lines[0]
    assert slower.lines[0].endswith("changed: ComfyUI 0.3.75 → 0.3.76.")
    assert (after.verdict, after.status) == ("unchanged", 0)
    assert after.lines[0].endswith("1 session ago, not accepted. Changed then: ComfyUI 0.3.75 → 0.3.76.")
    assert (accepted.verdict, accepted.status) == ("unchanged", 0)
    assert "not accepted" not in accepted.lines[0]
